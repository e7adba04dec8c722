import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import toolkit
from paths import ROOT


def test_without_a_compiler_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(toolkit, "STAMP", tmp_path / "not there")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        toolkit.main([])
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "apt-get install gcc python3-dev" in errors


def test_another_requirement_or_another_python_makes_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = toolkit.fingerprint()
    assert toolkit.fingerprint() == before
    changed = tmp_path / "toolkit_requirements.txt"
    changed.write_text(toolkit.REQUIREMENTS.read_text() + "pudb==2025.1\n")
    monkeypatch.setattr(toolkit, "REQUIREMENTS", changed)
    with_more = toolkit.fingerprint()
    monkeypatch.setattr(toolkit.sys, "version", "3.12")
    assert len({before, with_more, toolkit.fingerprint()}) == 3


def test_a_run_gets_no_secret_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "canary")
    assert "canary" not in toolkit.environment_of_run(Path("/ml")).values()


def test_what_stops_the_installation_stops_pip_too(tmp_path: Path) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs a compiler")
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'docker_debugging')!r})\n"
        "from pathlib import Path; import toolkit\n"
        f"toolkit.FOLDER = Path({str(tmp_path / 'venv')!r})\n"
        "toolkit.STAMP = toolkit.FOLDER / '.installed'\n"
        "toolkit.main([])\n"
    )
    with socket.socket() as index:  # that takes pip's question, and never answers
        index.bind(("127.0.0.1", 0))
        index.listen()
        index.settimeout(60)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        pip = {"PIP_INDEX_URL": address, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | pip)
        question, _ = index.accept()
        question.settimeout(60)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
        while question.recv(4096):  # until pip has gone
            pass


@pytest.mark.slow
def test_the_toolkit_is_made_once_and_uses_the_projects_packages() -> None:
    train = toolkit.ensure_toolkit()
    made = toolkit.STAMP.stat().st_mtime_ns
    assert toolkit.ensure_toolkit() == train
    assert toolkit.STAMP.stat().st_mtime_ns == made
    program = "import numpy, sagemaker_training, torch; print(numpy.__file__, torch.__file__)"
    files = subprocess.run(
        [train.parent / "python", "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not any(toolkit.FOLDER.name in file for file in files)
