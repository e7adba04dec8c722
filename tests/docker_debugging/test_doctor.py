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

ENTRY = ROOT / "docker_debugging" / "doctor.py"
SECRET = "canary-secret-0123456789"
# No request leaves this machine, and none of the user's settings are read.
ENVIRONMENT = {
    **{"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"},
    **{"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nowhere"},
}
CHECKS = ["docker", "compose", "base image", "disk", "gpu", "credentials", "toolkit", "debug port"]


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


def test_a_port_that_is_taken_is_no_problem_but_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        taken = findings_of(run_doctor("--json", "--debugpy", str(port), PATH=str(tmp_path)))
    assert taken["debug port"] == doctor.Finding(
        "debug port", "note", f"{port} is taken", "give --debugpy another port"
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


def test_a_compose_that_the_sdk_does_not_know_is_named(compose: Path) -> None:
    put_program(compose, "docker", "5.0.1")
    finding = doctor.check_compose()
    assert finding.state == "note"
    assert "5.0.1" in finding.found
    assert "apt-get install docker-compose" in finding.mend
    put_program(compose, "docker-compose", "1.29.2")
    assert doctor.check_compose() == doctor.Finding("compose", "ok", "docker-compose 1.29.2")


def test_the_newer_spelling_of_compose_is_found(compose: Path) -> None:
    put_program(compose, "docker", "v2.40.0")
    assert doctor.check_compose() == doctor.Finding("compose", "ok", "docker compose v2.40.0")


def test_a_gpu_that_docker_cannot_use_is_named(compose: Path) -> None:
    put_program(compose, "nvidia-smi", "NVIDIA L4")
    put_program(compose, "docker", "'{\"runc\": {}}'")
    assert "nvidia-container-toolkit" in doctor.check_gpu(docker_runs=True).mend
    put_program(compose, "docker", "'{\"nvidia\": {}}'")
    assert doctor.check_gpu(docker_runs=True) == doctor.Finding("gpu", "ok", "NVIDIA L4")


@pytest.mark.parametrize("flags", [["--bug"], ["--debugpy", "0"], ["--debugpy", "65536"]])
def test_a_wrong_flag_is_named_in_one_line(flags: list[str]) -> None:
    result = run_doctor(*flags, PATH=os.environ["PATH"])
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)


def test_help_needs_nothing(tmp_path: Path) -> None:
    assert "--json" in run_doctor("--help", PATH=str(tmp_path)).stdout
