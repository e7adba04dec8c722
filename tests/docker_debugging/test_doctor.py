import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import doctor
from paths import ROOT
from stand_ins.docker_client import put_docker, put_gpus

ENTRY = ROOT / "docker_debugging" / "doctor.py"
SECRET = "canary-secret-0123456789"
# No request leaves this machine, and none of the user's settings are read.
ENVIRONMENT = {
    **{"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"},
    **{"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nowhere"},
}
CHECKS = ["system", "docker", "platform", "compose", "base image", "disk", "gpu", "credentials"]
CHECKS += ["toolkit", "debug port"]


def run_doctor(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ENTRY), *flags],
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def findings_of(result: subprocess.CompletedProcess[str]) -> dict[str, doctor.Finding]:
    return {finding["check"]: doctor.Finding(**finding) for finding in json.loads(result.stdout)}


def test_a_machine_without_docker_is_told_how_to_get_it(tmp_path: Path) -> None:
    result = run_doctor("--json", PATH=str(tmp_path))
    findings = findings_of(result)
    assert result.returncode == 1, result.stderr
    assert list(findings) == CHECKS
    assert findings["docker"].state == "problem"
    assert "apt-get install docker.io" in findings["docker"].mend
    assert findings["base image"].found == findings["disk"].found == "unknown until Docker runs"
    assert (findings["compose"].state, findings["credentials"].state) == ("note", "note")


def test_every_finding_but_ok_says_what_to_do_in_aligned_lines(tmp_path: Path) -> None:
    result = run_doctor(PATH=str(tmp_path))
    lines = result.stdout.partition("\n\n")[0].splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line[9:22].strip() for line in heads] == CHECKS
    assert all(line[:9].strip() in ("ok", "note", "problem") for line in heads)
    assert all(line[:22].isspace() for line in lines if line not in heads)
    assert "debug.py --no_docker" in result.stdout
    assert max(map(len, lines)) <= 100


def test_a_daemon_that_is_gone_is_named(tmp_path: Path) -> None:
    client = shutil.which("docker")
    if client is None:
        pytest.skip("needs Docker's client")
    host = f"unix://{tmp_path}/dead.sock"
    result = run_doctor("--json", PATH=str(Path(client).parent), DOCKER_HOST=host)
    docker = findings_of(result)["docker"]
    assert (result.returncode, docker.state) == (1, "problem")
    assert host in docker.found
    assert "systemctl start docker" in docker.mend
    assert "Docker says: " in docker.mend


def test_a_port_that_is_taken_is_no_problem_but_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        taken = findings_of(run_doctor("--json", "--debugpy", str(port), PATH=str(tmp_path)))
    assert taken["debug port"] == doctor.Finding(
        "debug port", "note", f"{port}: the port is taken", "give --debugpy another port"
    )


def test_credentials_are_found_and_never_shown(tmp_path: Path) -> None:
    result = run_doctor(
        PATH=str(tmp_path),
        AWS_ACCESS_KEY_ID=SECRET,
        AWS_SECRET_ACCESS_KEY=SECRET,
        AWS_SESSION_TOKEN=SECRET,
    )
    assert "AWS credentials found (env)" in result.stdout
    assert SECRET not in result.stdout + result.stderr


@pytest.fixture
def compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that alone is on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put_program(folder: Path, name: str, version: str) -> None:
    """Put a program that prints a version into a folder."""
    program = folder / name
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("version", ["v2.40.0", "5.0.1"])
def test_dockers_own_compose_is_enough_whatever_its_version(version: str, compose: Path) -> None:
    put_program(compose, "docker", version)
    assert doctor.check_compose() == doctor.Finding("compose", "ok", f"docker compose {version}")


def test_the_program_alone_is_enough_too(compose: Path) -> None:
    put_program(compose, "docker-compose", "1.29.2")
    assert doctor.check_compose() == doctor.Finding("compose", "ok", "docker-compose 1.29.2")


def test_a_gpu_that_docker_cannot_use_is_named(compose: Path) -> None:
    put_gpus(compose, "NVIDIA L4", "NVIDIA L4")
    put_program(compose, "docker", "'{\"runc\": {}}'")
    assert "nvidia-container-toolkit" in doctor.check_gpu(docker_runs=True).mend
    put_docker(compose)
    assert doctor.check_gpu(docker_runs=True) == doctor.Finding("gpu", "ok", "NVIDIA L4, NVIDIA L4")


def test_podman_is_told_how_to_hand_over_a_gpu(compose: Path) -> None:
    put_gpus(compose, "NVIDIA L4")
    put_docker(compose, "podman")
    assert doctor.check_docker().found == "Podman version 28.2.2 runs"
    assert "nvidia-ctk cdi generate" in doctor.check_gpu(docker_runs=True).mend


def test_images_of_aws_are_slow_on_arm_and_others_are_not(compose: Path) -> None:
    put_docker(compose, arch="arm64")
    finding = doctor.check_platform(None)
    assert (finding.state, finding.found) == ("note", "linux/amd64 on arm64: emulated, slow")
    assert "--no_docker" in finding.mend
    assert doctor.check_platform("python:3.12").state == "ok"
    put_docker(compose, arch="amd64")
    assert doctor.check_platform(None) == doctor.Finding("platform", "ok", "linux/amd64")


# What Python has on POSIX systems alone, as far as anything here could name it.
AS_ON_WINDOWS = """
import os, platform, runpy, signal, sys
platform.system = lambda: "Windows"
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("SIGHUP", "SIGKILL", "SIGPIPE", "pthread_sigmask", "SIG_BLOCK", "SIG_SETMASK"):
    delattr(signal, name)
for name in ("geteuid", "getegid", "getuid", "killpg", "setsid", "mkfifo", "wait4"):
    delattr(os, name)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_as_on_windows(entry: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", AS_ON_WINDOWS, str(entry), *flags]
    environment = ENVIRONMENT | {"PATH": "/nowhere"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_on_windows_the_doctor_says_what_does_not_work() -> None:
    result = run_as_on_windows(ENTRY, "--json")
    system = findings_of(result)["system"]
    assert (result.returncode, system.state) == (1, "problem"), result.stderr
    assert "WSL 2" in system.mend


@pytest.mark.parametrize("entry", ["debug", "image", "toolkit"])
def test_on_windows_every_entry_shows_its_help(entry: str) -> None:
    result = run_as_on_windows(ENTRY.with_name(f"{entry}.py"), "--help")
    assert (result.returncode, result.stderr) == (0, "")


def test_on_windows_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    entry = ENTRY.with_name("debug.py")
    result = run_as_on_windows(entry, "--output_dir", str(tmp_path / "run"))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "WSL 2" in result.stderr


@pytest.mark.parametrize("flags", [["--bug"], ["--debugpy", "0"], ["--debugpy", "65536"]])
def test_a_wrong_flag_is_named_in_one_line(flags: list[str]) -> None:
    result = run_doctor(*flags, PATH=os.environ["PATH"])
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)


def test_help_needs_nothing(tmp_path: Path) -> None:
    assert "--json" in run_doctor("--help", PATH=str(tmp_path)).stdout
