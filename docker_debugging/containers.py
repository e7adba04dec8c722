"""Run a command in a container whose /opt/ml is a folder of this machine; leave no container."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from image import docker, output_of, succeeds

HOST = "algo-1"  # SageMaker's name for the first instance
WRITTEN = ("model", "output", "checkpoints", "code")
DEBUGGER = Path(__file__).with_name("debugger")
# Of the caller's environment nothing else reaches the container: no secret, as in a job.
PASSED_ON = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")


def container_name(base_dir: Path) -> str:
    """Return the name of the container that runs in a folder: there is one at a time."""
    return f"bin-counting-{hashlib.sha256(str(base_dir).encode()).hexdigest()[:12]}"


def create_command(
    image: str,
    name: str,
    base_dir: Path,
    variables: Mapping[str, str],
    command: list[str],
    flags: list[str],
) -> list[str]:
    """Return the command line that makes a container as SageMaker starts one.

    Args:
        base_dir: the folder that stands for /opt/ml.
        flags: what depends on this machine or on the kind of run.
    """
    passed_on = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    environment = passed_on | {"PYTHONUNBUFFERED": "1"} | dict(variables)
    mounts = [f"{base_dir / folder}:/opt/ml/{folder}" for folder in WRITTEN]
    # The photos are the user's own files under a second name.
    mounts += [f"{base_dir / 'input'}:/opt/ml/input:ro", f"{DEBUGGER}:/opt/debugger:ro"]
    return [
        *docker("create", "--init", "--rm", "--name", name, "--workdir", "/opt/ml/code"),
        # The toolkit waits for the name of its own host to resolve.
        *("--hostname", HOST, "--add-host", f"{HOST}:127.0.0.1"),
        # Workers hand photos over in shared memory, of which Docker gives 64 MB.
        *("--shm-size", "2g"),
        *(word for mount in mounts for word in ("--volume", mount)),
        *(word for key in environment for word in ("--env", f"{key}={environment[key]}")),
        *flags,
        image,
        *command,
    ]


def run_container(create: list[str], name: str, is_interactive: bool) -> int:
    """Make a container, run it to its end, and return its exit code.

    Whatever ends this early removes the container.

    Raises: ValueError: Docker cannot make it.
    """
    attach = ["--interactive"] if is_interactive else []
    client = None
    succeeds(docker("rm", "--force", name))  # of a debug.py that was killed
    try:
        with held_signals():  # or a container could appear after it was removed
            created = subprocess.run(create, capture_output=True, text=True, check=False)
        if created.returncode:
            reason = (created.stderr.strip() or "no reason given").splitlines()[0]
            raise ValueError(f"Docker cannot make the container ({reason}).")
        # In a session of its own, so that Ctrl-C is for this process alone; a shell wants it.
        client = subprocess.Popen(
            docker("start", "--attach", *attach, name), start_new_session=not is_interactive
        )
        return client.wait()
    finally:
        with held_signals():
            succeeds(docker("rm", "--force", name))
            if client:
                client.wait()


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Let Ctrl-C and the like wait until the block has ended."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take_back(base_dir: Path, image: str) -> None:
    """Make the user the owner of what a container wrote, which runs as root as in a job.

    Where Docker itself runs as the user, or on another machine's behalf, they own it already.
    """
    folders = [base_dir / name for name in WRITTEN]
    written = [path for folder in folders for path in [folder, *folder.rglob("*")]]
    if all(path.lstat().st_uid == os.geteuid() for path in written if path.exists()):
        return
    succeeds(
        [*docker("run", "--rm", "--volume", f"{base_dir}:/ml", "--entrypoint", "chown", image)]
        + ["-R", f"{os.geteuid()}:{os.getegid()}", *(f"/ml/{name}" for name in WRITTEN)]
    )


def has_network() -> bool:
    """Say whether containers have a network; a daemon without a bridge gives them loopback only."""
    return succeeds(docker("network", "inspect", "bridge"))


def gpu_flags() -> list[str]:
    """Return the flags that hand over all GPUs, none where there is no GPU or no runtime for it."""
    if not shutil.which("nvidia-smi") or not succeeds(["nvidia-smi", "--list-gpus"]):
        return []
    runtimes = json.loads(output_of(docker("info", "--format", "{{json .Runtimes}}")))
    has_runtime = "nvidia" in runtimes or shutil.which("nvidia-container-runtime-hook")
    return ["--gpus", "all"] if has_runtime else []
