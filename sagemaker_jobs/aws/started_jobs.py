"""Training and processing jobs that are there: what AWS says of one, and its log."""

import sys
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from aws.ending_signals import run_child

FETCH_LOGS = Path(__file__).resolve().parents[2] / "metrics" / "fetch_logs.py"
ENDED = ("Completed", "Failed", "Stopped")


def describe(sagemaker: Any, job: str) -> dict[str, Any]:
    """Return what AWS says of a training job. Raises: ValueError: there is no such job."""
    try:
        return sagemaker.describe_training_job(TrainingJobName=job)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":
            raise
        raise ValueError(
            f"{job}: no such training job in {sagemaker.meta.region_name}; "
            "`python sagemaker_jobs/job_report.py list` names those that there are."
        ) from error


def fetch_logs(job: str, region: str, follow: bool) -> int:
    """Run metrics/fetch_logs.py and return its exit code."""
    command = [sys.executable, str(FETCH_LOGS), job, "--region", region]
    return run_child(command + ["--follow"] * follow)
