import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import containers
import image
import this_machine
from paths import ROOT
from stand_ins.docker_client import DockerClient, put_docker, put_gpus

# What debug.py does around a container.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT / "docker_debugging")!r})
from containers import run_container
from image import docker
from stopping import Stopped, raise_when_stopped
raise_when_stopped()
try:
    run_container(docker("create", "--name", "a-run", "image", "train"), "a-run", False)
except Stopped as stopped:
    sys.exit(128 + stopped.number)
"""


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is first on PATH, before Docker's own client."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def create_command(image_name: str = "image", flags: list[str] | None = None) -> list[str]:
    variables = {"TRAINING_JOB_NAME": "bins-1"}
    return containers.create_command(
        image_name, "name", Path("/ml"), variables, ["train"], flags or []
    )


def mounts(command: list[str]) -> set[str]:
    return {command[at + 1] for at, word in enumerate(command) if word == "--volume"}


def test_a_container_gets_the_jobs_folders_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "canary")
    command = create_command(flags=["--gpus", "1"])
    assert "canary" not in " ".join(command)
    assert command[-4:] == ["--gpus", "1", "image", "train"]
    assert {"TRAINING_JOB_NAME=bins-1", "PYTHONUNBUFFERED=1", "algo-1:127.0.0.1"} <= set(command)
    assert mounts(command) == {
        "/ml/input:/opt/ml/input:ro",
        f"{containers.DEBUGGER}:/opt/debugger:ro",
        *(f"/ml/{name}:/opt/ml/{name}" for name in ("model", "output", "checkpoints", "code")),
    }


def test_under_selinux_every_mount_is_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforce = tmp_path / "enforce"
    monkeypatch.setattr(this_machine, "SELINUX", enforce)
    for mode, expected in (("1\n", {"ro,z", "z"}), ("0\n", {"ro", ""})):
        enforce.write_text(mode)
        options = {mount.partition(":")[2].partition(":")[2] for mount in mounts(create_command())}
        assert options == expected


def started(docker: DockerClient) -> subprocess.Popen[bytes]:
    """Return debug.py's part that runs a container, when the container has started."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        # A shell that starts the tests in the background would have it ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not docker.has_started():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_stops_a_run_removes_its_container(bin_dir: Path, number: signal.Signals) -> None:
    docker = put_docker(bin_dir)
    process = started(docker)
    removed = ["rm", "--force", "a-run"]
    assert docker.calls.count(removed) == 1  # of a run before
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert docker.calls[-1] == removed


@pytest.mark.parametrize(("num_wanted", "given"), [(0, None), (1, "1"), (4, "2"), (2, "2")])
def test_a_container_gets_as_many_gpus_as_the_jobs_instance(
    bin_dir: Path, num_wanted: int, given: str | None
) -> None:
    put_docker(bin_dir)
    put_gpus(bin_dir, "NVIDIA L4", "NVIDIA L4")
    assert containers.gpu_flags(num_wanted) == ([] if given is None else ["--gpus", given])


def test_podman_takes_the_place_of_docker(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(bin_dir))  # without this machine's own docker
    put_docker(bin_dir, "podman")
    put_gpus(bin_dir, "NVIDIA L4", "NVIDIA L4")
    assert image.docker("ps") == ["podman", "ps"]
    assert image.is_podman()
    assert image.has_network()
    assert image.architecture() == "amd64"
    monkeypatch.setattr(containers, "PODMAN_GPUS", (tmp_path / "nvidia.yaml",))
    assert containers.gpu_flags(1) == []
    (tmp_path / "nvidia.yaml").touch()
    assert containers.gpu_flags(1) == ["--device", "nvidia.com/gpu=0"]


def test_images_of_aws_are_emulated_on_arm(bin_dir: Path) -> None:
    put_docker(bin_dir, arch="arm64")
    aws = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-training:1"
    assert image.platform_flags(aws) == ["--platform", "linux/amd64"]
    assert image.platform_flags("python:3.12") == []
    assert containers.platform_flags("bin-counting-debug") == ["--platform", "linux/amd64"]
    put_docker(bin_dir, arch="amd64")
    assert image.platform_flags(aws) == containers.platform_flags("bin-counting-debug") == []
