"""Run a job in the local image, through the SDK's own local mode: `vit.py --local`.

docker_debugging/debug.py shows more and keeps checkpoints; this is what a notebook in local mode
does, and ends in the same model.tar.gz as a job.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3

import container
from aws.ending_signals import signals_raised_again
from aws.quiet_sdk import import_sagemaker
from aws.recorded_requests import ROLE_PLACEHOLDER

ONE_GPU = "CUDA_VISIBLE_DEVICES"
BUILD_IMAGE = Path(__file__).resolve().parents[2] / "docker_debugging" / "image.py"


def run_locally(
    name: str,
    hyperparameters: Mapping[str, Any],
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
    channel = _as_the_sdk_names("--dataset", dataset)
    output_uri = _as_the_sdk_names("--output", output)
    _ensure_image()
    sdk = import_sagemaker()
    has_gpus = _has_gpus()
    output.mkdir(parents=True, exist_ok=True)
    # The container's files belong to root, which another user cannot remove.
    with tempfile.TemporaryDirectory(
        dir=output.resolve(), ignore_cleanup_errors=True
    ) as container_root:
        session = sdk.LocalSession(_session_without_account())
        session.config = {"local": {"local_code": True, "container_root": container_root}}
        estimator = sdk.huggingface.HuggingFace(
            entry_point="train.py",
            source_dir=source_dir,
            role=ROLE_PLACEHOLDER,
            image_uri=container.LOCAL_IMAGE,
            py_version=container.PYTHON_VERSION,
            instance_type="local_gpu" if has_gpus else "local",
            instance_count=1,
            hyperparameters=dict(hyperparameters),
            output_path=output_uri,
            sagemaker_session=session,
            **_processes(instance_type, has_gpus),
        )
        try:
            with _compose_of_any_version(), signals_raised_again():
                estimator.fit({"dataset": channel}, job_name=name)
        except ImportError as error:  # the SDK's word for no Compose, and for what else it lacks
            raise ValueError(
                f"the SDK's local mode needs Docker Compose ({error}): apt-get install "
                "docker-compose; docker_debugging/debug.py works without."
            ) from error
        finally:
            _remove_containers(container_root)


def _processes(instance_type: str, has_gpus: bool) -> dict[str, Any]:
    """Return what an estimator is told of processes: train.py takes no two GPUs in one.

    Docker hands over all GPUs of this machine, and torchrun starts a process on each.
    """
    if has_gpus and container.num_gpus(instance_type) > 1:
        return {"distribution": {"torch_distributed": {"enabled": True}}}
    return {"environment": {ONE_GPU: os.environ.get(ONE_GPU, "0")}}


def _as_the_sdk_names(flag: str, folder: Path) -> str:
    """Return a folder's URI. Path.as_uri() writes some characters as %20, which the SDK leaves so.

    Raises: ValueError: the SDK, or Docker, would end the path at one of its characters.
    """
    path = str(folder.resolve())
    if cut := [character for character in "?#;:" if character in path]:
        raise ValueError(
            f"{flag} {folder}: the SDK's local mode cannot mount a folder with {cut[0]} in its "
            "path; rename it, or use docker_debugging/debug.py."
        )
    return f"file://{path}"


@contextlib.contextmanager
def _compose_of_any_version() -> Iterator[None]:
    """Let the SDK have Docker's own Compose, while the block runs: it knows version 2 alone.

    For others it looks for the program docker-compose, which newer installations lack.
    """
    if shutil.which("docker-compose") or _docker("compose", "version").returncode:
        yield
        return
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "docker-compose")
        program.write_text('#!/bin/sh\nexec docker compose "$@"\n')
        program.chmod(0o755)
        os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


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


def _session_without_account() -> boto3.Session:
    """Return a session that holds no secret: the SDK passes what it finds on to the container."""
    return boto3.Session(
        aws_access_key_id="none",
        aws_secret_access_key="none",  # noqa: S106
        region_name=container.DEFAULT_REGION,
    )
