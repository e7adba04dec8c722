"""Run a job in the local image, through the SDK's own local mode: `vit.py --local`.

docker_debugging/debug.py shows more and keeps checkpoints; this is what a notebook in local mode
does, and ends in the same model.tar.gz as a job.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import container
from aws.ending_signals import signals_raised_again
from jobs.training_job import Hyperparameters
from sdk.installed import installed_sdk
from sdk.submissions import LocalTraining

ONE_GPU = "CUDA_VISIBLE_DEVICES"
BUILD_IMAGE = Path(__file__).resolve().parents[2] / "docker_debugging" / "image.py"


def run_locally(
    name: str,
    hyperparameters: Hyperparameters,
    source_dir: str,
    dataset: Path,
    output: Path,
    instance_type: str,
) -> None:
    """Train in the local image; model.tar.gz and output.tar.gz go to OUTPUT/NAME.

    Args:
        dataset: folder of data_prep/build_dataset.py.
        instance_type: of the job that this stands for. Where it has several GPUs, all of this
            machine's train, a process each, and else one.

    Raises: ValueError: no dataset, no Docker, no image, no Docker Compose, a folder that the SDK
        cannot name. RuntimeError: the training failed. EndedBySignal: a signal has come.
    """
    if not (dataset / "README.md").exists():
        raise ValueError(
            f"--dataset {dataset}: there is no finished dataset here; with --local it is a folder "
            "of data_prep/build_dataset.py."
        )
    _check_mountable("--dataset", dataset)
    _check_mountable("--output", output)
    _ensure_image()
    sdk = installed_sdk()
    sdk.load()
    has_gpus = _has_gpus()
    # Docker hands over all GPUs of this machine: torchrun starts a process on each, or one is seen.
    # train.py takes no two in one process.
    is_distributed = has_gpus and container.num_gpus(instance_type) > 1
    one_gpu = {} if is_distributed else {ONE_GPU: os.environ.get(ONE_GPU, "0")}
    output.mkdir(parents=True, exist_ok=True)
    # The container's files belong to root, which another user cannot remove.
    with tempfile.TemporaryDirectory(
        dir=output.resolve(), ignore_cleanup_errors=True
    ) as container_root:
        training = LocalTraining(
            name=name,
            hyperparameters=hyperparameters,
            source_dir=source_dir,
            dataset=dataset.resolve(),
            output=output.resolve() / name,
            container_root=container_root,
            has_gpus=has_gpus,
            is_distributed=is_distributed,
            # Nor could it remove what Python compiles beside the code.
            environment={"PYTHONDONTWRITEBYTECODE": "1", **one_gpu},
        )
        try:
            with signals_raised_again():
                sdk.train_locally(training)
        except ImportError as error:  # the SDK's word for no Compose, and for what else it lacks
            raise ValueError(
                f"the SDK's local mode needs Docker Compose ({error}): apt-get install "
                "docker-compose; docker_debugging/debug.py works without."
            ) from error
        finally:
            _remove_containers(container_root)


def _check_mountable(flag: str, folder: Path) -> None:
    """Check a folder's path. Raises: ValueError: the SDK, or Docker, would end it too early."""
    if cut := [character for character in "?#;:" if character in str(folder.resolve())]:
        raise ValueError(
            f"{flag} {folder}: the SDK's local mode cannot mount a folder with {cut[0]} in its "
            "path; rename it, or use docker_debugging/debug.py."
        )


def _ensure_image() -> None:
    """Build the local image if it is not there. Raises: ValueError: it cannot be had, or used."""
    if shutil.which("docker") is None:
        raise ValueError(
            "--local: the SDK's local mode runs `docker`, which is not installed; "
            "docker_debugging/debug.py takes Podman too, and with --no_docker neither."
        )
    if _docker("image", "inspect", container.LOCAL_IMAGE).returncode == 0:
        return
    # Its progress and its errors are for the user; its output, the image's name, is not.
    command = [sys.executable, str(BUILD_IMAGE)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as build:
        try:
            code = build.wait()
        except BaseException:
            build.terminate()  # subprocess.run would kill it, and leave `docker build` behind
            raise
    if code:
        raise ValueError(
            "the local image cannot be had, as said above; docker_debugging/doctor.py says more."
        )


def _has_gpus() -> bool:
    """Say whether there is a GPU, and Docker can hand it over."""
    has_runtime = "nvidia" in _docker("info", "--format", "{{json .Runtimes}}").stdout
    return bool(shutil.which("nvidia-smi")) and has_runtime


def _remove_containers(container_root: str) -> None:
    """Remove the containers that the SDK's Compose project has left, ended or not."""
    label = '{{.ID}} {{.Label "com.docker.compose.project.working_dir"}}'
    for line in _docker("ps", "--all", "--format", label).stdout.splitlines():
        container_id, _, folder = line.partition(" ")
        if folder.startswith(container_root):
            _docker("rm", "--force", container_id)


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
