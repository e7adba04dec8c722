"""Trainings that are killed at random moments end with the weights of one that was left alone."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from paths import ROOT
from training.checkpoints import COMPLETE, checkpoint_folders, checkpoint_to_resume

NUM_RUNS = 10  # each killed twice, and resumed twice
FULL_RECIPE = ["--loss", "soft_labels", "--class_weights", "balanced", "--regularize", "true"]
FULL_RECIPE += ["--augment_geometry", "true", "--augment_colour", "true", "--mixup", "true"]
FULL_RECIPE += ["--calibrate", "true", "--learn_items", "true"]


class Trainings:
    """Starts trainings of one dataset and config, and kills them when it is asked to."""

    def __init__(self, server: subprocess.Popen[str], flags: list[str]) -> None:
        self.server, self.flags = server, flags

    def run(
        self, run_dir: Path, seconds: float | None = None, change: int | None = None
    ) -> dict[str, Any]:
        """Return how a training ended that was killed after these seconds or at this change."""
        request = {
            "argv": [*self.flags, "--output_dir", str(run_dir)],
            "log": str(run_dir) + ".log",
            "checkpoints_of": str(run_dir),
            "seconds": seconds,
            "change": change,
        }
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="module")
def trainings(dataset_dir: Path, config_dir: Path) -> Iterator[Trainings]:
    """Return what trains with all that a checkpoint has to hold, in three epochs of many steps."""
    flags = ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
    flags += ["--num_train_epochs", "3", "--per_device_train_batch_size", "4", *FULL_RECIPE]
    flags += ["--learning_rate", "1e-3", "--disable_tqdm", "true", "--logging_steps", "1"]
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "killed_trainings.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A fork has no other threads than the one that made it.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    yield Trainings(server, flags)
    assert server.stdin is not None
    server.stdin.close()
    assert server.wait(60) == 0


@pytest.fixture(scope="module")
def undisturbed(
    trainings: Trainings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a training that was left alone, and how it ended."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = trainings.run(run_dir)
    assert ended["status"] == 0, run_dir.with_suffix(".log").read_text()
    return run_dir, ended


def weights(run_dir: Path) -> dict[str, bytes]:
    files = sorted((run_dir / "model").glob("*.safetensors"))
    assert [path.stem for path in files] == ["change_head", "item_heads", "model"]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_that_is_killed_at_random_moments_ends_with_the_same_weights(
    trainings: Trainings, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    undisturbed_dir, ended = undisturbed
    moments = random.Random(7)
    num_kills = num_from_a_checkpoint = 0
    for index in range(NUM_RUNS):
        run_dir = tmp_path / f"run-{index}"
        while num_kills < 2 * (index + 1):
            killed = trainings.run(run_dir, seconds=moments.uniform(0.3, 0.95) * ended["seconds"])
            if killed["status"] == 0:  # it was faster than the clock: it has nothing to go on from
                shutil.rmtree(run_dir)
                continue
            assert killed["status"] == -signal.SIGALRM
            num_kills += 1
        assert trainings.run(run_dir)["status"] == 0
        assert weights(run_dir) == weights(undisturbed_dir)
        num_from_a_checkpoint += "Going on from" in Path(f"{run_dir}.log").read_text()
    assert num_kills == 2 * NUM_RUNS
    assert num_from_a_checkpoint > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_that_is_killed_while_it_writes_checkpoints_ends_with_the_same_weights(
    trainings: Trainings, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    undisturbed_dir, ended = undisturbed
    # The first epoch's checkpoint, the second's, the third's with the removal of an older one.
    moments = random.Random(8)
    num_left_incomplete = 0
    for change in moments.sample(range(1, ended["changes"] + 1), NUM_RUNS):
        run_dir = tmp_path / f"change-{change}"
        assert trainings.run(run_dir, change=change)["status"] == -signal.SIGKILL
        newest = checkpoint_folders(run_dir)
        num_left_incomplete += bool(newest) and not (newest[0] / COMPLETE).exists()
        again = trainings.run(run_dir, seconds=moments.uniform(0.3, 0.95) * ended["seconds"])
        assert again["status"] in (0, -signal.SIGALRM)
        assert trainings.run(run_dir)["status"] == 0
        assert weights(run_dir) == weights(undisturbed_dir)
        assert len(checkpoint_folders(run_dir)) <= 3
    assert num_left_incomplete >= 3


@pytest.mark.slow
def test_a_training_that_is_ended_killed_and_gone_on_ends_where_one_left_alone_ran_out_of_patience(
    trainings: Trainings, tmp_path: Path
) -> None:
    flags = [*trainings.flags, "--num_train_epochs", "6", "--early_stopping_patience", "2"]
    # The loss falls, so that the first epoch stays the best one, and the third is the last.
    flags += ["--greater_is_better", "true", "--load_best_model_at_end", "false"]
    patient = Trainings(trainings.server, flags)
    assert patient.run(tmp_path / "undisturbed")["status"] == 0
    assert "ended step=135 epoch=3" in (tmp_path / "undisturbed.log").read_text()
    run_dir = tmp_path / "run"
    in_no_time = Trainings(trainings.server, [*flags, "--max_hours", "1e-9"])
    for _ in range(2):  # the second one takes no step
        assert in_no_time.run(run_dir)["status"] == 0
        assert [path.name for path in checkpoint_folders(run_dir)] == ["checkpoint-45"]
    in_time = Trainings(trainings.server, [*flags, "--max_hours", "1"])
    assert in_time.run(run_dir, change=3)["status"] == -signal.SIGKILL  # in the second checkpoint
    assert in_time.run(run_dir)["status"] == 0
    log = Path(f"{run_dir}.log").read_text()
    assert re.findall(r"ended step=(\d+) epoch=\d by=(\w+)", log) == [
        *[("45", "max_hours")] * 2,
        ("135", "early_stopping_patience"),
    ]
    assert weights(run_dir) == weights(tmp_path / "undisturbed")
    for name in ("trained_weights.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        ended = [tmp_path / folder / "checkpoint-135" / name for folder in ("run", "undisturbed")]
        assert ended[0].read_bytes() == ended[1].read_bytes()


@pytest.mark.slow
def test_each_file_of_the_newest_checkpoint_may_be_damaged_and_the_one_before_it_is_taken(
    trainings: Trainings,
    undisturbed: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    undisturbed_dir, _ = undisturbed
    newest, before = checkpoint_folders(undisturbed_dir)[:2]
    names = sorted(path.name for path in newest.iterdir())
    assert {"model.safetensors", "trained_weights.safetensors", "optimizer.pt"} < set(names)
    assert {"scheduler.pt", "rng_state.pth", "trainer_state.json", COMPLETE} < set(names)
    for name in names:
        content = (newest / name).read_bytes()
        zeros = content[: len(content) // 2].ljust(len(content), b"\0")
        for damaged in (None, content[: len(content) // 2], b"", zeros):
            (newest / name).unlink()
            if damaged is not None:
                (newest / name).write_bytes(damaged)
            assert checkpoint_to_resume(undisturbed_dir, None, True) == str(before)
            message = capsys.readouterr().err
            assert re.fullmatch(rf"{newest} is passed over \(.*{name}.*\)\.\n", message)
            (newest / name).write_bytes(content)
        assert checkpoint_to_resume(undisturbed_dir, None, True) == str(newest)
    # And once to the end.
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed_dir, run_dir)
    shutil.rmtree(run_dir / "model")
    half_zeros = checkpoint_folders(run_dir)[0] / "optimizer.pt"
    length = half_zeros.stat().st_size
    os.truncate(half_zeros, length // 2)
    os.truncate(half_zeros, length)
    assert trainings.run(run_dir)["status"] == 0
    log = Path(f"{run_dir}.log").read_text()
    assert f"{newest.name} is passed over (optimizer.pt is damaged: it does not match" in log
    assert f"Going on from {run_dir / before.name}." in log
    assert weights(run_dir) == weights(undisturbed_dir)


@pytest.mark.slow
def test_the_two_newest_checkpoints_and_the_best_one_are_kept(
    undisturbed: tuple[Path, dict[str, Any]],
) -> None:
    run_dir, _ = undisturbed
    newest = checkpoint_folders(run_dir)
    state = json.loads((newest[0] / "trainer_state.json").read_text())
    kept = {int(path.name.rpartition("-")[2]) for path in newest}
    assert kept >= {state["global_step"], state["best_global_step"]}


# ---- Several processes, on one machine and on two


TINY_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}


class Machine:
    """One of the machines of a job, here on loopback, with a disk of its own.

    Args:
        run_dir: OUTPUT_DIR, on that disk.
        rank: of the machine.
        shape: how many machines there are, and how many processes on each.
    """

    def __init__(
        self, run_dir: Path, flags: list[str], port: int, rank: int, shape: tuple[int, int]
    ):
        self.log = Path(f"{run_dir}.log")
        command = [sys.executable, "-m", "torch.distributed.run", "--master_addr", "127.0.0.1"]
        command += ["--master_port", str(port), "--node_rank", str(rank)]
        command += ["--nnodes", str(shape[0]), "--nproc_per_node", str(shape[1])]
        command += [str(ROOT / "scripts" / "train.py"), *flags, "--output_dir", str(run_dir)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            )

    def kill(self) -> None:
        """Kill torchrun and what it started, which has process groups of its own."""
        launcher = psutil.Process(self.process.pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def train_together(
    run_dirs: list[Path], flags: list[str], processes: int = 1, until: Path | None = None
) -> str:
    """Train on as many machines as there are folders, and return the first one's log.

    Args:
        processes: of each machine.
        until: all are killed when this file is there.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shape = (len(run_dirs), processes)
    machines = [Machine(run_dir, flags, port, rank, shape) for rank, run_dir in enumerate(run_dirs)]
    try:
        while until is not None and not until.exists():
            assert all(machine.process.poll() is None for machine in machines), machines[0].log
            time.sleep(0.01)
        if until is None:
            for machine in machines:
                assert machine.process.wait(200) == 0, machine.log.read_text()
    finally:
        for machine in machines:
            if machine.process.poll() is None:
                machine.kill()
    return machines[0].log.read_text()


@pytest.fixture(scope="module", params=["vit", "resnet"])
def together(
    request: pytest.FixtureRequest,
    dataset_dir: Path,
    config_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[str], Path]:
    """Return the flags of a training on two processes, and its folder when it was left alone."""
    if request.param == "resnet":
        config_dir = tmp_path_factory.mktemp("config")
        (config_dir / "config.json").write_text(json.dumps(TINY_RESNET))
    flags = ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
    flags += ["--num_train_epochs", "3", "--per_device_train_batch_size", "8", *FULL_RECIPE]
    flags += ["--learning_rate", "1e-3", "--disable_tqdm", "true", "--save_total_limit", "9"]
    # Of 12 steps an epoch: a run that goes on skips some of the photos of one.
    for what in ("eval", "save"):
        flags += [f"--{what}_strategy", "steps", f"--{what}_steps", "17"]
    run_dir = tmp_path_factory.mktemp("together") / "run"
    train_together([run_dir], flags, processes=2)
    assert len(checkpoint_folders(run_dir)) == 3
    return flags, run_dir


@pytest.mark.slow
def test_two_processes_go_on_to_the_same_weights(
    together: tuple[list[str], Path], tmp_path: Path
) -> None:
    flags, undisturbed_dir = together
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed_dir, run_dir)
    shutil.rmtree(run_dir / "model")
    for checkpoint in checkpoint_folders(run_dir)[:2]:
        shutil.rmtree(checkpoint)
    log = train_together([run_dir], flags, processes=2)
    assert f"Going on from {checkpoint_folders(run_dir)[-1]}." in log
    assert weights(run_dir) == weights(undisturbed_dir)
    for name in ("optimizer.pt", "rng_state_0.pth", "rng_state_1.pth"):
        ended = [checkpoint_folders(folder)[0] / name for folder in (run_dir, undisturbed_dir)]
        assert ended[0].read_bytes() == ended[1].read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("together", ["vit"], indirect=True)
def test_two_processes_end_together_for_want_of_time_and_go_on(
    together: tuple[list[str], Path], tmp_path: Path
) -> None:
    flags, undisturbed_dir = together
    run_dir = tmp_path / "run"
    log = train_together([run_dir], [*flags, "--max_hours", "1e-9"], processes=2)
    assert log.count("ended step=17") == 1
    assert [path.name for path in checkpoint_folders(run_dir)] == ["checkpoint-17"]
    train_together([run_dir], [*flags, "--early_stopping_patience", "9"], processes=2)
    assert weights(run_dir) == weights(undisturbed_dir)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("together", ["vit"], indirect=True)
def test_two_machines_go_on_from_one_folder_in_s3_in_whatever_order_they_wrote_to_it(
    together: tuple[list[str], Path], tmp_path: Path
) -> None:
    flags, undisturbed_dir = together
    steps = sorted(int(path.name[11:]) for path in checkpoint_folders(undisturbed_dir))
    disks = [tmp_path / "algo-1", tmp_path / "algo-2"]
    train_together(disks, flags, until=disks[0] / f"checkpoint-{steps[1]}" / COMPLETE)
    # What each of them uploads; a file of both would be one of either in S3.
    uploads = [
        {path.relative_to(disk): path.read_bytes() for path in disk.rglob("*") if path.is_file()}
        for disk in disks
    ]
    assert f"checkpoint-{steps[1]}/{COMPLETE}" in {str(path) for path in uploads[0]}
    assert not uploads[0].keys() & uploads[1].keys()
    in_s3 = uploads[0] | uploads[1]

    def bring(disk: Path, without: str | None) -> None:
        """Bring to a new disk what is in S3, but for one file of the newest checkpoint."""
        shutil.rmtree(disk, ignore_errors=True)
        for path, content in in_s3.items():
            if path != Path(f"checkpoint-{steps[1]}", str(without)):
                (disk / path).parent.mkdir(parents=True, exist_ok=True)
                (disk / path).write_bytes(content)

    # Cut while it was uploaded; and whole, with a second machine that keeps its own empty disk.
    for without in ("rng_state_1.pth", None):
        for disk in disks:
            bring(disk, without)
        if without is None:
            shutil.rmtree(disks[1])
        log = train_together(disks, flags)
        step = steps[1] if without is None else steps[0]
        assert f"Going on from {disks[0]}/checkpoint-{step}." in log
        assert ("is passed over (rng_state_1.pth is missing)" in log) == (without is not None)
        assert weights(disks[0]) == weights(undisturbed_dir)
