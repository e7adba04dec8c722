"""A tuning job as data."""

import zlib
from dataclasses import dataclass

from jobs.metric_definitions import is_better_when_larger
from jobs.search_space import SearchSpace
from jobs.training_job import TrainingJob

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

    @property
    def objective_type(self) -> str:
        """Maximize or Minimize, as requests have it."""
        return "Maximize" if is_better_when_larger(self.objective) else "Minimize"

    @property
    def early_stopping_type(self) -> str:
        """Auto or Off, as requests have it."""
        return "Auto" if self.early_stopping else "Off"

    @property
    def seed(self) -> int:
        """Another name searches elsewhere, above all a warm start; the same name does not."""
        return zlib.crc32(self.name.encode()) % 2**31
