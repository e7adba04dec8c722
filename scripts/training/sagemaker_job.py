"""Whether a process runs in a SageMaker job."""

import os


def in_sagemaker_job() -> bool:
    """Say whether SageMaker's toolkit started this process, in a job or in a container here."""
    return "SM_MODEL_DIR" in os.environ
