"""A tuning job as data, and the SDK's tuner for it."""

import zlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from launching.metric_definitions import is_better_when_larger, metric_definitions
from launching.training_job import TrainingJob
from launching.tuned_hyperparameters import BATCH_SIZE, EPOCHS, LEARNING_RATE
from tuning.search_space import SearchSpace

MAX_NAME_LENGTH = 32  # AWS adds the trial's number and eight characters more


@dataclass(frozen=True)
class TuningJob:
    """What a search on AWS is.

    Args:
        trial: what all trials share; its name is the tuning job's. It has no checkpoints in S3:
            AWS would give all trials one folder, and bring all of it to each trial's machine.
        objective: one of search_space.OBJECTIVES.
        warm_start_from: an earlier tuning job, whose trials this one knows from the start.

    Raises: ValueError: AWS would refuse it.
    """

    trial: TrainingJob
    space: SearchSpace
    objective: str
    max_jobs: int
    max_parallel_jobs: int
    early_stopping: bool = True
    warm_start_from: str | None = None

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"--job_name {self.name}: a tuning job's name has at most {MAX_NAME_LENGTH} "
                "characters."
            )
        if self.max_parallel_jobs > self.max_jobs:
            raise ValueError(
                f"--max_parallel_jobs {self.max_parallel_jobs} is more than --max_jobs "
                f"{self.max_jobs}: give fewer, or more trials."
            )

    @property
    def name(self) -> str:
        """The tuning job's name."""
        return self.trial.name


def tuner_arguments(job: TuningJob, sdk: ModuleType) -> dict[str, Any]:
    """Return the keyword arguments of sagemaker.tuner.HyperparameterTuner, but the estimator.

    Args:
        sdk: the module that quiet_sdk.import_sagemaker returns.
    """
    tuner, space = sdk.tuner, job.space
    arguments: dict[str, Any] = {
        "objective_metric_name": job.objective,
        "objective_type": "Maximize" if is_better_when_larger(job.objective) else "Minimize",
        "hyperparameter_ranges": {
            LEARNING_RATE: tuner.ContinuousParameter(
                *space.learning_rates, scaling_type="Logarithmic"
            ),
            BATCH_SIZE: tuner.CategoricalParameter([*space.batch_sizes]),
            EPOCHS: tuner.IntegerParameter(*space.epochs),
        },
        "metric_definitions": metric_definitions(),
        "max_jobs": job.max_jobs,
        "max_parallel_jobs": job.max_parallel_jobs,
        "early_stopping_type": "Auto" if job.early_stopping else "Off",
        # Another name searches elsewhere, above all a warm start; the same name does not.
        "random_seed": zlib.crc32(job.name.encode()) % 2**31,
    }
    if job.trial.account.tags:
        arguments["tags"] = job.trial.account.tag_list  # AWS gives them to the trials too
    if job.warm_start_from is not None:
        arguments["warm_start_config"] = tuner.WarmStartConfig(
            tuner.WarmStartTypes.IDENTICAL_DATA_AND_ALGORITHM, {job.warm_start_from}
        )
    return arguments
