"""From a job to the SageMaker SDK: its HuggingFace estimator, its inputs, its code."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3

import container
from aws.ending_signals import signals_raised_again
from aws.quiet_sdk import import_sagemaker, sdk_session
from launching.metric_definitions import metric_definitions
from launching.train_flags import SCRIPTS
from launching.training_job import TrainingJob

# Rules on system metrics, the ones that still work: those on tensors and on the framework's own
# profile need hooks that left the PyTorch containers at 2.0.
PROFILER_RULES = (
    *("ProfilerReport", "LowGPUUtilization", "CPUBottleneck", "IOBottleneck"),
    *("GPUMemoryIncrease", "OverallSystemUsage"),
)


def create(job: TrainingJob, session: boto3.Session, role: str) -> None:
    """Upload the code and create the job.

    Raises: ValueError: AWS keeps no container in the region. ClientError: AWS refuses the job.
    """
    with source_folder(job.processor) as source_dir, signals_raised_again():
        # Not wait=True: a job is followed by job_report.py, and goes on where that ends.
        estimator(job, session, role, source_dir).fit(
            channels(job, import_sagemaker()), job_name=job.name, wait=False
        )


def estimator(job: TrainingJob, session: boto3.Session, role: str, source_dir: str) -> Any:
    """Return the SDK's HuggingFace estimator of a job."""
    sdk = import_sagemaker()
    return sdk.huggingface.HuggingFace(
        sagemaker_session=sdk_session(job.output, session),
        **estimator_arguments(job, sdk, session.region_name, role, source_dir),
    )


@contextlib.contextmanager
def source_folder(processor: str) -> Iterator[str]:
    """Yield a copy of scripts/ without caches; for a CPU job, with what its container lacks."""
    with tempfile.TemporaryDirectory() as folder:
        source_dir = Path(folder) / "scripts"
        shutil.copytree(SCRIPTS, source_dir, ignore=shutil.ignore_patterns("__pycache__"))
        if processor == "cpu":
            pins = [f"{name}=={version}" for name, version in container.TRAINING_PACKAGES.items()]
            with (source_dir / "requirements.txt").open("a") as requirements:
                requirements.write("\n".join(["", *pins, ""]))
        yield str(source_dir)


def estimator_arguments(
    job: TrainingJob, sdk: ModuleType, region: str, role: str, source_dir: str
) -> dict[str, Any]:
    """Return the keyword arguments of sagemaker.huggingface.HuggingFace, but for the session.

    Args:
        sdk: the module that quiet_sdk.import_sagemaker returns.
        source_dir: folder with train.py, here or in S3.

    Raises: ValueError: AWS keeps no container in the region, or no profiler rules.
    """
    arguments: dict[str, Any] = {
        "entry_point": "train.py",
        "source_dir": source_dir,
        "code_location": job.code,
        "output_path": job.results,
        "role": role,
        "image_uri": container.image_uri(region, job.processor, "training"),
        "py_version": container.PYTHON_VERSION,
        "instance_type": job.instance_type,
        "instance_count": job.instance_count,
        "hyperparameters": dict(job.hyperparameters),
        "metric_definitions": metric_definitions(),
        "max_run": job.max_run,
        "volume_size": job.volume_gb,
        "debugger_hook_config": False,  # its hooks left the PyTorch containers at 2.1
    }
    demands = {
        "tags": job.account.tag_list,
        "subnets": [*job.account.subnets],
        "security_group_ids": [*job.account.security_group_ids],
        "output_kms_key": job.account.kms_key,
        "volume_kms_key": job.account.volume_kms_key,
    }
    arguments |= {name: value for name, value in demands.items() if value}
    if job.checkpoints is not None:
        arguments["checkpoint_s3_uri"] = job.checkpoints
    if job.is_spot:
        arguments |= {"use_spot_instances": True, "max_wait": job.max_wait}
    if job.keep_alive is not None:
        arguments["keep_alive_period_in_seconds"] = job.keep_alive
    if job.instance_count > 1 or container.num_gpus(job.instance_type) > 1:
        # Otherwise Trainer would split each batch over the GPUs of one process.
        arguments["distribution"] = {"torch_distributed": {"enabled": True}}
    if job.profile:
        profiler = sdk.image_uris.config_for_framework("debugger")["versions"]["latest"]
        if region not in profiler["registries"]:
            raise ValueError(
                f"--profile: AWS has no profiler rules in {region}; --diagnostics measures and "
                "judges the training there too."
            )
        rules = sdk.debugger.rule_configs
        arguments["rules"] = [
            sdk.debugger.ProfilerRule.sagemaker(getattr(rules, name)()) for name in PROFILER_RULES
        ]
        # AWS's rules see the machine; what the training itself does, train.py measures.
        arguments["hyperparameters"] = {"diagnostics": True, **job.hyperparameters}
        arguments["profiler_config"] = sdk.debugger.ProfilerConfig(
            s3_output_path=job.results, system_monitor_interval_millis=500
        )
    else:
        arguments["disable_profiler"] = True
    return arguments


def channels(job: TrainingJob, sdk: ModuleType) -> dict[str, Any]:
    """Return the job's inputs by name: train.py finds the channel `dataset` by itself."""
    # With a slash: s3://b/bins alone would bring s3://b/bins_2 too.
    folder = job.dataset.rstrip("/") + "/"
    return {"dataset": sdk.inputs.TrainingInput(folder, input_mode=job.input_mode)}
