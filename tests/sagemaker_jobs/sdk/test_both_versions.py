"""What version 3 of the SageMaker SDK sends to AWS is what version 2 sends, but for a list."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from job_requests import CASES
from paths import ROOT
from sdk import version3
from sdk.installed import installed_sdk

if installed_sdk() is not version3:
    pytest.skip("version 3 is not installed: make test-sdk3", allow_module_level=True)

ABSENT = "absent"
CODE = r"s3://[\w-]+/bin-counting/code/bins-1/"
STARTED_OTHERWISE = (
    "version 3 starts train.py by programs of its own, which it uploads beside the code; version 2 "
    "tells the container's toolkit where the code is, and what to run"
)
RENAMED = "the same under another name: one type of instances, not several to choose from"
# Of each difference that is allowed: where, what version 3 says there (both as expressions), why.
ALLOWED = [
    (r"AlgorithmSpecification\.ContainerEntrypoint\.0", "/bin/bash", STARTED_OTHERWISE),
    (
        r"AlgorithmSpecification\.ContainerArguments\.\d",
        r"-c|chmod \+x (/opt/ml/input/data/sm_drivers/sm_train.sh) && \1",
        STARTED_OTHERWISE,
    ),
    (
        r"InputDataConfig\.(code|sm_drivers)\.(ChannelName|InputMode)",
        r"code|sm_drivers|File",
        STARTED_OTHERWISE,
    ),
    (
        r"InputDataConfig\.(code|sm_drivers)\.DataSource\.S3DataSource\.\w+",
        rf"S3Prefix|FullyReplicated|{CODE}(source/sourcedir.tar.gz|sm_drivers/)",
        STARTED_OTHERWISE,
    ),
    (
        r"HyperParameters\.sagemaker_"
        "(program|submit_directory|torch_distributed_enabled|instance_type)",
        ABSENT,
        STARTED_OTHERWISE,
    ),
    (
        r"HyperParameters\.sagemaker_(container_log_level|job_name|region)",
        ABSENT,
        "the toolkit's too; version 3's programs need none of them",
    ),
    (
        r"HyperParameters\.(learning_rate|run_name)",
        r'"\\"(3e-5|1.10)\\""',
        "a text that is JSON too is written twice, since version 3's programs read it twice",
    ),
    (r"(TrainingJobDefinition\.)?OutputDataConfig\.CompressionType", "GZIP", "AWS's default, said"),
    (r"CheckpointConfig\.LocalPath", "/opt/ml/checkpoints", "AWS's default, said"),
    (
        r"TrainingJobDefinition\.StaticHyperParameters\.sagemaker_estimator_(class_name|module)",
        ABSENT,
        "what HyperparameterTuner.attach of version 2 reads; nothing here attaches to a search so",
    ),
    (r"TrainingJobDefinition\.HyperParameterTuningResourceConfig\.\w+", ABSENT, RENAMED),
    (r"TrainingJobDefinition\.ResourceConfig\.\w+", r".+", RENAMED),
    (r"\d\.ProcessingInputs\.\d\.AppManaged", ABSENT, "AWS's default, false, not said"),
    (
        r"\d\.ProcessingInputs\.0\.S3Input\.S3Uri",
        r"s3://[\w-]+/bin-counting/code/bins-data-[\w-]+/source/",
        "the archive's folder in place of the archive: its helper for requirements.txt is there",
    ),
]

Requests = dict[str, Any]


def requests_of(python: str) -> Requests:
    program = str(ROOT / "tests" / "job_requests.py")
    answer = subprocess.run([python, program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def requests() -> tuple[Requests, Requests]:
    """Return those of version 2, from the first lane's environment, and those of version 3."""
    return requests_of(str(ROOT / ".venv" / "bin" / "python")), requests_of(sys.executable)


def fields(request: Any, path: str = "") -> dict[str, Any]:
    """Return the values of a request by where they are; channels by name, not by number."""
    if isinstance(request, dict):
        items = list(request.items())
    elif isinstance(request, list):
        names = [
            entry.get("ChannelName", number) if isinstance(entry, dict) else number
            for number, entry in enumerate(request)
        ]
        items = list(zip(map(str, names), request, strict=True))
    else:
        return {path: request}
    found = {} if items else {path: request}
    for name, value in items:
        found |= fields(value, f"{path}.{name}" if path else name)
    return found


def differences(case: str, requests: tuple[Requests, Requests]) -> dict[str, tuple[Any, Any]]:
    """Return what versions 2 and 3 say where the two requests of a case differ."""
    one, other = (fields(of_all[case]) for of_all in requests)
    both = {path: (one.get(path, ABSENT), other.get(path, ABSENT)) for path in one | other}
    return {path: values for path, values in both.items() if values[0] != values[1]}


def allowing(path: str, value: Any) -> list[int]:
    """Return the numbers of the lines that allow version 3 a value at a place."""
    return [
        number
        for number, (where, what, _) in enumerate(ALLOWED)
        if re.fullmatch(where, path) and re.fullmatch(what, str(value))
    ]


@pytest.mark.parametrize("case", CASES)
def test_every_difference_is_one_that_is_allowed(
    case: str, requests: tuple[Requests, Requests]
) -> None:
    assert len(fields(requests[0][case])) > 20
    found = differences(case, requests)
    assert {path: both for path, both in found.items() if not allowing(path, both[1])} == {}


def test_no_difference_is_allowed_that_there_is_not(requests: tuple[Requests, Requests]) -> None:
    seen = {
        number
        for case in CASES
        for path, (_, value) in differences(case, requests).items()
        for number in allowing(path, value)
    }
    assert seen == set(range(len(ALLOWED)))


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("tuning")])
def test_the_instances_of_a_search_are_the_same_under_another_name(
    case: str, requests: tuple[Requests, Requests]
) -> None:
    one, other = (of_all[case]["TrainingJobDefinition"] for of_all in requests)
    assert one["HyperParameterTuningResourceConfig"] == other["ResourceConfig"]
