import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from moto import mock_aws

import container
import image
from paths import ROOT
from sdk.images import image_uri

DOCKERFILE = ROOT / "docker_debugging" / "Dockerfile"


def pins_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_image_stands_on_the_training_container() -> None:
    default = re.search(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert default
    assert default[1] == image_uri(container.DEFAULT_REGION, "gpu", "training")
    assert image.default_base_image() == default[1]


def test_launchers_know_the_images_name() -> None:
    assert container.LOCAL_IMAGE == image.IMAGE


def test_the_image_adds_nothing_that_the_container_holds() -> None:
    pins = pins_of(ROOT / "scripts" / "requirements.txt")
    pins += pins_of(ROOT / "docker_debugging" / "image_requirements.txt")
    assert all(re.fullmatch(r"[\w\[\]-]+==[\w.]+", pin) for pin in pins)
    held = {"torch", "torchvision", "numpy", "pillow", *container.TRAINING_PACKAGES}
    assert not held & {pin.partition("==")[0].lower().replace("-", "_") for pin in pins}


def test_the_image_is_given_no_code() -> None:
    copied = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith("COPY")]
    sources = copied[0].split()[1:-1]
    assert len(copied) == 1
    assert all(source.endswith("requirements.txt") for source in sources)
    ignored = pins_of(ROOT / ".dockerignore")
    assert ignored == ["*", *(f"!{source}" for source in sources)]


def test_without_docker_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"not installed.*apt-get install.*--no_docker"):
        image.docker_version()


@pytest.fixture
def docker_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a program `docker` that notes its arguments and its input, and may not do anything."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/input\n'
        'echo "permission denied while trying to connect to the Docker daemon socket" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_without_permission_one_line_says_how_to_get_it(docker_client: Path) -> None:
    with pytest.raises(ValueError, match=r"usermod -aG docker.*--no_docker"):
        image.docker_version()


def test_images_of_aws_are_told_from_others() -> None:
    assert image.ecr_host("763104351884.dkr.ecr.cn-north-1.amazonaws.com.cn/a/b:c")
    assert image.ecr_host("763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface:1")
    for name in ("python:3.12", "bin-counting-debug", "ghcr.io/763104351884.dkr.ecr/x"):
        assert image.ecr_host(name) is None


HOST = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


def test_without_credentials_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ValueError, match=r"credentials.*aws configure.*--no_docker") as raised:
        image.log_in_to_ecr(HOST)
    assert "\n" not in str(raised.value)


@mock_aws
def test_the_registrys_password_is_on_no_command_line(
    docker_client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with pytest.raises(ValueError, match=rf"docker login {HOST} failed.*--no_docker"):
        image.log_in_to_ecr(HOST)
    password = (tmp_path / "input").read_text()
    assert password
    assert (tmp_path / "arguments").read_text().split() == (
        ["login", "--username", "AWS", "--password-stdin", HOST]
    )


def test_a_dead_daemon_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("docker"):
        pytest.skip("needs Docker's client; test_docker.py has it")
    with socket.socket(socket.AF_UNIX) as unix_socket:
        path = tmp_path / "dead.sock"
        unix_socket.bind(str(path))  # and nobody listens
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        with pytest.raises(ValueError, match=r"does not run at DOCKER_HOST=unix.*--no_docker"):
            image.docker_version()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_stops_a_build_stops_dockers_client_too(
    number: signal.Signals, tmp_path: Path
) -> None:
    program, building = tmp_path / "docker", tmp_path / "building"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = build ]; then\n  echo $$ > {building}.part\n'
        f"  mv {building}.part {building}; exec sleep 600\nfi\n"
    )
    program.chmod(0o755)
    command = [sys.executable, str(ROOT / "docker_debugging" / "image.py"), "--base_image", "x"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    process = subprocess.Popen(command, env=os.environ | {"PATH": path}, stderr=subprocess.PIPE)
    while not building.exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (128 + number, b"")
    assert not psutil.pid_exists(int(building.read_text()))


def test_the_entry_shows_its_help_and_one_line_of_error(tmp_path: Path) -> None:
    entry = str(ROOT / "docker_debugging" / "image.py")
    environment = {"PATH": str(tmp_path)}

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, entry, *flags]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "--base_image" in run("--help").stdout
    for flags in ([], ["--base", "x"]):
        result = run(*flags)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
