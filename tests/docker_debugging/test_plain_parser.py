import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT
from stand_ins.docker_client import put_docker


def unread(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose output nobody reads."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            command,
            env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)


@pytest.mark.parametrize("entry", ["debug", "doctor", "image", "toolkit"])
def test_a_reader_that_is_gone_is_no_error(entry: str) -> None:
    result = unread([sys.executable, str(ROOT / "docker_debugging" / f"{entry}.py"), "--help"])
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.slow
def test_a_script_that_failed_has_failed_though_nobody_reads_it(tmp_path: Path) -> None:
    docker = put_docker(tmp_path)
    program = tmp_path / "docker"
    # Its script ends with 7.
    program.write_text(program.read_text().replace("exec sleep 600", "exit 7"))
    dataset = tmp_path / "bins"
    dataset.mkdir()
    (dataset / "README.md").touch()
    debug = [sys.executable, str(ROOT / "docker_debugging" / "debug.py")]
    place = ["--dataset", str(dataset), "--output_dir", str(tmp_path / "run")]
    result = unread(
        [*debug, *place, "--base_image", "an-image", "--config_name", "vit_demo"],
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        PYTHONUNBUFFERED="1",
    )
    assert docker.has_started()
    assert result.returncode == 7, result.stderr
    assert "BrokenPipe" not in result.stderr


# With "1" each line fails as it is printed, else all of them at the end.
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_doctors_verdict_stays_though_nobody_reads_it(unbuffered: str, tmp_path: Path) -> None:
    entry = str(ROOT / "docker_debugging" / "doctor.py")
    # Without Docker on the PATH.
    result = unread([sys.executable, entry], PATH=str(tmp_path), PYTHONUNBUFFERED=unbuffered)
    assert (result.returncode, result.stderr) == (1, "")
