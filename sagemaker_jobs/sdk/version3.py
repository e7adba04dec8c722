"""Version 3 of the SageMaker SDK: ModelTrainer, and its tuner, processor, local mode.

Source of what is said of it here: sagemaker-train 1.27.0, whose private parts are named where they
are used. docs/sagemaker.md says what a user sees of the difference.
"""

import io
import json
import logging
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3

import container
from aws.settings import bucket_and_prefix
from jobs.metric_definitions import metric_definitions
from jobs.processing_job import DatasetJob, Stage
from jobs.training_job import (
    PROFILER_INTERVAL,
    PROFILER_RULES,
    Hyperparameters,
    TrainingJob,
    encoded,
)
from jobs.tuning_job import TuningJob
from sdk.arguments import processor_arguments, run_arguments, tuner_arguments
from sdk.quiet_import import quietly_imported
from sdk.submissions import LocalTraining, Submission

MODULES = (
    *("core.debugger", "core.helper.session_helper", "core.image_uris", "core.network"),
    *("core.parameter", "core.processing", "core.training.configs", "core.utils.utils"),
    *("train.distributed", "train.local.local_container", "train.model_trainer", "train.tuner"),
)
ENTRY = {"entry_script": "train.py", "requirements": "requirements.txt"}


def load() -> ModuleType:
    """Return the SDK."""
    # It would ask IAM whether the role may do what a role for everything may, and refuse one that
    # may less, such as that of iam/roles.yaml.
    os.environ["SAGEMAKER_VALIDATE_ROLE"] = "false"
    sdk = quietly_imported("sagemaker", *(f"sagemaker.{name}" for name in MODULES))
    # As with version 2: a dozen checks of the same defaults, which take longer than all else.
    manager = sdk.core.config.config_manager.SageMakerConfig
    manager.validate_sagemaker_config = lambda self, config: None
    return sdk


def listed_image_uri(**arguments: Any) -> str:
    """Return what the SDK's own table says. Raises: ValueError: it has no such image."""
    return load().core.image_uris.retrieve(**arguments)


def create_training_job(job: TrainingJob, submission: Submission) -> None:
    """Upload the code and create the job."""
    configs = load().core.training.configs
    source_code = configs.SourceCode(source_dir=_uploaded_code(job, submission), **ENTRY)
    hyperparameters = _read_twice(job.script_hyperparameters)
    trainer = _trainer(job, submission, hyperparameters, source_code)
    # Not train(), which names the job itself, has no profiler, and looks at the job once more.
    request = trainer._create_training_job_args([_channel(job)], boto3=True)
    request["TrainingJobName"] = job.name
    request["AlgorithmSpecification"]["EnableSageMakerMetricsTimeSeries"] = True
    request |= _profiler(job, submission.session.region_name) | _tags(job)
    submission.session.client("sagemaker").create_training_job(**request)


def create_tuning_job(job: TuningJob, submission: Submission) -> None:
    """Upload the code and create the job."""
    sdk, trial = load(), job.trial
    # AWS gives trials no entry point but the container's own, whose toolkit is told so what to run.
    for_the_toolkit: Hyperparameters = {
        "sagemaker_program": ENTRY["entry_script"],
        "sagemaker_submit_directory": _uploaded_code(trial, submission),
        "sagemaker_job_name": job.name,
        "sagemaker_region": submission.session.region_name,
        "sagemaker_container_log_level": logging.INFO,
    }
    if trial.is_distributed:
        for_the_toolkit |= {
            "sagemaker_torch_distributed_enabled": True,
            "sagemaker_instance_type": trial.instance_type,
        }
    hyperparameters = {**trial.script_hyperparameters, **for_the_toolkit}
    # As version 2 has them, so that a search of either knows what the other tried.
    batch_sizes = [json.dumps(str(size)) for size in job.space.batch_sizes]
    tuner = sdk.train.tuner.HyperparameterTuner(
        _trainer(trial, submission, hyperparameters),
        **tuner_arguments(job, sdk.core.parameter, batch_sizes),
    )
    # Not tune(), which looks at the job once more, and would end in an error where it runs.
    tuner._prepare_for_tuning(job_name=job.name)
    request = {
        "HyperParameterTuningJobName": job.name,
        "HyperParameterTuningJobConfig": tuner._build_tuning_job_config(),
        "TrainingJobDefinition": tuner._build_training_job_definition([_channel(trial)]),
    }
    request = sdk.core.utils.utils.serialize(request) | _tags(trial)
    if trial.account.volume_kms_key is not None:
        resources = request["TrainingJobDefinition"]["ResourceConfig"]
        resources["VolumeKmsKeyId"] = trial.account.volume_kms_key
    if job.warm_start_from is not None:
        request["WarmStartConfig"] = {
            "ParentHyperParameterTuningJobs": [
                {"HyperParameterTuningJobName": job.warm_start_from}
            ],
            "WarmStartType": "IdenticalDataAndAlgorithm",
        }
    submission.session.client("sagemaker").create_hyper_parameter_tuning_job(**request)


def create_processing_job(job: DatasetJob, stage: Stage, name: str, submission: Submission) -> None:
    """Upload the code and create the job of a stage."""
    sdk = load()
    sdk.core.processing.FrameworkProcessor(
        sagemaker_session=_session(job.code, submission.session),
        **processor_arguments(job, stage, submission, sdk.core.network),
    ).run(**run_arguments(stage, name, submission))


def train_locally(training: LocalTraining) -> None:
    """Train in the local image.

    Raises: RuntimeError: the training failed. ImportError: there is no Docker Compose.
    """
    sdk = load()
    configs, model_trainer = sdk.core.training.configs, sdk.train.model_trainer
    # Kept to the end: its programs go with it. Its train() would name the job itself, and remove
    # what a failed one has left.
    trainer = model_trainer.ModelTrainer(
        training_mode=model_trainer.Mode.LOCAL_CONTAINER,
        training_image=container.LOCAL_IMAGE,
        # Its default is the current folder, of which it removes `input` and `shared` in the end.
        local_container_root=training.container_root,
        source_code=configs.SourceCode(source_dir=training.source_dir, **ENTRY),
        distributed=sdk.train.distributed.Torchrun() if training.is_distributed else None,
        hyperparameters=encoded(_read_twice(training.hyperparameters)),
    )
    dataset = configs.InputData(channel_name="dataset", data_source=str(training.dataset))
    job = _local_container(training, trainer._create_training_job_args([dataset]))
    made = Path(training.container_root, "compressed_artifacts")
    try:
        job.train(wait=True)
    except (PermissionError, subprocess.CalledProcessError):
        # When all is done it removes files, of which some may be root's.
        if not (made / "model.tar.gz").exists():
            raise
    finally:
        for archive in made.glob("*.tar.gz"):
            training.output.mkdir(exist_ok=True)
            shutil.move(archive, training.output / archive.name)


def _local_container(training: LocalTraining, request: Mapping[str, Any]) -> Any:
    """Return the SDK's container of a training, mended where it could not be used.

    Args:
        request: what ModelTrainer makes of the training.
    """
    base: Any = load().train.local.local_container._LocalContainer
    root = Path(training.container_root)

    class LocalContainer(base):
        def _write_config_files(self, host: str, channels: Any, hyperparameters: Any) -> None:
            super()._write_config_files(host, channels, hyperparameters)
            # NCCL ends where the network interface that it is told is not Compose's.
            path = root / host / "input" / "config" / "resourceconfig.json"
            resources = json.loads(path.read_text()) | {"network_interface_name": "eth0"}
            path.write_text(json.dumps(resources))
            for channel in channels:  # or Docker makes them, as root
                (root / host / "input" / "data" / channel.channel_name).mkdir(parents=True)

    algorithm = request["algorithm_specification"]
    return LocalContainer(
        training_job_name=training.name,
        instance_type="local_gpu" if training.has_gpus else "local",
        instance_count=1,
        image=container.LOCAL_IMAGE,
        container_root=training.container_root,
        input_data_config=request["input_data_config"],
        hyper_parameters=request["hyper_parameters"],
        environment=dict(training.environment),
        container_entrypoint=algorithm.container_entrypoint,
        container_arguments=algorithm.container_arguments,
    )


def _session(output: str, session: boto3.Session) -> Any:
    """Return the SDK's session; the bucket is named so that it does not create one."""
    return load().core.helper.session_helper.Session(
        boto_session=session, default_bucket=bucket_and_prefix(output)[0]
    )


def _uploaded_code(job: TrainingJob, submission: Submission) -> str:
    """Upload the code as one archive and return where it is, the same place as version 2's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(Path(submission.source_dir).iterdir()):
            archive.add(path, arcname=path.name)
    uri = f"{job.code}/{job.name}/source/sourcedir.tar.gz"
    _upload({uri: buffer.getvalue()}, job, submission)
    return uri


def _upload(objects: Mapping[str, bytes], job: TrainingJob, submission: Submission) -> None:
    """Write objects by their URIs, encrypted with the account's key or, as by version 2, AWS's."""
    encryption = {"ServerSideEncryption": "aws:kms"}
    if job.account.kms_key is not None:
        encryption["SSEKMSKeyId"] = job.account.kms_key
    client = submission.session.client("s3")
    for uri, body in objects.items():
        bucket, key = bucket_and_prefix(uri)
        client.put_object(Bucket=bucket, Key=key, Body=body, **encryption)


def _trainer(
    job: TrainingJob,
    submission: Submission,
    hyperparameters: Hyperparameters,
    source_code: Any = None,
) -> Any:
    """Return the SDK's ModelTrainer of a job."""
    sdk, account = load(), job.account
    configs = sdk.core.training.configs
    base: Any = sdk.train.model_trainer.ModelTrainer

    class Trainer(base):
        def create_input_data_channel(
            self, channel_name: str, data_source: str, **others: Any
        ) -> Any:
            # The SDK would ask IAM where the job's role may write, and put the programs that start
            # the job there: no job may write where code lies.
            if (folder := Path(data_source)).is_dir():
                data_source = f"{job.code}/{job.name}/{channel_name}/"
                objects = {
                    data_source + path.relative_to(folder).as_posix(): path.read_bytes()
                    for path in sorted(folder.rglob("*"))
                    if path.is_file() and path.parent.name != "__pycache__"
                }
                _upload(objects, job, submission)
            return super().create_input_data_channel(channel_name, data_source)

    return Trainer(
        sagemaker_session=_session(job.output, submission.session),
        role=submission.role,
        base_job_name=job.name,
        training_image=submission.image_uri,
        source_code=source_code,
        distributed=(
            sdk.train.distributed.Torchrun() if source_code and job.is_distributed else None
        ),
        compute=configs.Compute(
            instance_type=job.instance_type,
            instance_count=job.instance_count,
            volume_size_in_gb=job.volume_gb,
            volume_kms_key_id=account.volume_kms_key,
            keep_alive_period_in_seconds=job.keep_alive,
            enable_managed_spot_training=job.is_spot or None,
        ),
        networking=configs.Networking(
            subnets=[*account.subnets] or None,
            security_group_ids=[*account.security_group_ids] or None,
        ),
        stopping_condition=configs.StoppingCondition(
            max_runtime_in_seconds=job.max_run, max_wait_time_in_seconds=job.max_wait
        ),
        output_data_config=configs.OutputDataConfig(
            s3_output_path=job.results, kms_key_id=account.kms_key
        ),
        checkpoint_config=job.checkpoints and configs.CheckpointConfig(s3_uri=job.checkpoints),
        hyperparameters=encoded(hyperparameters),
        environment=None,
    ).with_metric_definitions(
        [
            configs.MetricDefinition(name=metric["Name"], regex=metric["Regex"])
            for metric in metric_definitions()
        ]
    )


def _channel(job: TrainingJob) -> Any:
    """Return the job's input: train.py finds the channel `dataset` by itself."""
    configs = load().core.training.configs
    # Not InputData, whose mode would always be File.
    return configs.Channel(
        channel_name="dataset",
        data_source=configs.DataSource(
            s3_data_source=configs.S3DataSource(
                s3_data_type="S3Prefix",
                s3_uri=job.dataset_folder,
                s3_data_distribution_type="FullyReplicated",
            )
        ),
        input_mode=job.input_mode,
    )


def _read_twice(hyperparameters: Hyperparameters) -> Hyperparameters:
    """Return hyperparameters that stay as they are when each is read as JSON once more than it is.

    So do the SDK's programs, and would make 1.1 of a name such as 1.10.
    """
    return {
        name: json.dumps(value) if isinstance(value, str) and _is_changed(value) else value
        for name, value in hyperparameters.items()
    }


def _is_changed(value: str) -> bool:
    try:
        return json.dumps(json.loads(value)) != value
    except ValueError:
        return False


def _tags(job: TrainingJob) -> dict[str, Any]:
    """Return the tags of a request; the SDK would leave out a value that is empty."""
    return {"Tags": job.account.tag_list} if job.account.tags else {}


def _profiler(job: TrainingJob, region: str) -> dict[str, Any]:
    """Return the fields of a request that ModelTrainer has no argument for."""
    if not job.profile:
        return {"ProfilerConfig": {"DisableProfiler": True}}
    debugger = load().core.debugger
    rules = []
    for name in PROFILER_RULES:
        rule = debugger.ProfilerRule.sagemaker(getattr(debugger.rule_configs, name)())
        rule.image_uri = listed_image_uri(framework="debugger", region=region)
        rule.instance_type = rule.volume_size_in_gb = None  # AWS's own, which cost nothing
        rules.append(rule.to_profiler_rule_config_dict())
    config = debugger.ProfilerConfig(
        s3_output_path=job.results, system_monitor_interval_millis=PROFILER_INTERVAL
    )
    return {"ProfilerConfig": config._to_request_dict(), "ProfilerRuleConfigurations": rules}
