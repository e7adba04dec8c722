"""What is said of version 3 of the SageMaker SDK, asked of it."""

import json
import sys

import pytest

from jobs.training_job import encoded
from sdk import version3
from sdk.installed import installed_sdk
from sdk.version3 import _read_twice

if installed_sdk() is not version3:
    pytest.skip("version 3 is not installed: make test-sdk3", allow_module_level=True)


@pytest.mark.parametrize(
    "value", ["1.10", "3e-5", "7e12345", "2026.10", "null", "16", "resnet34", 16, 2e-5, True]
)
def test_train_py_is_given_what_was_written(
    value: str | float | bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    version3.load()
    monkeypatch.setattr(sys, "path", [*sys.path])  # the SDK's programs add to it
    from sagemaker.train.container_drivers.common.utils import hyperparameters_to_cli_args
    from sagemaker.train.container_drivers.scripts.environment import deserialize_hyperparameters

    requested = encoded(_read_twice({"run_name": value}))
    variable = json.dumps(deserialize_hyperparameters(requested))  # SM_HPS
    flags = hyperparameters_to_cli_args(json.loads(variable))
    said = {True: "true"}.get(value) if value is True else str(value)
    assert flags == ["--run_name", said]
