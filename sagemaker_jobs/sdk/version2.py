"""Version 2 of the SageMaker SDK: HuggingFace estimators, and its tuner, processor, local mode."""

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3

import container
from aws.recorded_requests import ROLE_PLACEHOLDER
from aws.settings import bucket_and_prefix
from jobs.metric_definitions import metric_definitions
from jobs.processing_job import DatasetJob, Stage
from jobs.training_job import PROFILER_INTERVAL, PROFILER_RULES, TrainingJob
from jobs.tuning_job import TuningJob
from sdk.arguments import processor_arguments, run_arguments, tuner_arguments
from sdk.quiet_import import quietly_imported
from sdk.submissions import LocalTraining, Submission

MODULES = (
    *("debugger", "huggingface", "image_uris", "inputs", "network", "parameter", "processing"),
    *("pytorch", "tuner"),
)


def load() -> ModuleType:
    """Return the SDK."""
    os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
    sdk = quietly_imported("sagemaker", *(f"sagemaker.{name}" for name in MODULES))
    # The defaults are checked when they are loaded. The SDK would check them again with each of
    # some thirty looks a job, which takes longer than everything else.
    sdk.utils.validate_sagemaker_config = lambda config: None
    return sdk


def listed_image_uri(**arguments: Any) -> str:
    """Return what the SDK's own table says. Raises: ValueError: it has no such image."""
    return load().image_uris.retrieve(**arguments)


def create_training_job(job: TrainingJob, submission: Submission) -> None:
    """Upload the code and create the job."""
    # Not wait=True: a job is followed by job_report.py, and goes on where that ends.
    _estimator(job, submission).fit(_channels(job), job_name=job.name, wait=False)


def create_tuning_job(job: TuningJob, submission: Submission) -> None:
    """Upload the code and create the job."""
    sdk = load()
    warm_start = None
    if job.warm_start_from is not None:
        warm_start = sdk.tuner.WarmStartConfig(
            sdk.tuner.WarmStartTypes.IDENTICAL_DATA_AND_ALGORITHM, {job.warm_start_from}
        )
    sdk.tuner.HyperparameterTuner(
        _estimator(job.trial, submission),
        warm_start_config=warm_start,
        tags=job.trial.account.tag_list or None,  # AWS gives them to the trials too
        **tuner_arguments(job, sdk.parameter, job.space.batch_sizes),
    ).fit(_channels(job.trial), job_name=job.name, wait=False)


def create_processing_job(job: DatasetJob, stage: Stage, name: str, submission: Submission) -> None:
    """Upload the code and create the job of a stage."""
    sdk = load()
    sdk.processing.FrameworkProcessor(
        # It packs the code. Without an output path it would look for a bucket to make.
        estimator_cls=functools.partial(
            sdk.pytorch.PyTorch, output_path=job.code, output_kms_key=job.account.kms_key
        ),
        framework_version=container.CPU_TRAINING_PYTORCH,
        py_version=container.PYTHON_VERSION,
        sagemaker_session=_session(job.code, submission.session),
        **processor_arguments(job, stage, submission, sdk.network),
    ).run(**run_arguments(stage, name, submission))


def train_locally(training: LocalTraining) -> None:
    """Train in the local image.

    Raises: RuntimeError: the training failed. ImportError: there is no Docker Compose.
    """
    sdk = load()
    session = sdk.LocalSession(_session_without_account())
    session.config = {"local": {"local_code": True, "container_root": training.container_root}}
    estimator = sdk.huggingface.HuggingFace(
        entry_point="train.py",
        source_dir=training.source_dir,
        role=ROLE_PLACEHOLDER,
        image_uri=container.LOCAL_IMAGE,
        py_version=container.PYTHON_VERSION,
        instance_type="local_gpu" if training.has_gpus else "local",
        instance_count=1,
        hyperparameters=dict(training.hyperparameters),
        # Not Path.as_uri(), which writes some characters as %20: the SDK leaves them so.
        output_path=f"file://{training.output}",
        environment=dict(training.environment),
        sagemaker_session=session,
        **_torchrun(training.is_distributed),
    )
    with _compose_of_any_version():
        estimator.fit({"dataset": f"file://{training.dataset}"}, job_name=training.name)


def _session(output: str, session: boto3.Session) -> Any:
    """Return the SDK's session; the bucket is named so that it does not create one."""
    return load().Session(boto_session=session, default_bucket=bucket_and_prefix(output)[0])


def _estimator(job: TrainingJob, submission: Submission) -> Any:
    """Return the SDK's HuggingFace estimator of a job."""
    sdk, account = load(), job.account
    demands: dict[str, Any] = {
        "tags": account.tag_list,
        "subnets": [*account.subnets],
        "security_group_ids": [*account.security_group_ids],
        "output_kms_key": account.kms_key,
        "volume_kms_key": account.volume_kms_key,
    }
    arguments = {name: value for name, value in demands.items() if value}
    if job.checkpoints is not None:
        arguments["checkpoint_s3_uri"] = job.checkpoints
    if job.is_spot:
        arguments |= {"use_spot_instances": True, "max_wait": job.max_wait}
    if job.keep_alive is not None:
        arguments["keep_alive_period_in_seconds"] = job.keep_alive
    if job.profile:
        rules = sdk.debugger.rule_configs
        arguments["rules"] = [
            sdk.debugger.ProfilerRule.sagemaker(getattr(rules, name)()) for name in PROFILER_RULES
        ]
        arguments["profiler_config"] = sdk.debugger.ProfilerConfig(
            s3_output_path=job.results, system_monitor_interval_millis=PROFILER_INTERVAL
        )
    else:
        arguments["disable_profiler"] = True
    return sdk.huggingface.HuggingFace(
        entry_point="train.py",
        source_dir=submission.source_dir,
        code_location=job.code,
        output_path=job.results,
        role=submission.role,
        image_uri=submission.image_uri,
        py_version=container.PYTHON_VERSION,
        instance_type=job.instance_type,
        instance_count=job.instance_count,
        hyperparameters=job.script_hyperparameters,
        metric_definitions=metric_definitions(),
        max_run=job.max_run,
        volume_size=job.volume_gb,
        debugger_hook_config=False,  # its hooks left the PyTorch containers at 2.1
        sagemaker_session=_session(job.output, submission.session),
        **arguments,
        **_torchrun(job.is_distributed),
    )


def _torchrun(is_distributed: bool) -> dict[str, Any]:
    """Return what an estimator is told of processes."""
    return {"distribution": {"torch_distributed": {"enabled": True}}} if is_distributed else {}


def _channels(job: TrainingJob) -> dict[str, Any]:
    """Return the job's inputs by name: train.py finds the channel `dataset` by itself."""
    inputs = load().inputs
    return {"dataset": inputs.TrainingInput(job.dataset_folder, input_mode=job.input_mode)}


def _session_without_account() -> boto3.Session:
    """Return a session that holds no secret: the SDK passes what it finds on to the container."""
    return boto3.Session(
        aws_access_key_id="none",
        aws_secret_access_key="none",  # noqa: S106
        region_name=container.DEFAULT_REGION,
    )


@contextlib.contextmanager
def _compose_of_any_version() -> Iterator[None]:
    """Let the SDK have Docker's own Compose, while the block runs: it knows version 2 alone.

    For others it looks for the program docker-compose, which newer installations lack.
    """
    command = ["docker", "compose", "version"]
    has_it = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if shutil.which("docker-compose") or not has_it:
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
