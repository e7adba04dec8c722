"""Arguments that both versions of the SDK call alike: those of tuners and processors."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from jobs.metric_definitions import metric_definitions
from jobs.processing_job import DatasetJob, Stage
from jobs.search_space import BATCH_SIZE, EPOCHS, LEARNING_RATE
from jobs.tuning_job import TuningJob
from sdk.submissions import Submission


def tuner_arguments(
    job: TuningJob, parameter: ModuleType, batch_sizes: Sequence[int | str]
) -> dict[str, Any]:
    """Return the keyword arguments of a HyperparameterTuner, but for what is tuned.

    Args:
        parameter: the SDK's module of that name.
        batch_sizes: as the SDK takes them.
    """
    space = job.space
    return {
        "objective_metric_name": job.objective,
        "objective_type": job.objective_type,
        "hyperparameter_ranges": {
            LEARNING_RATE: parameter.ContinuousParameter(
                *space.learning_rates, scaling_type="Logarithmic"
            ),
            BATCH_SIZE: parameter.CategoricalParameter([*batch_sizes]),
            EPOCHS: parameter.IntegerParameter(*space.epochs),
        },
        "metric_definitions": metric_definitions(),
        "max_jobs": job.max_jobs,
        "max_parallel_jobs": job.max_parallel_jobs,
        "early_stopping_type": job.early_stopping_type,
        "random_seed": job.seed,
    }


def processor_arguments(
    job: DatasetJob, stage: Stage, submission: Submission, network: ModuleType
) -> dict[str, Any]:
    """Return the keyword arguments of a FrameworkProcessor, but for the session.

    Args:
        network: the SDK's module of that name.
    """
    account, config = job.account, None
    if account.subnets:
        config = network.NetworkConfig(
            subnets=[*account.subnets], security_group_ids=[*account.security_group_ids]
        )
    return {
        "image_uri": submission.image_uri,
        "role": submission.role,
        "instance_type": job.instance_type,
        "instance_count": stage.instance_count,
        "code_location": job.code,
        "base_job_name": job.name,
        "max_runtime_in_seconds": job.max_run,
        "env": job.environment(submission.session.region_name),
        "volume_size_in_gb": job.volume_gb,
        "output_kms_key": account.kms_key,
        "volume_kms_key": account.volume_kms_key,
        "tags": account.tag_list or None,
        "network_config": config,
    }


def run_arguments(stage: Stage, name: str, submission: Submission) -> dict[str, Any]:
    """Return the keyword arguments of FrameworkProcessor.run."""
    return {
        "code": stage.entry,
        "source_dir": submission.source_dir,
        "arguments": list(stage.arguments),
        "job_name": name,
        "wait": False,
        "logs": False,
    }
