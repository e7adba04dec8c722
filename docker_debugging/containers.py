"""Run a command in a container whose /opt/ml is a folder of this machine; leave no container."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from image import architecture, docker, is_podman, output_of, succeeds
from stopping import held_signals
from this_machine import gpus, mount_label

HOST = "algo-1"  # SageMaker's name for the first instance
WRITTEN = ("model", "output", "checkpoints", "code")
DEBUGGER = Path(__file__).with_name("debugger")
# Of the caller's environment nothing else reaches the container: no secret, as in a job.
PASSED_ON = ("HF_HUB_OFFLINE", "OMP_NUM_THREADS")
# Where nvidia-ctk describes the GPUs that Podman hands over.
PODMAN_GPUS = (Path("/etc/cdi/nvidia.yaml"), Path("/var/run/cdi/nvidia.yaml"))


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
    mounts = [mount(base_dir / folder, f"/opt/ml/{folder}") for folder in WRITTEN]
    # The photos are the user's own files under a second name.
    mounts += [mount(base_dir / "input", "/opt/ml/input", "ro")]
    mounts += [mount(DEBUGGER, "/opt/debugger", "ro")]
    return [
        # No --workdir: AWS's start script compiles a library in the image's own, before all else.
        *docker("create", "--init", "--rm", "--name", name),
        # The toolkit waits for the name of its own host to resolve.
        *("--hostname", HOST, "--add-host", f"{HOST}:127.0.0.1"),
        # Workers hand photos over in shared memory, of which Docker gives 64 MB.
        *("--shm-size", "2g"),
        *(word for volume in mounts for word in ("--volume", volume)),
        *(word for key in environment for word in ("--env", f"{key}={environment[key]}")),
        *flags,
        image,
        *command,
    ]


def mount(folder: Path, target: str, *options: str) -> str:
    """Return what --volume wants for a folder of this machine."""
    options = tuple(filter(None, (*options, mount_label())))
    return ":".join(filter(None, (str(folder), target, ",".join(options))))


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
            reason = " ".join(created.stderr.split()) or "no reason given"
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


def take_back(base_dir: Path, image: str) -> None:
    """Make the user the owner of what a container wrote, which runs as root as in a job.

    Where Docker itself runs as the user, or on another machine's behalf, they own it already.
    """
    folders = [base_dir / name for name in WRITTEN]
    written = [path for folder in folders for path in [folder, *folder.rglob("*")]]
    if all(path.lstat().st_uid == os.geteuid() for path in written if path.exists()):
        return
    succeeds(
        [*docker("run", "--rm", "--volume", mount(base_dir, "/ml"), "--entrypoint", "chown", image)]
        + ["-R", f"{os.geteuid()}:{os.getegid()}", *(f"/ml/{name}" for name in WRITTEN)]
    )


def platform_flags(image: str) -> list[str]:
    """Return the flags that say what an image was built for, where that is not this machine."""
    here = f"linux/{architecture()}"
    built = output_of(docker("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image))
    return [] if built == here else ["--platform", built]


def gpu_flags(num_wanted: int) -> list[str]:
    """Return the flags that hand over GPUs: no more than there are, none without a runtime for it.

    Args:
        num_wanted: what the job's instance has. With more than those Trainer would split its
            batches, where the job does not.
    """
    num_gpus = min(num_wanted, len(gpus()))
    if not num_gpus:
        return []
    if is_podman():  # its --gpus takes names
        devices = [f"nvidia.com/gpu={number}" for number in range(num_gpus)]
        is_known = any(path.exists() for path in PODMAN_GPUS)
        return [word for name in devices for word in ("--device", name)] if is_known else []
    runtimes = json.loads(output_of(docker("info", "--format", "{{json .Runtimes}}")))
    has_runtime = "nvidia" in runtimes or shutil.which("nvidia-container-runtime-hook")
    return ["--gpus", str(num_gpus)] if has_runtime else []
