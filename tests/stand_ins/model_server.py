"""The inference container's model server without Docker: real multi-model-server, real toolkit.

    cd tests; python -m stand_ins.model_server      # makes .venv-serving, once; a minute

.venv-serving holds the model server, SageMaker's toolkits and the container's transformers, and
sees the packages of the environment that runs this (torch, Pillow, numpy, ...).
"""

import contextlib
import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import psutil

from paths import ROOT
from stand_ins.served_model import ServedModel, wait_until_it_answers

FOLDER = ROOT / ".venv-serving"
REQUIREMENTS = Path(__file__).with_name("serving_requirements.txt")
STAMP = FOLDER / ".installed"
HANDLER_SERVICE = "sagemaker_huggingface_inference_toolkit.handler_service"
# PyPI's toolkit, older than the container's, imports what transformers 5 no longer has.
SHIM = """
import transformers.file_utils
import transformers.utils
transformers.utils.is_tf_available = lambda: False
transformers.file_utils.is_tf_available = lambda: False
"""
# What the toolkit writes to /etc and reads from its package, in a folder of the test's own.
# Source: sagemaker_inference/model_server.py and etc/default-mms.properties.
CONFIGURATION = """
enable_envvars_config=true
decode_input_request=false
load_models=ALL
default_response_timeout=60
default_workers_per_model={workers}
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{port}
vmargs=-XX:-UseContainerSupport
default_service_handler={handler_service}
"""


def ensure_environment() -> Path:
    """Make the environment where it is not there or out of date; return its Python."""
    python = FOLDER / "bin" / "python"
    parts = [REQUIREMENTS.read_text(), sys.version, sysconfig.get_path("purelib"), str(FOLDER)]
    fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    if STAMP.exists() and STAMP.read_text() == fingerprint:
        return python
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER)  # pip comes with the packages that it sees
    [site_packages] = FOLDER.glob("lib/python*/site-packages")
    (site_packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--no-deps", "--requirement", str(REQUIREMENTS)], check=True)
    STAMP.write_text(fingerprint)
    return python


def free_port() -> int:
    """Return a port that nobody uses; the model server takes none above 32767."""
    while True:
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return tried.getsockname()[1]


@contextlib.contextmanager
def serve_as_container(
    model_dir: Path, workers: int = 1, **variables: str
) -> Iterator[ServedModel]:
    """Run the model server on a model folder as the container does, and yield it once it serves."""
    python = ensure_environment()
    # Short: the server and its workers talk over Unix sockets in it.
    folder = Path(tempfile.mkdtemp(prefix="mms-"))
    port = free_port()
    (folder / "sitecustomize.py").write_text(SHIM)
    configuration = folder / "mms.properties"
    configuration.write_text(
        CONFIGURATION.format(port=port, workers=workers, handler_service=HANDLER_SERVICE)
    )
    environment = os.environ | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        # As the toolkit has it: the model folder's code first.
        "PYTHONPATH": f"{model_dir / 'code'}{os.pathsep}{folder}",
        "TMPDIR": str(folder),
        "TEMP": str(folder),
        "SAGEMAKER_MODEL_SERVER_WORKERS": str(workers),
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(python.parent / "multi-model-server"), "--start", "--foreground"]
    command += ["--model-store", "/", "--models", f"model={model_dir}"]
    command += ["--mms-config", str(configuration)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment | variables, stdout=log, stderr=log
        )
    served = ServedModel("127.0.0.1", port, process.pid)
    try:
        try:
            wait_until_it_answers(served, process)
            yield served
        except BaseException:
            print((folder / "log").read_text()[-20_000:])
            raise
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
            for running in served.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    running.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    print(ensure_environment())
