"""Bounds against botocore's own service models, of every request that this project makes."""

from typing import Any

import botocore.session
import pytest
from botocore.model import Shape

from aws.account_flags import FLAGS_OF_FIELDS
from aws.request_bounds import KEYS_ARE_FLAGS, check_bounds, compiled

# All that makes something.
OPERATIONS = {
    "sagemaker": (
        *("CreateTrainingJob", "CreateHyperParameterTuningJob", "CreateProcessingJob"),
        *("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "CreateTransformJob"),
    ),
    "application-autoscaling": ("RegisterScalableTarget", "PutScalingPolicy"),
    "cloudformation": ("CreateStack",),
    "s3": ("PutObject",),
    "sagemaker-runtime": ("InvokeEndpoint",),
}
FLAGS = {
    "KeepAlivePeriodInSeconds": "--keep_alive",
    "HyperParameters": KEYS_ARE_FLAGS,
    **FLAGS_OF_FIELDS,
}


def error_of(parameters: dict[str, Any], operation: str = "CreateTrainingJob") -> str:
    """Return what is said of a request, in a line; empty where it is within the bounds."""
    try:
        check_bounds("sagemaker", operation, parameters, FLAGS)
    except ValueError as error:
        (line,) = str(error).splitlines()
        return line
    return ""


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"ResourceConfig": {"KeepAlivePeriodInSeconds": 30000}},
            "--keep_alive 30000: AWS takes 21,600 at most.",
        ),
        (
            {"StoppingCondition": {"MaxRuntimeInSeconds": 0}},
            "StoppingCondition.MaxRuntimeInSeconds 0: AWS takes 1 at least.",
        ),
        (
            {"HyperParameters": {"run_name": "x" * 2501}},
            "--run_name 2,501 characters: AWS takes 2,500 characters at most.",
        ),
        (
            {"HyperParameters": {str(number): "1" for number in range(101)}},
            "HyperParameters 101 values: AWS takes 100 values at most.",
        ),
        (
            {"HyperParameters": {"run_name": "two\nlines"}},
            "--run_name two lines: AWS takes only what fits .*",
        ),
        (
            {"Tags": [{"Key": "team", "Value": "a"}, {"Key": "cost", "Value": "1 < 2"}]},
            "--tags 1 < 2: AWS takes only what fits ",
        ),
        (
            {"VpcConfig": {"Subnets": ["subnet 1"], "SecurityGroupIds": ["sg-1"]}},
            "--subnets subnet 1: AWS takes only what fits [-0-9a-zA-Z]+",
        ),
        (
            {"AlgorithmSpecification": {"TrainingInputMode": "Stream"}},
            "AlgorithmSpecification.TrainingInputMode Stream: AWS knows Pipe, File, FastFile.",
        ),
    ],
)
def test_what_is_out_of_bounds_is_named(parameters: dict[str, Any], message: str) -> None:
    assert error_of(parameters).startswith(message)


def test_a_search_and_a_processing_job_have_bounds_of_their_own() -> None:
    sizes = {"Name": "a", "Values": [str(size) for size in range(31)]}
    ranges = {"ParameterRanges": {"CategoricalParameterRanges": [sizes]}}
    search = {"HyperParameterTuningJobConfig": ranges}
    assert "31 values: AWS takes 30 values" in error_of(search, "CreateHyperParameterTuningJob")
    stopping = {"StoppingCondition": {"MaxRuntimeInSeconds": 900_000}}
    assert "900000: AWS takes 777,600 at most" in error_of(stopping, "CreateProcessingJob")


def test_the_most_that_aws_takes_passes_and_one_more_does_not() -> None:
    def training_job(length: int, seconds: int, number_of_tags: int) -> dict[str, Any]:
        tag = {"Key": "kostenstelle", "Value": "Süd 7_a"}
        return {
            "TrainingJobName": "bins-vit-1",
            "HyperParameters": {"run_name": "x" * length, "bf16": "true"},
            "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "KeepAlivePeriodInSeconds": seconds},
            "Tags": [tag] * number_of_tags,
            "OutputDataConfig": {"S3OutputPath": "s3://bins/out"},
        }

    assert error_of(training_job(2500, 21_600, 50)) == ""
    one_more = {
        (2501, 21_600, 50): "--run_name 2,501 characters: AWS takes 2,500 characters at most.",
        (2500, 21_601, 50): "--keep_alive 21601: AWS takes 21,600 at most.",
        (2500, 21_600, 51): "--tags 51 values: AWS takes 50 values at most.",
    }
    for sizes, message in one_more.items():
        assert error_of(training_job(*sizes)) == message


def patterns_in(shape: Shape, seen: set[str]) -> set[str]:
    if shape.name in seen:
        return set()
    seen.add(shape.name)
    members = [*getattr(shape, "members", {}).values()]
    members += [getattr(shape, name) for name in ("member", "key", "value") if hasattr(shape, name)]
    found = {pattern} if (pattern := shape.metadata.get("pattern")) else set()
    return found.union(*(patterns_in(member, seen) for member in members))


def test_every_pattern_of_our_requests_is_understood() -> None:
    session = botocore.session.get_session()
    for service, operations in OPERATIONS.items():
        model = session.get_service_model(service)
        for operation in operations:
            patterns = patterns_in(model.operation_model(operation).input_shape, set())
            assert patterns or service == "s3"
            for pattern in patterns:
                compiled(pattern)
