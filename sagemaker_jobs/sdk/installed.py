"""Which version of the SageMaker SDK is installed, and what this project asks of either.

All contact with the SDK lies in this room: an adapter a version, and a job is the same data for
both. Everything else on AWS is boto3.
"""

import functools
import importlib.metadata
import sys
from typing import Any, Protocol

from jobs.processing_job import DatasetJob, Stage
from jobs.training_job import TrainingJob
from jobs.tuning_job import TuningJob
from sdk import version2, version3
from sdk.submissions import LocalTraining, Submission


class Sdk(Protocol):
    """What an adapter does. Whatever creates a job uploads its code first.

    Raises: ClientError: AWS refuses a job.
    """

    def load(self) -> Any:
        """Import the SDK, which takes seconds; the others do it when they are first asked."""

    def listed_image_uri(self, **arguments: Any) -> str:
        """Return what the SDK's own table says. Raises: ValueError: it has no such image."""

    def create_training_job(self, job: TrainingJob, submission: Submission) -> None:
        """Create a training job."""

    def create_tuning_job(self, job: TuningJob, submission: Submission) -> None:
        """Create a tuning job."""

    def create_processing_job(
        self, job: DatasetJob, stage: Stage, name: str, submission: Submission
    ) -> None:
        """Create the job of a stage."""

    def train_locally(self, training: LocalTraining) -> None:
        """Train in the local image.

        Raises: RuntimeError: the training failed. ImportError: there is no Docker Compose.
        """


ADAPTERS: dict[str, Sdk] = {"2": version2, "3": version3}
# Version 3's adapter needs private parts of it.
TESTED = {"2": "2.257.7", "3": "3.27.0"}


@functools.cache
def installed_sdk() -> Sdk:
    """Return the adapter of the version that is installed.

    Raises: ValueError: none is, or one that is not known here.
    """
    again = "pip install -r requirements.txt brings the one that this project is tested with."
    try:
        version = importlib.metadata.version("sagemaker")
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"The SageMaker SDK is not installed: {again}") from error
    major = version.partition(".")[0]
    if major not in ADAPTERS:
        raise ValueError(f"Version {version} of the SageMaker SDK is not known here: {again}")
    if version != TESTED[major]:
        told = f"sagemaker {version} is installed; this was tested with {TESTED[major]}."
        print(told, file=sys.stderr)
    return ADAPTERS[major]
