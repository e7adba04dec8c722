"""Runs in real containers: what debug.py promises, and the SDK's local mode on the same image."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import build_dataset
import doctor
import image
import layout
from containers import container_name
from paths import ROOT
from stand_ins import docker_host
from tiny_model import TINY_VIT

# The first one may install Docker and make the stand-in for the training container.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]

# Three epochs of four steps, on photos and a model of 32 pixels.
TINY_RUN = ["--config_name", "tiny", "--bf16", "false", "--learning_rate", "1e-3"]
TINY_RUN += ["--max_train_samples", "64", "--per_device_train_batch_size", "16"]
TINY_RUN += ["--num_train_epochs", "3"]
# Into TimedCheckpoints.on_step_end, which runs after each step: stays in the middle of the second
# epoch until it is killed, and says so. The file tells a run that goes on from one that starts.
PAUSE = """
        if state.global_step == 6 and not (paused := Path(args.output_dir) / "paused").exists():
            paused.touch()
            print("in the middle of an epoch", flush=True)
            time.sleep(10**6)
"""


# The launcher asks train.py whether its flags are good; then the job fails.
FAILING_SCRIPT = """
import sys

if "--dry_run" not in sys.argv:
    print("ValueError: no bins left", file=sys.stderr)
    sys.exit(7)
"""


@pytest.fixture(scope="session")
def daemon() -> Iterator[None]:
    with docker_host.running_docker():
        yield
        # Or the next run of this machine's owner would stand on the stand-in.
        subprocess.run(image.docker("rmi", "--force", image.IMAGE), check=False)


@pytest.fixture(scope="session")
def base_image(daemon: None) -> str:
    return docker_host.base_image()


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: None) -> Iterator[None]:
    before = containers()
    yield
    assert containers() <= before


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project whose scripts hold a tiny model."""
    return copied_project(tmp_path_factory.mktemp("project"))


def copied_project(folder: Path) -> Path:
    """Copy the folders that a local run needs, so that a test may change the scripts."""
    for name in ("scripts", "sagemaker_jobs", "docker_debugging"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / ".dockerignore", folder)
    config = folder / "scripts" / "model_configs" / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(TINY_VIT))
    return folder


def pause_in_mid_epoch(project: Path) -> None:
    """Let a copied project's training stop in the middle of its second epoch, once."""
    path = project / "scripts" / "training" / "checkpoints.py"
    head, on_step_end, body = path.read_text().partition(
        '"""Ask for a checkpoint when it is time."""'
    )
    assert on_step_end
    path.write_text(f"from pathlib import Path\n{head}{on_step_end}{PAUSE}{body}")


def containers() -> set[str]:
    """Return the ids of all containers, running or not."""
    return set(image.output_of(image.docker("ps", "--quiet", "--all")).split())


def remove_containers(*names: str) -> None:
    """Stop and remove containers."""
    subprocess.run(image.docker("rm", "--force", *names), check=False, capture_output=True)


def debug_command(project: Path, output: Path, dataset_dir: Path, base_image: str) -> list[str]:
    """Return the command of a tiny run in Docker."""
    entry = str(project / "docker_debugging" / "debug.py")
    flags = ["--dataset", str(dataset_dir), "--output_dir", str(output)]
    return [sys.executable, entry, *flags, "--base_image", base_image, *TINY_RUN]


def clean_environment() -> dict[str, str]:
    """Return this environment without AWS credentials and without a number of threads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name != "OMP_NUM_THREADS"
    }
    no_settings = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    return kept | no_settings | {"AWS_EC2_METADATA_DISABLED": "true"}


def run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False, cwd=cwd
    )


@contextlib.contextmanager
def started(command: list[str], line: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a command, go on when it has printed a line, and stop it in the end in any case."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            env=clean_environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            # A shell that starts the tests in the background would have it ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    try:
        has_ended = False
        while line not in log.read_text():
            assert not has_ended, f"it ended before it printed {line!r}:\n{log.read_text()}"
            has_ended = process.poll() is not None  # before the log is read once more
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output_dir = Path(command[command.index("--output_dir") + 1])
        remove_containers(container_name(output_dir))


def weights_of(model_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(model_dir / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    expected = weights_of(one)
    found = weights_of(other)
    assert expected.keys() == found.keys()
    differing = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert not differing


def findings_of_doctor(*flags: str) -> tuple[int, dict[str, doctor.Finding]]:
    """Return doctor's exit code and its findings, without AWS credentials."""
    entry = str(ROOT / "docker_debugging" / "doctor.py")
    result = run([sys.executable, entry, "--json", *flags])
    findings = [doctor.Finding(**finding) for finding in json.loads(result.stdout)]
    return result.returncode, {finding.check: finding for finding in findings}


def test_doctor_finds_a_daemon_that_can_make_runs(base_image: str) -> None:
    code, findings = findings_of_doctor("--base_image", base_image)
    assert (code, findings["docker"].state, findings["base image"].state) == (0, "ok", "ok")
    assert f"{base_image} is here" in findings["base image"].found
    assert " GB free in " in findings["disk"].found or "of its own" in findings["disk"].found


def test_doctor_says_how_to_get_the_training_container(daemon: None) -> None:
    nowhere = "000000000000.dkr.ecr.us-east-1.amazonaws.com/no-such-image:1"
    code, findings = findings_of_doctor("--base_image", nowhere)
    assert (code, findings["base image"].state) == (1, "problem")
    assert "aws configure" in findings["base image"].mend


def test_the_image_holds_the_stack_and_the_tools_and_no_code(base_image: str) -> None:
    name = image.ensure_image(base_image)
    check = "import debugpy, pynvml, transformers; print(transformers.__version__)"
    script = f"py-spy --version && python3 -c '{check}' && which train && ! test -e /opt/ml/code"
    # The container's own start script joins what it is given, and hands it to a shell.
    command = image.docker("run", "--rm", "--entrypoint", "sh", name, "-c", script)
    assert run(command).returncode == 0


def test_an_image_that_cannot_be_built_is_told_in_one_line(daemon: None) -> None:
    entry = str(ROOT / "docker_debugging" / "image.py")
    result = run([sys.executable, entry, "--base_image", "127.0.0.1:1/no-such-image"])
    assert result.returncode == 2
    assert "--base_image" in result.stderr.splitlines()[-1]


@pytest.fixture(scope="session")
def whole_run(
    project: Path, base_image: str, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the output folder of a run in a container that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = run(debug_command(project, folder, dataset_dir, base_image))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "memory at=model_loaded" in result.stdout
    # Of the library that the container's start script compiles in its working folder.
    assert "ld.so" not in result.stdout + result.stderr
    return folder


def test_a_container_trains_a_model_that_loads_outside(whole_run: Path, dataset_dir: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(whole_run / "model")
    assert set(model.config.id2label.values()) == {"1", "2", "3", "4", "5"}
    figures = json.loads((whole_run / "output" / "data" / "all_results.json").read_text())
    assert 0 <= figures["test_accuracy"] <= 1


def test_the_submitted_code_is_what_runs(
    base_image: str, dataset_dir: Path, tmp_path: Path
) -> None:
    context = tmp_path / "other_code"
    context.mkdir()
    (context / "train.py").write_text("print('the code in the image ran')\n")
    (context / "Dockerfile").write_text(f"FROM {base_image}\nCOPY train.py /opt/ml/code/\n")
    other = "bin-counting-base:with-code"
    subprocess.run(image.docker("build", "--tag", other, str(context)), check=True)
    project = copied_project(tmp_path / "project")
    script = project / "scripts" / "train.py"
    script.write_text("print('the submitted code ran')\n")
    result = run(debug_command(project, tmp_path / "run", dataset_dir, other))
    assert "the submitted code ran" in result.stdout
    assert "the code in the image ran" not in result.stdout + result.stderr


def test_a_failing_script_gives_its_exit_code_and_its_exception(
    base_image: str, dataset_dir: Path, tmp_path: Path
) -> None:
    project = copied_project(tmp_path / "project")
    script = project / "scripts" / "train.py"
    script.write_text(FAILING_SCRIPT)
    folder = tmp_path / "run"
    result = run(debug_command(project, folder, dataset_dir, base_image))
    assert result.returncode == 7, result.stdout + result.stderr
    assert "no bins left" in (folder / "output" / "failure").read_text()


def test_a_run_that_is_killed_goes_on_to_the_same_weights(
    base_image: str, whole_run: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    project = copied_project(tmp_path / "project")
    pause_in_mid_epoch(project)
    folder = tmp_path / "run"
    command = debug_command(project, folder, dataset_dir, base_image)
    with started(command, "in the middle of an epoch", tmp_path / "log") as process:
        kill = image.docker("kill", "--signal", "KILL", container_name(folder))
        subprocess.run(kill, check=True)
        assert process.wait() == 128 + signal.SIGKILL
    assert not (folder / "model" / "model.safetensors").exists()
    second = run(command)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Going on from /opt/ml/checkpoints/checkpoint-4" in second.stdout
    assert_same_weights(whole_run / "model", folder / "model")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_stops_the_container_and_leaves_nothing(
    base_image: str, dataset_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    project = copied_project(tmp_path / "project")
    pause_in_mid_epoch(project)
    command = debug_command(project, tmp_path / "run", dataset_dir, base_image)
    with started(command, "in the middle of an epoch", tmp_path / "log") as process:
        os.killpg(process.pid, number)  # as a terminal does
        assert process.wait() == 128 + number


def test_a_shell_opens_in_the_layout_of_a_job(
    project: Path, base_image: str, dataset_dir: Path, tmp_path: Path
) -> None:
    command = debug_command(project, tmp_path / "run", dataset_dir, base_image)
    result = subprocess.run(
        [*command, "--shell"],
        env=clean_environment(),
        input="ls /opt/ml/input/data/dataset /opt/ml/input/config; exit 3\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert {"hyperparameters.json", "README.md"} <= set(result.stdout.split())
    assert result.returncode == 3, result.stderr


def test_without_docker_a_run_gives_the_same_weights(
    bucket: Path, base_image: str, tmp_path: Path
) -> None:
    # The project itself, whose environment for --no_docker may be made already.
    dataset_dir = tmp_path / "bins"
    build_dataset.main(
        ["--source", str(bucket), "--output_dir", str(dataset_dir), "--image_size", "64"]
        + ["--test_fraction", "0.2", "--num_workers", "1"]
    )
    entry = str(ROOT / "docker_debugging" / "debug.py")
    flags = ["--config_name", "vit_demo", "--bf16", "false", "--num_train_epochs", "1"]
    flags += ["--max_train_samples", "32", "--per_device_train_batch_size", "16"]
    for name, kind in (("docker", ["--base_image", base_image]), ("toolkit", ["--no_docker"])):
        place = ["--dataset", str(dataset_dir), "--output_dir", str(tmp_path / name)]
        result = run([sys.executable, entry, *place, *kind, *flags])
        assert result.returncode == 0, result.stdout + result.stderr
    assert_same_weights(tmp_path / "docker" / "model", tmp_path / "toolkit" / "model")


@pytest.mark.parametrize("environment", [".venv", ".venv-sdk3"])
def test_the_sdks_local_mode_ends_in_a_model(
    environment: str, project: Path, base_image: str, dataset_dir: Path, tmp_path: Path
) -> None:
    python = ROOT / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{environment} is not there: make test-sdk3")
    image.ensure_image(base_image)
    for name in ("input", "shared"):  # of which version 3 removes those that it takes for its own
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    entry = str(project / "sagemaker_jobs" / "vit.py")
    flags = ["--local", "--dataset", str(dataset_dir), "--output", "out", "--job_name", "bins-1"]
    result = run([str(python), entry, *flags, *TINY_RUN], cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    shutil.unpack_archive(tmp_path / "out" / "bins-1" / "model.tar.gz", tmp_path / "model")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert set(model.config.id2label.values()) == {"1", "2", "3", "4", "5"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bins-1"]
    assert len([*tmp_path.glob("*/mine.txt")]) == 2


def test_two_containers_train_together_as_two_hosts(
    project: Path, base_image: str, dataset_dir: Path, tmp_path: Path
) -> None:
    name = image.ensure_image(base_image)
    entry = str(project / "sagemaker_jobs" / "vit.py")
    answer = run([sys.executable, entry, "--dry_run", "--instance_count", "2", *TINY_RUN])
    assert answer.returncode == 0, answer.stderr
    request = json.loads(answer.stdout)
    hosts = ("algo-1", "algo-2")
    network = f"bin-counting-{os.getpid()}"
    subprocess.run(image.docker("network", "create", network), check=True, capture_output=True)
    try:
        for host in hosts:
            configuration = layout.configuration(request, hosts, host, "eth0")
            layout.lay_out(tmp_path / host, configuration, dataset_dir, project / "scripts")
            # An alias: the network's name server knows it as soon as the container runs.
            place = ["--network", network, "--network-alias", host, "--hostname", host]
            volume = ["--volume", f"{tmp_path / host}:/opt/ml"]
            command = image.docker("run", "--detach", "--init", "--name", f"{network}-{host}")
            subprocess.run([*command, *place, *volume, name, "train"], check=True)
        codes = [
            image.output_of(image.docker("wait", f"{network}-{host}"), timeout=600)
            for host in hosts
        ]
        logs = [run(image.docker("logs", f"{network}-{host}")) for host in hosts]
    finally:
        remove_containers(*(f"{network}-{host}" for host in hosts))
        subprocess.run(image.docker("network", "rm", network), check=True, capture_output=True)
    assert codes == ["0", "0"], "".join(log.stdout + log.stderr for log in logs)
    record = json.loads((tmp_path / "algo-1" / "checkpoints" / "arguments.json").read_text())
    assert record["world_size"] == 2
    AutoModelForImageClassification.from_pretrained(tmp_path / "algo-1" / "model")
