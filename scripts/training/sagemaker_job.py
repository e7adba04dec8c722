"""Whether a process runs in a SageMaker job, and what the job's report says of its end."""

import contextlib
import os
from pathlib import Path


def in_sagemaker_job() -> bool:
    """Say whether SageMaker started this process, in a job or in a container here."""
    return "SM_MODEL_DIR" in os.environ


def tell_failure(reason: str) -> None:
    """Leave the reason of a failure where version 3 of the SDK has SageMaker look for it.

    Its programs would say no more than the exit code. Version 2's toolkit reads what follows the
    name of an exception in the log, and does not name the file.
    """
    if path := os.environ.get("SM_OUTPUT_FAILURE"):
        failure = Path(path)
        with contextlib.suppress(OSError):  # a full disk may be the very reason; the log has it
            # Of several processes the first to fail says why.
            if not failure.exists() or not failure.stat().st_size:
                failure.write_text(reason)
