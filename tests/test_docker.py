"""Runs in real containers: what debug.py promises, and the SDK's local mode on the same image."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import docker_host
import doctor
import image
from conftest import ROOT, TINY_VIT

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


@pytest.fixture(scope="session")
def daemon() -> Iterator[None]:
    with docker_host.running_docker():
        yield


@pytest.fixture(scope="session")
def base_image(daemon: None) -> str:
    return docker_host.base_image()


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: None) -> Iterator[None]:
    yield
    assert not containers("--all")


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
    path = project / "scripts" / "timed_checkpoints.py"
    head, on_step_end, body = path.read_text().partition(
        '"""Ask for a checkpoint when it is time."""'
    )
    assert on_step_end
    path.write_text(f"from pathlib import Path\n{head}{on_step_end}{PAUSE}{body}")


def containers(*flags: str) -> list[str]:
    """Return the ids of the containers of the local image."""
    listing = image.docker("ps", "--quiet", "--filter", f"ancestor={image.IMAGE}", *flags)
    return image.output_of(listing).split()


def remove_containers() -> None:
    """Stop and remove the containers of the local image."""
    for container in containers("--all"):
        subprocess.run(image.docker("rm", "--force", container), check=False, capture_output=True)


def debug_command(project: Path, output: Path, *flags: str) -> list[str]:
    entry = str(project / "docker_debugging" / "debug.py")
    return [sys.executable, entry, "--job", "vit", "--output_dir", str(output), *flags]


def clean_environment() -> dict[str, str]:
    """Return this environment without AWS credentials and without a number of threads."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name != "OMP_NUM_THREADS"
    }
    no_settings = {"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    return kept | no_settings | {"AWS_EC2_METADATA_DISABLED": "true"}


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=clean_environment(), capture_output=True, text=True, check=False
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
        )
    try:
        while line not in log.read_text():
            assert process.poll() is None, (
                f"it ended before it printed {line!r}:\n{log.read_text()}"
            )
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        remove_containers()


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
    assert run(image.docker("run", "--rm", name, "sh", "-c", script)).returncode == 0


def test_an_image_that_cannot_be_built_is_told_in_one_line(daemon: None) -> None:
    entry = str(ROOT / "docker_debugging" / "image.py")
    result = run([sys.executable, entry, "--base_image", "127.0.0.1:1/no-such-image"])
    assert result.returncode == 2
    assert "--base_image" in result.stderr.splitlines()[-1]


def test_the_sdks_local_mode_ends_in_a_model(
    project: Path, base_image: str, dataset_dir: Path, tmp_path: Path
) -> None:
    image.ensure_image(base_image)
    entry = str(project / "sagemaker_jobs" / "vit.py")
    flags = ["--local", "--dataset", str(dataset_dir), "--output", str(tmp_path)]
    result = run([sys.executable, entry, *flags, *TINY_RUN])
    remove_containers()  # the SDK leaves what has ended
    assert result.returncode == 0, result.stdout + result.stderr
    (archive,) = tmp_path.rglob("model.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "model", filter="data")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert set(model.config.id2label.values()) == {"1", "2", "3", "4", "5"}
