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

# Of each difference that is allowed: where, as an expression, and why.
STARTED_OTHERWISE = (
    "version 3 starts train.py by programs of its own, which it uploads beside the code; version 2 "
    "tells the container's toolkit where the code is, and what to run"
)
ALLOWED = {
    r"AlgorithmSpecification\.Container(Entrypoint|Arguments)": STARTED_OTHERWISE,
    r"InputDataConfig\.(code|sm_drivers)": STARTED_OTHERWISE,
    r"HyperParameters\.sagemaker_(program|submit_directory)": STARTED_OTHERWISE,
    r"HyperParameters\.sagemaker_(torch_distributed_enabled|instance_type)": STARTED_OTHERWISE,
    r"HyperParameters\.sagemaker_(container_log_level|job_name|region)": (
        "the toolkit's too; version 3's programs need none of them"
    ),
    r"(TrainingJobDefinition\.)?OutputDataConfig\.CompressionType": "AWS's default, GZIP, is said",
    r"CheckpointConfig\.LocalPath": "AWS's default, /opt/ml/checkpoints, is said",
    r"TrainingJobDefinition\.StaticHyperParameters\.sagemaker_estimator_(class_name|module)": (
        "what HyperparameterTuner.attach of version 2 reads; nothing here attaches to a search so"
    ),
    r"TrainingJobDefinition\.(HyperParameterTuning)?ResourceConfig": (
        "the same under another name: one type of instances, not several to choose from"
    ),
    r"\d\.ProcessingInputs\.\d\.AppManaged": "AWS's default, false, is not said",
    r"\d\.ProcessingInputs\.0\.S3Input\.S3Uri": (
        "the archive's folder in place of the archive: its helper for requirements.txt is there too"
    ),
}

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


def differing(case: str, requests: tuple[Requests, Requests]) -> set[str]:
    """Return where the two requests of a case differ."""
    one, other = (fields(of_all[case]) for of_all in requests)
    absent = object()
    return {path for path in one.keys() | other if one.get(path, absent) != other.get(path, absent)}


def reasons(path: str) -> list[str]:
    """Return the expressions that allow a difference at a place."""
    return [allowed for allowed in ALLOWED if re.match(rf"{allowed}(\.|$)", path)]


@pytest.mark.parametrize("case", CASES)
def test_every_difference_is_one_that_is_allowed(
    case: str, requests: tuple[Requests, Requests]
) -> None:
    one, other = (fields(of_all[case]) for of_all in requests)
    assert len(one) > 20
    assert {
        path: (one.get(path), other.get(path))
        for path in differing(case, requests)
        if not reasons(path)
    } == {}


def test_no_difference_is_allowed_that_there_is_not(requests: tuple[Requests, Requests]) -> None:
    seen = {
        allowed for case in CASES for path in differing(case, requests) for allowed in reasons(path)
    }
    assert seen == ALLOWED.keys()


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("tuning")])
def test_the_instances_of_a_search_are_the_same_under_another_name(
    case: str, requests: tuple[Requests, Requests]
) -> None:
    one, other = (of_all[case]["TrainingJobDefinition"] for of_all in requests)
    assert one["HyperParameterTuningResourceConfig"] == other["ResourceConfig"]


def test_the_code_lies_where_no_job_may_write(requests: tuple[Requests, Requests]) -> None:
    for case in ("plain", "several instances", "CPU", "profile"):
        request = requests[1][case]
        uris = {
            channel["ChannelName"]: channel["DataSource"]["S3DataSource"]["S3Uri"]
            for channel in request["InputDataConfig"]
        }
        code = request["OutputDataConfig"]["S3OutputPath"].removesuffix("/jobs") + "/code/bins-1/"
        assert uris["code"] == f"{code}source/sourcedir.tar.gz"
        assert uris["sm_drivers"] == f"{code}sm_drivers/"
