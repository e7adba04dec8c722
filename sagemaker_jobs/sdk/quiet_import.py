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

DEFAULTS = Path(__file__).parent / "sdk_defaults.yaml"


def quietly_imported(package: str, *modules: str) -> ModuleType:
    """Import modules and return their package. It takes seconds: call this where it is needed."""
    # Read with every session, not only once.
    os.environ["SAGEMAKER_ADMIN_CONFIG_OVERRIDE"] = str(DEFAULTS)
    os.environ["SAGEMAKER_USER_CONFIG_OVERRIDE"] = str(DEFAULTS)
    # The SDK tells on every import where it looked for defaults.
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)
    excepthook, is_new = sys.excepthook, package not in sys.modules
    for name in (package, *modules):
        importlib.import_module(name)
    if is_new:
        # Nothing of it is ever garbage. Python would look through all of it once more as it ends,
        # which takes half a second.
        gc.freeze()
    # The SDK prints every uncaught error in a frame of its own.
    sys.excepthook = excepthook
    logging.getLogger("sagemaker.config").setLevel(logging.WARNING)
    # Beside each exception it prints where to read on. A tuner asks its estimator, which never
    # trains itself, for a model, and warns of the answer.
    logging.getLogger("sagemaker").setLevel(logging.CRITICAL)
    return sys.modules[package]
