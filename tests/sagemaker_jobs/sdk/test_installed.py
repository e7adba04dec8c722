import importlib.metadata
from pathlib import Path

import pytest

from paths import ROOT
from sdk import version2, version3
from sdk.installed import TESTED, installed_sdk


def pinned(requirements: Path) -> str:
    (line,) = (
        line for line in requirements.read_text().splitlines() if line.startswith("sagemaker==")
    )
    return line.removeprefix("sagemaker==")


def found(version: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    return installed_sdk.__wrapped__()


def test_what_is_tested_is_what_is_pinned() -> None:
    assert {
        "2": pinned(ROOT / "requirements.txt"),
        "3": pinned(ROOT / "requirements-sdk3.txt"),
    } == TESTED


def test_the_installed_version_chooses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found(TESTED["2"], monkeypatch) is version2
    assert found(TESTED["3"], monkeypatch) is version3
    assert not capsys.readouterr().err


def test_another_minor_version_is_used_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert found("3.99.0", monkeypatch) is version3
    told = f"sagemaker 3.99.0 is installed; this was tested with {TESTED['3']}.\n"
    assert capsys.readouterr().err == told


def test_a_version_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"Version 4.0.0 .* pip install -r requirements.txt"):
        found("4.0.0", monkeypatch)


def test_without_the_sdk_the_reason_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ValueError, match=r"not installed: pip install -r requirements.txt"):
        installed_sdk.__wrapped__()
