"""Import the SageMaker SDK so that it neither reports to AWS nor reads defaults of its own.

A defaults file of the SDK may add environment variables, tags or networks to every request. What
a job is has to be seen in its command, and --dry_run has to show all of it.
"""

import gc
import importlib
import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3

from aws.settings import bucket_and_prefix

MODULES = (
    *("debugger", "huggingface", "image_uris", "inputs", "processing", "network", "pytorch"),
    "tuner",
)
DEFAULTS = Path(__file__).parent / "sdk_defaults.yaml"


def import_sagemaker() -> ModuleType:
    """Return the SDK. It takes seconds to import: call this where it is needed, not before."""
    # Read with every session, not only once.
    os.environ["SAGEMAKER_ADMIN_CONFIG_OVERRIDE"] = str(DEFAULTS)
    os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(DEFAULTS)
    os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
    # The SDK tells on every import where it looked for defaults.
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)
    excepthook, is_new = sys.excepthook, "sagemaker" not in sys.modules
    sagemaker = importlib.import_module("sagemaker")
    for name in MODULES:
        importlib.import_module(f"sagemaker.{name}")
    if is_new:
        # Nothing of it is ever garbage. Python would look through all of it once more as it ends,
        # which takes half a second.
        gc.freeze()
    # The defaults are checked when they are loaded. The SDK would check them again with each of
    # some thirty looks a job, which takes longer than everything else.
    sagemaker.utils.validate_sagemaker_config = lambda config: None
    # The SDK prints every uncaught error in a frame of its own.
    sys.excepthook = excepthook
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)
    # Beside each exception it prints where to read on. A tuner asks its estimator, which never
    # trains itself, for a model, and warns of the answer.
    logging.getLogger("sagemaker").setLevel(logging.CRITICAL)
    return sagemaker


def sdk_session(output: str, session: boto3.Session) -> Any:
    """Return the SDK's session; the bucket is named so that it does not create one."""
    return import_sagemaker().Session(
        boto_session=session, default_bucket=bucket_and_prefix(output)[0]
    )
