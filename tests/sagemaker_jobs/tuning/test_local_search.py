"""A search on this machine, with train.py itself; what is killed is killed for good."""

import csv
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import tune
from jobs.search_space import SearchSpace
from launching.tuned_hyperparameters import Trial
from paths import ROOT
from tuning.local_search import (
    LocalSearch,
    _running,
    _values_by_epoch,
    run_search,
    train_command,
)

TUNE = str(ROOT / "sagemaker_jobs" / "tune.py")
# Long for what must happen, so that nothing depends on a machine's speed.
DEADLINE = 240

LOG = """
metrics split=train step=3 epoch=1 loss=1.5
metrics split=validation step=3 epoch=1 loss=1.4 accuracy=0.3
{'eval_loss': '1.4', 'eval_accuracy': '0.3', 'epoch': '1'}
Going on from trial-1/checkpoint-3.
metrics split=validation step=6 epoch=2 loss=1.3 accuracy=0.35
metrics split=validation step=9 epoch=3 loss=1.6 accuracy=0.2
metrics split=validation step=9 epoch=3 loss=1.3 accuracy=0.35
metrics split=validation step=9 epoch=4 loss=1.2"""


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Wait, but not for what cannot come any more: the end of a process ends the wait too."""
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        if process is not None and process.poll() is not None:
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def holds(path: Path, text: str) -> bool:
    return path.exists() and text in path.read_text()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Return a function that starts a command; what it started ends with the test."""
    started: list[subprocess.Popen] = []

    def run(*command: str) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_the_first_figure_of_an_epoch_counts_and_an_unfinished_line_does_not(
    tmp_path: Path,
) -> None:
    log = tmp_path / "train.log"
    log.write_text(LOG)
    assert _values_by_epoch("eval_loss", log) == {1: 1.4, 2: 1.3, 3: 1.6}
    assert _values_by_epoch("eval_accuracy", log) == {1: 0.3, 2: 0.35, 3: 0.2}


def test_a_trial_dies_with_the_search_even_if_that_is_killed(
    tmp_path: Path, start: Callable[..., subprocess.Popen]
) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tuning.local_search import _running\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        f"with _running(sleep, Path({str(tmp_path / 'log')!r})) as process:\n"
        "    print(process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    path = str(ROOT / "sagemaker_jobs")
    parent = start(sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}")
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    wait_until(lambda: not is_alive(child))


def test_a_trial_ends_with_its_block_and_so_do_its_children(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with _running([sys.executable, "-c", code], log):
        wait_until(lambda: holds(log, "\n"))
        child = int(log.read_text())
        assert is_alive(child)
    wait_until(lambda: not is_alive(child))


@pytest.mark.parametrize(("chosen", "seen"), [(None, "0"), ("1", "1")])
def test_a_trial_and_the_command_for_the_best_take_one_gpu(
    chosen: str | None, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    program = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    with _running([sys.executable, "-c", program], tmp_path / "log") as process:
        process.wait()
    assert (tmp_path / "log").read_text() == f"{seen}\n"
    search = LocalSearch({}, SearchSpace((1e-3, 1e-2), (4, 8), (1, 2)), tmp_path, "eval_loss", True)
    trial = Trial("trial-1", "Completed", 1.0, 1e-3, 4, 1, "")
    command = train_command(search, trial, tmp_path / "best")
    assert command.startswith("python " if chosen else "CUDA_VISIBLE_DEVICES=0 python ")


@pytest.mark.parametrize("ending", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_a_search_ends_the_children_of_its_trial(
    ending: signal.Signals, tmp_path: Path, start: Callable[..., subprocess.Popen]
) -> None:
    log = tmp_path / "log"
    trial = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    search = (
        "import signal, sys, time; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal\n"
        f"sys.path.insert(0, {str(ROOT / 'sagemaker_jobs')!r})\n"
        "from aws.entry_parser import EntryParser; from tuning.local_search import _running\n"
        "with EntryParser(None).errors_of_one_line():\n"
        f"    with _running([sys.executable, '-c', {trial!r}], Path({str(log)!r})):\n"
        "        while True: time.sleep(0.05)\n"
    )
    process = start(sys.executable, "-c", search)
    wait_until(lambda: holds(log, "\n"), process)
    child = int(log.read_text())
    assert is_alive(child)
    process.send_signal(ending)
    assert process.wait(timeout=DEADLINE) == 128 + ending
    wait_until(lambda: not is_alive(child))


def search_flags(dataset_dir: Path, config_dir: Path, folder: Path, *more: str) -> list[str]:
    return [
        *("--local", "--dataset", str(dataset_dir), "--config_name", str(config_dir)),
        *("--output_dir", str(folder), "--bf16", "false"),
        *("--learning_rate_range", "1e-3", "1e-2", "--batch_sizes", "4", "8"),
        *("--epochs_range", "3", "4", *more),
    ]


def test_another_search_in_the_folder_is_refused_and_so_is_one_that_runs(
    dataset_dir: Path, tmp_path: Path
) -> None:
    space = SearchSpace((1e-3, 1e-2), (4, 8), (1, 2))
    search = LocalSearch({"config_name": "a"}, space, dataset_dir, "eval_loss", True)
    assert run_search(search, 0, tmp_path) == []
    assert run_search(search, 0, tmp_path) == []
    other_space = SearchSpace((1e-3, 1e-2), (4, 8), (1, 3))
    for other, name in (
        (LocalSearch({"config_name": "a"}, other_space, dataset_dir, "eval_loss", True), "epochs"),
        (LocalSearch({"config_name": "b"}, space, dataset_dir, "eval_loss", True), "flags"),
        (LocalSearch({"config_name": "a"}, space, dataset_dir, "eval_mae", True), "objective"),
    ):
        with pytest.raises(ValueError, match=rf"holds another search \({name}\w* differ\)"):
            run_search(other, 0, tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="a search is running there"):
            run_search(search, 0, tmp_path)


def test_a_search_lies_in_the_folder_that_is_named_whatever_its_name(
    dataset_dir: Path, tmp_path: Path
) -> None:
    space = SearchSpace((1e-3, 1e-2), (4, 8), (1, 2))
    search = LocalSearch({"config_name": "a"}, space, dataset_dir, "eval_loss", True)
    for name in ("a", "a?b", "a%20b", "a[1]#"):
        assert run_search(search, 0, tmp_path / name) == []
        assert (tmp_path / name / "study.db").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "a?b", "a%20b", "a[1]#"}


def test_a_study_that_cannot_be_read_is_one_line_with_its_cause(
    dataset_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 100)
    space = SearchSpace((1e-3, 1e-2), (4, 8), (1, 2))
    search = LocalSearch({"config_name": "a"}, space, dataset_dir, "eval_loss", True)
    with pytest.raises(ValueError, match=r"study.db cannot be read \(.*file is not a database"):
        run_search(search, 0, tmp_path)


def test_a_folder_without_a_dataset_is_one_line(
    tmp_path: Path, config_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        tune.main(search_flags(tmp_path, config_dir, tmp_path / "tune"))
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no finished dataset here" in line
    assert not (tmp_path / "tune").exists()


@pytest.mark.slow
def test_if_every_trial_fails_the_reason_is_told(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "no-model"
    flags = search_flags(dataset_dir, missing, tmp_path / "tune", "--max_jobs", "2")
    with pytest.raises(SystemExit) as exit_info:
        tune.main(flags)
    assert exit_info.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "No trial has succeeded: exit code 2: train.py: error: " in output.err
    with (tmp_path / "tune" / "trials.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["status"] for row in rows] == ["Failed", "Failed"]
    assert "no-model" in rows[1]["reason"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_that_is_killed_at_any_moment_ends_in_the_same_table(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, start: Callable[..., subprocess.Popen]
) -> None:
    def search(name: str) -> list[str]:
        # Trials 5 and 6 are judged by those before them.
        flags = ("--max_jobs", "6", "--logging_steps", "1", "--max_train_samples", "48")
        return [
            sys.executable,
            TUNE,
            *search_flags(dataset_dir, config_dir, tmp_path / name, *flags),
        ]

    whole = start(*search("whole"))
    output, errors = whole.communicate(timeout=DEADLINE * 2)
    assert whole.returncode == 0, errors
    table = (tmp_path / "whole" / "trials.csv").read_text()

    killed = tmp_path / "killed"
    # Each moment is one that every machine reaches; what is then finished may differ, and may.
    for moment in (
        lambda: killed.exists(),
        lambda: holds(killed / "trial-1" / "train.log", "metrics split=train"),
        lambda: holds(killed / "trial-2" / "train.log", "metrics split=validation"),
        lambda: holds(killed / "trial-4" / "train.log", "metrics split=train"),
        lambda: (killed / "trial-5").exists(),
    ):
        process = start(*search("killed"))
        wait_until(moment, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    untouched = {path: path.stat().st_mtime_ns for path in killed.glob("trial-[123]/train.log")}
    assert len(untouched) == 3
    final = start(*search("killed"))
    output, errors = final.communicate(timeout=DEADLINE * 2)
    assert final.returncode == 0, errors
    assert (killed / "trials.csv").read_text() == table
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert (killed / "trials.png").exists()

    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == 6
    assert {row["status"] for row in rows} <= {"Completed", "Stopped"}
    best = min(
        (row for row in rows if row["status"] == "Completed"),
        key=lambda row: float(row["eval_loss"]),
    )
    line = output.splitlines()[-1].removeprefix("CUDA_VISIBLE_DEVICES=0 ")
    command = shlex.split(line)
    assert command[command.index("--learning_rate") + 1] == best["learning_rate"]
    retrained = start(sys.executable, *command[1:])
    printed, errors = retrained.communicate(timeout=DEADLINE)
    assert retrained.returncode == 0, errors
    assert "split=validation step=" in printed
    assert f"loss={best['eval_loss']} " in printed
    assert "metrics split=test" in printed
    for log in killed.glob("trial-*/train.log"):
        assert "split=test" not in log.read_text()
