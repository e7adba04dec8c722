import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT
from training.sagemaker_job import tell_failure


def test_a_flag_that_is_refused_is_the_reason_that_a_jobs_report_gives(tmp_path: Path) -> None:
    failure = tmp_path / "failure"
    job = {"SM_MODEL_DIR": str(tmp_path / "model"), "SM_OUTPUT_FAILURE": str(failure)}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "--no_such_flag", "1"]
    result = subprocess.run(command, env=os.environ | job, capture_output=True, text=True)
    assert result.returncode == 2
    assert failure.read_text() == result.stderr.splitlines()[-1]
    assert failure.read_text().startswith("ValueError: ")
    assert "--no_such_flag" in failure.read_text()


def test_of_several_processes_the_first_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_OUTPUT_FAILURE", str(tmp_path / "failure"))
    tell_failure("OSError: the disk is full.")
    tell_failure("RuntimeError: a process has gone.")
    assert (tmp_path / "failure").read_text() == "OSError: the disk is full."


def test_a_reason_that_cannot_be_written_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_OUTPUT_FAILURE", str(tmp_path / "no" / "such" / "folder"))
    tell_failure("OSError: the disk is full.")
    (tmp_path / "failure").touch()  # as a full disk leaves it
    monkeypatch.setenv("SM_OUTPUT_FAILURE", str(tmp_path / "failure"))
    tell_failure("OSError: the disk was full.")
    assert (tmp_path / "failure").read_text() == "OSError: the disk was full."
