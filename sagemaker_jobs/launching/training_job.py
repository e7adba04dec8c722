"""A training job as data.

Everything here is pure, so that what a job will be can be tested without an account.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import container
from aws.names import JOB_NAME, MAX_NAME_LENGTH, check_instance_type

WITHOUT_BF16 = ("ml.g4dn.",)  # their T4 is older than Ampere
# What the containers do not run on: K80 and V100, which CUDA 13 has dropped; AWS's own
# accelerators; hosts with ARM processors.
UNUSABLE = ("ml.p2.", "ml.p3.", "ml.p3dn.", "ml.trn", "ml.p6e-")


@dataclass(frozen=True)
class TrainingJob:
    """What a job is, before anybody knows as whom and where it runs.

    Times are in seconds. `dataset`, `output` and `checkpoints` are S3 folders; the model arrives in
    OUTPUT/NAME/output/model.tar.gz. Without `checkpoints` they stay on the instance.

    Raises: ValueError: AWS would refuse it, or it would fail after minutes that are paid for.
    """

    name: str
    dataset: str
    output: str
    checkpoints: str | None
    hyperparameters: Mapping[str, str | float | bool]
    instance_type: str
    instance_count: int
    max_run: int
    max_wait: int | None = None  # with a value: a spot job
    input_mode: str = "File"
    keep_alive: int | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        if not JOB_NAME.fullmatch(self.name) or len(self.name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"--job_name {self.name}: write bins-NAME with letters, digits and single dashes, "
                f"at most {MAX_NAME_LENGTH} characters; the policies allow no other."
            )
        if self.instance_type.startswith(UNUSABLE):
            raise ValueError(
                f"--instance_type {self.instance_type}: the training container does not run on it; "
                "choose one such as ml.g5.2xlarge."
            )
        check_instance_type(self.instance_type, "training", "ml.g5.2xlarge")
        if self.max_wait is not None and self.max_wait < self.max_run:
            raise ValueError(
                f"--max_wait {self.max_wait} is less than --max_run {self.max_run}: it has to hold "
                "the run and the wait for a spot instance; give more, or a shorter --max_run."
            )
        if self.max_wait is not None and self.keep_alive is not None:
            raise ValueError("--keep_alive and --spot: AWS keeps no spot instance; leave one out.")
        if self.instance_count > 1 and self.processor == "cpu":
            raise ValueError(
                f"--instance_count {self.instance_count}: {self.instance_type} has no GPU; choose "
                "one that has, such as ml.g5.2xlarge, or one instance."
            )
        precision = self.hyperparameters
        if precision.get("bf16") and self.instance_type.startswith(WITHOUT_BF16):
            raise ValueError(
                f"--instance_type {self.instance_type} has no bf16: add --bf16 false --fp16 true."
            )
        if self.processor == "cpu" and precision.get("fp16"):
            raise ValueError(f"--instance_type {self.instance_type} has no fp16: leave --fp16 out.")

    @property
    def processor(self) -> str:
        """gpu or cpu."""
        return container.processor_of(self.instance_type)

    @property
    def is_spot(self) -> bool:
        """Whether the job runs on instances that AWS may take back."""
        return self.max_wait is not None

    def most_it_can_cost(self, price_per_hour: float) -> float:
        """Return the cost of the whole time limit, in the price's currency.

        Waiting for a spot instance costs nothing; keeping instances warm does.
        """
        seconds = self.max_run + (self.keep_alive or 0)
        return price_per_hour * self.instance_count * seconds / 3600
