"""Make an environment for SageMaker's own training toolkit, the program that runs a job's script.

    python docker_debugging/toolkit.py

debug.py --no_docker and the tests of the container's contract run scripts/train.py through it, as
the training container does. .venv-toolkit holds the toolkit alone, and sees the packages of the
environment that runs this entry (torch, transformers, ...). Takes a minute, once.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
import venv
from collections.abc import Mapping
from pathlib import Path

from image import ROOT
from plain_parser import PlainParser
from stopping import held_signals, raise_when_stopped
from this_machine import check_system

FOLDER = ROOT / ".venv-toolkit"
REQUIREMENTS = Path(__file__).with_name("toolkit_requirements.txt")
CONSTRAINTS = ROOT / "requirements.txt"
STAMP = FOLDER / ".installed"
HOST = "localhost"  # SageMaker's algo-1 does not resolve here, and the toolkit would wait for it
MARK = "BIN_COUNTING_RUN"
# All that a run gets of the caller's environment: no secret, as in a job.
KEPT_VARIABLES = (
    *("HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
)


def ensure_toolkit() -> Path:
    """Make the environment where it is not there or out of date; return its program `train`.

    Raises: ValueError: there is no compiler, or pip cannot install the toolkit.
    """
    train = FOLDER / "bin" / "train"
    if STAMP.exists() and STAMP.read_text() == fingerprint():
        return train
    check_compiler()
    print(f"Setting up {FOLDER.name} (once; a minute)", file=sys.stderr)
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER)  # pip comes with the packages that it sees
    [site_packages] = FOLDER.glob("lib/python*/site-packages")
    (site_packages / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = str(FOLDER / "bin" / "python")
    # The constraints keep the toolkit from bringing another numpy than the script's own.
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--requirement", str(REQUIREMENTS), "--constraint", str(CONSTRAINTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stderr, file=sys.stderr)
        raise ValueError(
            f"pip cannot install {REQUIREMENTS.name}; it says why above. The same command tries "
            "again."
        )
    STAMP.write_text(fingerprint())
    return train


def fingerprint() -> str:
    """Return what the environment was made from: requirements, Python, packages, place."""
    parts = [REQUIREMENTS.read_text(), CONSTRAINTS.read_text(), sys.version]
    parts += [sysconfig.get_path("purelib"), str(FOLDER)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def check_compiler() -> None:
    """Check for what compiles the toolkit. Raises: ValueError: it is not there."""
    has_headers = Path(sysconfig.get_path("include"), "Python.h").exists()
    if shutil.which("gcc") is None or not has_headers:
        raise ValueError(
            "SageMaker's toolkit is compiled here, which needs gcc and Python's headers: apt-get "
            "install gcc python3-dev."
        )


def environment_of_run(base_dir: Path) -> dict[str, str]:
    """Return the environment of `train`, with `base_dir` in the place of /opt/ml."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    # torchrun is in the second folder.
    folders = [str(FOLDER / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return kept | {
        "PATH": os.pathsep.join(filter(None, folders)),
        "PYTHONUNBUFFERED": "1",  # lines appear as they come
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # HOME leads to the caller's tokens and keys, which a job does not have either.
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "SAGEMAKER_BASE_DIR": str(base_dir),
        "SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main",
    }


def run_in_toolkit(
    command: list[str], base_dir: Path, variables: Mapping[str, str], is_interactive: bool
) -> int:
    """Run a command in the toolkit's environment to its end, and return its exit code.

    Whatever ends this early stops all that the command started.
    """
    # torchrun and debugpy detach what they start: a mark in its environment finds it again.
    mark = uuid.uuid4().hex
    environment = environment_of_run(base_dir) | dict(variables) | {MARK: mark}
    # In a session of its own, so that Ctrl-C is for this process alone; a shell wants it.
    process = subprocess.Popen(
        command, cwd=base_dir / "code", env=environment, start_new_session=not is_interactive
    )
    try:
        returned = process.wait()
        # As a shell and Docker count: a signal is 128 and its number.
        return returned if returned >= 0 else 128 - returned
    finally:
        with held_signals():
            while marked := processes_with(mark):
                for left in marked:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(left, signal.SIGKILL)
                time.sleep(0.05)
            process.wait()


def processes_with(mark: str) -> list[int]:
    """Return the ids of processes that a marked one started, dead ones left out."""
    import psutil  # here, since --help needs nothing installed

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_marked = process.environ().get(MARK) == mark
            if is_marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def main(argv: list[str] | None = None) -> None:
    """Make the environment and print the path of `train`."""
    parser = PlainParser(__doc__)
    with parser.errors_of_one_line():
        parser.parse_args(argv)
        check_system()
        raise_when_stopped()  # a TERM alone would leave pip behind
        print(ensure_toolkit())


if __name__ == "__main__":
    main()
