"""Launch a job and read what is told, for the tests of several launchers."""

import pytest

import vit
from launching.launch import launch

DATASET = "s3://photos/bins"


def run_vit(*flags: str) -> None:
    launch(vit.RECIPE, vit.__doc__, [*flags])


def error_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        run_vit(*flags)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
