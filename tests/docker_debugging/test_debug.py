import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoModelForImageClassification

import build_dataset
import containers
import debug
from paths import ROOT
from stand_ins.docker_client import put_gpus

# Many runs, each of which imports torch three times.
pytestmark = pytest.mark.timeout(900)

ENTRY = ROOT / "docker_debugging" / "debug.py"
TINY = ["--config_name", "vit_demo", "--per_device_train_batch_size", "16", "--bf16", "false"]
TINY += ["--logging_steps", "1", "--checkpoint_minutes", "1e-9", "--num_train_epochs", "2"]


def test_the_scripts_exit_code_is_read_from_what_the_toolkit_and_torchrun_report() -> None:
    plain = 'ExecuteUserScriptError:\nExitCode 7\nErrorMessage "ValueError: no"\nCommand "python"'
    torchrun = (
        'ExecuteUserScriptError:\nExitCode 1\nErrorMessage " rank : 0\n exitcode  : 7 (pid: 1)'
    )
    assert debug.exit_code(1, plain) == 7
    assert debug.exit_code(1, torchrun) == 7
    assert debug.exit_code(1, "ExecuteUserScriptError:\nExitCode -9") == 137
    assert debug.exit_code(1, "Framework Error: no such module") == 1
    assert debug.exit_code(137, "") == 137
    assert debug.exit_code(0, "") == 0


@pytest.fixture
def three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(tmp_path, *3 * ["NVIDIA L4"])
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_without_docker_a_run_sees_no_more_gpus_than_a_job(
    three_gpus: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert debug.visible_gpus(1) == {"CUDA_VISIBLE_DEVICES": "0"}
    assert debug.visible_gpus(0) == {"CUDA_VISIBLE_DEVICES": ""}
    assert debug.visible_gpus(4) == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert debug.visible_gpus(1) == {}  # the user's choice is passed on
    request = {"ResourceConfig": {"InstanceType": "ml.g5.12xlarge"}}
    assert debug.gpus_of(request) == 4
    assert capsys.readouterr().err == "ml.g5.12xlarge has 4 GPUs, this machine 3\n"


@pytest.mark.parametrize(("flag", "does"), [("true", True), ("false", False), (None, False)])
def test_a_job_of_several_processes_is_told_by_its_hyperparameters(
    flag: str | None, does: bool
) -> None:
    flags = {} if flag is None else {"sagemaker_torch_distributed_enabled": flag}
    assert debug.runs_torchrun({"HyperParameters": flags}) is does


def refusal(*flags: str) -> str:
    """Return the one line with which debug.py refuses its flags."""
    result = subprocess.run(
        [sys.executable, ENTRY, *flags], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def test_help_needs_nothing_that_is_installed() -> None:
    isolated = [getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-c"]
    program = f"import sys, runpy; sys.path.insert(0, {str(ENTRY.parent)!r}); "
    program += (
        f"sys.argv = ['debug.py', '--help']; runpy.run_path({str(ENTRY)!r}, None, '__main__')"
    )
    result = subprocess.run([*isolated, program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--no_docker" in result.stdout


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    assert "holds something else" in refusal("--no_docker", "--output_dir", str(tmp_path))


@pytest.mark.parametrize("port", ["0", "65536", "ssh"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert "--debugpy" in refusal("--debugpy", port)


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    dataset = tmp_path / "bins"
    dataset.mkdir()
    (dataset / "README.md").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        place = ["--output_dir", str(tmp_path / "run"), "--dataset", str(dataset)]
        assert "is taken" in refusal("--debugpy", port, "--no_docker", *place)


def test_train_py_alone_waits_for_an_ide() -> None:
    namespace: dict[str, Any] = {}
    exec(compile((containers.DEBUGGER / "sitecustomize.py").read_text(), "", "exec"), namespace)
    script: Callable[[list[str]], str] = namespace["script"]
    assert script(["/venv/bin/python", "--", "train.py", "--seed", "1"]) == "train.py"
    assert script(["/venv/bin/python", "-u", "train.py", "--seed", "1"]) == "train.py"
    assert script(["python", "/venv/bin/torchrun", "--nnodes", "1", "train.py"]) != "train.py"
    assert script(["python", "-m", "pip", "install"]) != "train.py"


def test_without_a_dataset_one_line_says_how_to_build_it(tmp_path: Path) -> None:
    place = ["--output_dir", str(tmp_path / "run"), "--dataset", str(tmp_path / "none")]
    assert "data_prep/build_dataset.py" in refusal("--no_docker", *place)


@pytest.mark.slow
def test_flags_that_do_not_fit_are_refused_before_anything_is_written(
    tmp_path: Path, dataset_dir: Path
) -> None:
    place = ["--output_dir", str(tmp_path / "run"), "--dataset", str(dataset_dir)]
    assert "--base_image" in refusal("--no_docker", *place, "--base_image", "python:3.12")
    flags = ["--config_name", "vit_demo", "--learning_rte", "1"]
    assert "--learning_rte" in refusal("--no_docker", *place, *flags)  # the launcher's own words
    assert not (tmp_path / "run").exists()


Starter = Callable[..., "Debug"]


class Debug:
    """debug.py in an environment that sets nothing."""

    def __init__(self, output_dir: Path, dataset_dir: Path, *flags: str) -> None:
        self.output_dir = output_dir
        self.place = ["--output_dir", str(output_dir), "--dataset", str(dataset_dir)]
        self.log_file = output_dir.with_suffix(".log")
        command = [sys.executable, str(ENTRY), "--no_docker", *self.place]
        environment = {"HOME": str(output_dir), "PATH": os.defpath, "HF_HUB_OFFLINE": "1"}
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *TINY, *flags],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
                # A shell that starts the tests in the background would have it ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def log(self) -> str:
        """What has been printed so far."""
        return self.log_file.read_text()

    def wait(self) -> int:
        """Return the exit code."""
        return self.process.wait()

    def wait_for(self, text: str) -> None:
        """Return when the log holds a text. Raises: AssertionError: the run ends without it."""
        has_ended = False
        while text not in self.log:
            assert not has_ended, self.log
            has_ended = self.process.poll() is not None  # before the log is read once more
            time.sleep(0.02)

    def left(self) -> list[psutil.Process]:
        """Return the processes that the run has started and that still run."""
        return [
            process
            for process in psutil.process_iter()
            if started_by(process, self.output_dir) and process.pid != self.process.pid
        ]

    def kill(self) -> None:
        """Kill all of it, as a machine that goes."""
        for process in [psutil.Process(self.process.pid), *self.left()]:
            process.kill()
        self.process.wait()

    def weights(self) -> bytes:
        return (self.output_dir / "model" / "model.safetensors").read_bytes()


def started_by(process: psutil.Process, output_dir: Path) -> bool:
    """Say whether a process runs for a run folder, however it was started."""
    try:
        is_ours = process.environ().get("SAGEMAKER_BASE_DIR") == str(output_dir)
        return is_ours and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def demo_dataset(bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of 64-pixel photos, which the demo's model takes."""
    folder = tmp_path_factory.mktemp("demo") / "bins"
    build_dataset.main(
        ["--source", str(bucket), "--output_dir", str(folder), "--image_size", "64"]
        + ["--num_workers", "1"]
    )
    return folder


@pytest.fixture(scope="module")
def start(demo_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Return a function that starts debug.py; what still runs is stopped at the end."""
    runs: list[Debug] = []

    def start_debug(*flags: str, folder: Path | None = None, dataset: Path = demo_dataset) -> Debug:
        output_dir = folder or tmp_path_factory.mktemp("runs") / "debug"
        runs.append(Debug(output_dir, dataset, *flags))
        return runs[-1]

    yield start_debug
    for run in runs:
        if run.process.poll() is None or run.left():
            run.kill()


@pytest.fixture(scope="module")
def undisturbed(start: Starter) -> Debug:
    """Return a run that nothing disturbed."""
    run = start()
    assert run.wait() == 0, run.log
    return run


@pytest.mark.slow
def test_a_job_runs_without_docker_and_shows_its_memory(undisturbed: Debug) -> None:
    for moment in ("start", "model_loaded", "end"):
        assert re.search(rf"memory at={moment} process=\d+", undisturbed.log)
    folder = undisturbed.output_dir
    AutoModelForImageClassification.from_pretrained(folder / "model")
    assert (folder / "output" / "data" / "all_results.json").exists()
    assert f"Model: {folder / 'model'}" in undisturbed.log
    assert "python sagemaker_jobs/vit.py --config_name vit_demo" in undisturbed.log
    assert undisturbed.left() == []


@pytest.mark.slow
def test_a_failing_script_gives_its_own_exit_code_and_its_message(
    dataset_dir: Path, start: Starter
) -> None:
    run = start(dataset=dataset_dir)  # photos that are too small for the model
    assert run.wait() == 2, run.log  # where the toolkit's own is 1
    failure = run.output_dir / "output" / "failure"
    assert "ValueError: The model takes photos of 64 pixels" in failure.read_text()
    assert f"Failure: {failure}" in run.log
    assert run.left() == []


@pytest.mark.slow
def test_whatever_stops_a_run_leaves_nothing_behind(start: Starter) -> None:
    # So many epochs that it cannot have ended by itself.
    run = start("--num_train_epochs", "100000")
    run.wait_for("metrics split=train step=2 ")
    assert len(run.left()) >= 2  # the toolkit and the script
    assert "a run is going on there" in refusal("--no_docker", *run.place)
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130
    assert run.left() == []
    assert "Stopped. The same command goes on" in run.log.splitlines()[-1]
    assert "Traceback" not in run.log

    # Another seed, which the checkpoints of the first run would refuse.
    flags = ["--num_train_epochs", "100000", "--fresh", "--seed", "7"]
    run = start(*flags, folder=run.output_dir)
    run.wait_for("metrics split=train step=1 ")
    assert "Going on from" not in run.log
    run.process.send_signal(signal.SIGHUP)  # the terminal is closed
    assert run.wait() == 128 + signal.SIGHUP
    assert run.left() == []


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(undisturbed: Debug, start: Starter) -> None:
    killed = start()
    killed.wait_for("metrics split=train step=5 ")
    killed.kill()
    again = start(folder=killed.output_dir)
    assert again.wait() == 0, again.log
    assert "Going on from" in again.log
    assert again.weights() == undisturbed.weights()


@pytest.mark.slow
def test_a_shell_in_the_layout_runs_the_job(start: Starter) -> None:
    run = start("--shell")
    run.process.communicate(
        b"pwd; ls ../input/config; python -c 'import sagemaker_training'; exit 3\n"
    )
    assert run.wait() == 3, run.log
    assert str(run.output_dir / "code") in run.log
    assert "hyperparameters.json" in run.log
    assert "Error" not in run.log


@pytest.mark.slow
def test_an_ide_attaches_and_the_run_goes_on(start: Starter) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = start("--debugpy", str(port))
    run.wait_for(f"Waiting for an IDE: attach debugpy to 127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        reader = connection.makefile("rb")
        send(connection, 1, "initialize", {"adapterID": "test"})
        send(connection, 2, "attach", {"justMyCode": True})
        # The adapter answers `attach` when all breakpoints are set, which configurationDone says.
        receive(reader, lambda message: message.get("event") == "initialized")
        assert "memory at=start" not in run.log  # it does wait
        send(connection, 3, "configurationDone", {})
        attached = receive(reader, lambda message: message.get("command") == "attach")
        assert attached["success"], attached
        # An attached debugger makes the imports of torch take a minute.
        send(connection, 4, "disconnect", {"terminateDebuggee": False})
        receive(reader, lambda message: message.get("command") == "disconnect")
    assert run.wait() == 0, run.log
    assert run.left() == []


def send(connection: socket.socket, number: int, command: str, arguments: dict[str, Any]) -> None:
    """Send a request of the Debug Adapter Protocol."""
    message = {"seq": number, "type": "request", "command": command, "arguments": arguments}
    body = json.dumps(message).encode()
    connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


def receive(reader: BufferedReader, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the first message of the Debug Adapter Protocol that is wanted."""
    while header := reader.readline():
        reader.readline()
        message: dict[str, Any] = json.loads(reader.read(int(header.split(b":")[1])))
        if is_wanted(message):
            return message
    raise AssertionError("the debugger hung up")
