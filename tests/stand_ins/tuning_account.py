"""A tuning job at the AWS server of the tests: what moto lacks, as AWS documents it."""

import json
from typing import Any

import pytest
from moto.core.responses import ActionResult
from moto.sagemaker.exceptions import ResourceNotFound
from moto.sagemaker.models import sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse

from stand_ins.aws_server import ACCOUNT, REGION, AwsServer

# As the SDK and AWS encode them: JSON, and a category as a text.
STATIC = {
    "model_name_or_path": '"google/vit-base-patch16-224-in21k"',
    "metric_for_best_model": '"eval_loss"',
    "do_train": "true",
    "do_eval": "true",
    "do_predict": "false",
    "bf16": "true",
    "weight_decay": '"0.05"',
    "sagemaker_program": '"train.py"',
    "sagemaker_job_name": '"bins-tune"',
}


def trial_summary(
    number: int, objective: float | None, learning_rate: str, status: str = "Completed"
) -> dict[str, Any]:
    """Return a trial as ListTrainingJobsForHyperParameterTuningJob tells of it."""
    summary: dict[str, Any] = {
        "TrainingJobName": f"bins-tune-{number:03}-0a1b2c3d",
        "TrainingJobArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/bins-{number}",
        "CreationTime": 1_700_000_000 + number,
        "TrainingJobStatus": status,
        "TunedHyperParameters": {
            "learning_rate": learning_rate,
            "per_device_train_batch_size": '"64"',
            "num_train_epochs": str(number + 1),
        },
    }
    if objective is not None:
        summary["FinalHyperParameterTuningJobObjectiveMetric"] = {
            "MetricName": "eval_loss",
            "Value": objective,
        }
    if status == "Failed":
        summary["FailureReason"] = "AlgorithmError: out of memory"
    return summary


TRIALS = [
    trial_summary(1, 1.5, "3.1e-05"),
    trial_summary(2, 1.2, "5.25e-05"),
    trial_summary(3, 1.1, "9.9e-05", status="Stopped"),
    trial_summary(4, None, "1.2e-05", status="Failed"),
]


def tuning_job_at(
    aws: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    trials: list[dict[str, Any]],
    static: dict[str, str] = STATIC,
) -> None:
    """Make the tuning job bins-tune with these trials, two a page."""
    sagemaker = aws.client("sagemaker")
    objective = {"Type": "Minimize", "MetricName": "eval_loss"}
    algorithm = {"TrainingImage": "i", "TrainingInputMode": "File"}
    definition = {
        "StaticHyperParameters": static,
        "AlgorithmSpecification": algorithm,
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/jobs",
        "OutputDataConfig": {"S3OutputPath": "s3://photos/out"},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        "InputDataConfig": [
            {
                "ChannelName": "dataset",
                "DataSource": {
                    "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://photos/bins/"}
                },
            }
        ],
    }
    sagemaker.create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="bins-tune",
        HyperParameterTuningJobConfig={
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": objective,
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2},
        },
        TrainingJobDefinition=definition,
    )
    for trial in trials:
        sagemaker.create_training_job(
            TrainingJobName=trial["TrainingJobName"],
            HyperParameters={
                **static,
                **trial["TunedHyperParameters"],
                "_tuning_objective_metric": '"eval_loss"',
            },
            AlgorithmSpecification=algorithm,
            RoleArn=definition["RoleArn"],
            OutputDataConfig=definition["OutputDataConfig"],
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            StoppingCondition=definition["StoppingCondition"],
        )

    def listed(self: Any) -> ActionResult:
        request = json.loads(self.body)
        if request["HyperParameterTuningJobName"] != "bins-tune":
            raise ResourceNotFound(message="no such tuning job")
        start = int(request.get("NextToken", 0))
        page = {"TrainingJobSummaries": trials[start : start + 2]}
        rest = {"NextToken": str(start + 2)} if start + 2 < len(trials) else {}
        return ActionResult({**page, **rest})

    monkeypatch.setattr(
        SageMakerResponse,
        "list_training_jobs_for_hyper_parameter_tuning_job",
        listed,
        raising=False,
    )


def all_tuning_jobs() -> Any:
    """Return the server's own records by name; their attributes are what describe tells."""
    return sagemaker_backends[ACCOUNT][REGION].hyper_parameter_tuning_jobs
