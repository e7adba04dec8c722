"""See what the SDK would send to AWS, without sending anything.

--dry_run runs the SDK as a real launch does. Every call is caught after the SDK has made its
parameters and before botocore opens a connection, so what is printed is the request itself.
"""

import copy
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse

from aws.account_flags import FLAGS_OF_FIELDS
from aws.request_bounds import KEYS_ARE_FLAGS, check_bounds

# What the launchers call the fields of their requests.
FLAGS = {
    **FLAGS_OF_FIELDS,
    "HyperParameters": KEYS_ARE_FLAGS,
    "StaticHyperParameters": KEYS_ARE_FLAGS,
    "InstanceCount": "--instance_count",
    "VolumeSizeInGB": "--volume_gb",
    "KeepAlivePeriodInSeconds": "--keep_alive",
    "MaxRuntimeInSeconds": "--max_run",
    "MaxWaitTimeInSeconds": "--max_wait",
    "ContainerArguments": "--source, --output or another argument:",
    "InputDataConfig": "--dataset",
    "CheckpointConfig": "--checkpoints",
    "S3OutputPath": "--output",
    "CategoricalParameterRanges": "--batch_sizes",
    "MaxNumberOfTrainingJobs": "--max_jobs",
    "MaxParallelTrainingJobs": "--max_parallel_jobs",
    "WarmStartConfig": "--warm_start_from",
    "RoleArn": "--role",
}
# What the SDK reads of an answer while it launches.
ANSWERS: dict[str, dict[str, Any]] = {
    "CreateTrainingJob": {"TrainingJobArn": ""},
    "CreateHyperParameterTuningJob": {"HyperParameterTuningJobArn": ""},
    "CreateProcessingJob": {"ProcessingJobArn": ""},
    "PutObject": {},
}
ACCOUNT_PLACEHOLDER = "111122223333"
ROLE_PLACEHOLDER = f"arn:aws:iam::{ACCOUNT_PLACEHOLDER}:role/YOUR-ROLE"


def shown_role(role: str | None) -> str:
    """Return the ARN that a dry run shows: of a role's name alone AWS would have to be asked."""
    if role is None:
        return ROLE_PLACEHOLDER
    return role if ":" in role else f"arn:aws:iam::{ACCOUNT_PLACEHOLDER}:role/{role}"


class RecordedRequests:
    """The calls of a session that reaches nothing, each within AWS's own bounds.

    Raises: ValueError: as a call is made that is not; the message names the flag.
    """

    def __init__(self, region: str) -> None:
        self._requests: dict[str, list[dict[str, Any]]] = {}
        self.session = boto3.Session(
            aws_access_key_id="none",
            aws_secret_access_key="none",  # noqa: S106
            region_name=region,
        )
        events = self.session.events
        events.register("before-parameter-build", self._record)
        events.register("before-call", self._answer)

    def _record(self, params: dict[str, Any], model: Any, **kwargs: Any) -> None:
        if model.name != "PutObject":  # the code's archive
            check_bounds("sagemaker", model.name, params, FLAGS)
            self._requests.setdefault(model.name, []).append(copy.deepcopy(params))

    def _answer(self, model: Any, **kwargs: Any) -> tuple[AWSResponse, dict[str, Any]]:
        if model.name not in ANSWERS:
            raise AssertionError(f"a dry run must not need {model.name}")
        return AWSResponse("", 200, {}, None), copy.deepcopy(ANSWERS[model.name])

    def __getitem__(self, operation: str) -> list[dict[str, Any]]:
        """Return the parameters of all calls of an operation, in their order."""
        return self._requests[operation]
