"""Run a job in the local image, through the SDK's own local mode: `vit.py --local`.

docker_debugging/debug.py shows more and keeps checkpoints; this is what a notebook in local mode
does, and ends in the same model.tar.gz as a job.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3

import container
from aws.quiet_sdk import import_sagemaker
from aws.recorded_requests import ROLE_PLACEHOLDER

BUILD_IMAGE = Path(__file__).resolve().parents[2] / "docker_debugging" / "image.py"


def run_locally(
    name: str, hyperparameters: Mapping[str, Any], source_dir: str, dataset: Path, output: Path
) -> None:
    """Train in the local image; model.tar.gz and output.tar.gz go to OUTPUT/NAME.

    Args:
        dataset: folder of data_prep/build_dataset.py.

    Raises: ValueError: no dataset, no image, no Docker Compose. RuntimeError: the training failed.
    """
    if not (dataset / "README.md").exists():
        raise ValueError(
            f"--dataset {dataset}: there is no finished dataset here; with --local it is a folder "
            "of data_prep/build_dataset.py."
        )
    _ensure_image()
    sdk = import_sagemaker()
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
            instance_type="local_gpu" if _has_gpus() else "local",
            instance_count=1,
            hyperparameters=dict(hyperparameters),
            output_path=output.resolve().as_uri(),
            sagemaker_session=session,
        )
        try:
            estimator.fit({"dataset": dataset.resolve().as_uri()}, job_name=name)
        except ImportError as error:  # the SDK's word for it
            raise ValueError(
                "the SDK's local mode needs Docker Compose: apt-get install docker-compose; "
                "docker_debugging/debug.py works without."
            ) from error
        finally:
            _remove_containers(container_root)


def _ensure_image() -> None:
    """Build the local image if it is not there. Raises: ValueError: it cannot be had."""
    if (
        shutil.which("docker")
        and _docker("image", "inspect", container.LOCAL_IMAGE).returncode == 0
    ):
        return
    # Its progress and its errors are for the user; its output, the image's name, is not.
    command = [sys.executable, str(BUILD_IMAGE)]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
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
