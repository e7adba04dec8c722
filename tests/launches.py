"""Launch a job and read what is told, or make a plain one, for the tests of several launchers."""

from typing import Any

import pytest

import vit
from jobs.training_job import TrainingJob
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


def plain_job(**changes: Any) -> TrainingJob:
    """Return a training job on one GPU with changes."""
    values: dict[str, Any] = {
        "name": "bins-vit-1",
        "dataset": "s3://photos/bins",
        "output": "s3://photos/out",
        "checkpoints": "s3://photos/out/checkpoints/bins-vit-1/",
        "hyperparameters": {"learning_rate": 2e-5, "bf16": True},
        "instance_type": "ml.g5.2xlarge",
        "instance_count": 1,
        "max_run": 3600,
    }
    return TrainingJob(**{**values, **changes})
