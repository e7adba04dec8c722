"""A training job as data.

Everything here is pure, so that what a job will be can be tested without an account.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import container
from aws.account_flags import AccountDemands
from aws.names import JOB_NAME, MAX_NAME_LENGTH, check_instance_type, check_volume_key

Hyperparameters = dict[str, str | float | bool]

# What only emulates bf16: T4, which is older than Ampere, and Intel's processors before the fourth
# generation of Xeon (on which a step takes 60 times as long).
WITHOUT_BF16 = re.compile(r"ml\.(g4dn|t3|[cmr][456][a-z]*)\.")
# What the containers do not run on: K80 and V100, which CUDA 13 has dropped; AWS's own
# accelerators; hosts with ARM processors.
UNUSABLE = ("ml.p2.", "ml.p3.", "ml.p3dn.", "ml.trn", "ml.p6e-")
MAX_RUN = 28 * 24 * 3600  # s; source: AWS's reference of StoppingCondition
LEAST_VOLUME_GB = 30
# Parameters of the models that are known here; another may be as large as ViT-H/14.
MODEL_PARAMETERS = {"google/vit-base-patch16-224-in21k": 86e6, "microsoft/resnet-34": 21e6}
MOST_PARAMETERS = 632e6
# Rules on system metrics, the ones that still work: those on tensors and on the framework's own
# profile need hooks that left the PyTorch containers at 2.0.
PROFILER_RULES = (
    *("ProfilerReport", "LowGPUUtilization", "CPUBottleneck", "IOBottleneck"),
    *("GPUMemoryIncrease", "OverallSystemUsage"),
)
PROFILER_INTERVAL = 500  # ms
# Weights, their average and AdamW's two moments, in float32.
CHECKPOINT_BYTES_PER_PARAMETER = 16
# The two newest, the best, and the one that is being written.
NUM_CHECKPOINTS = 4
SCRATCH_GB = 10  # the model, the run's figures, packages, and room


def volume_gb_for(hyperparameters: Mapping[str, object], dataset_bytes: int) -> int:
    """Return the disk that a training needs, in GB.

    It holds the dataset, once more as `datasets` unpacks it, and the checkpoints.
    """
    parameters = MODEL_PARAMETERS.get(str(hyperparameters.get("model_name_or_path")))
    if parameters is None:
        # Without an id it is one of scripts/model_configs, none larger than ResNet34.
        from_scratch = "model_name_or_path" not in hyperparameters
        parameters = MODEL_PARAMETERS["microsoft/resnet-34"] if from_scratch else MOST_PARAMETERS
    checkpoints = NUM_CHECKPOINTS * CHECKPOINT_BYTES_PER_PARAMETER * parameters
    return max(LEAST_VOLUME_GB, math.ceil((2 * dataset_bytes + checkpoints) / 1e9) + SCRATCH_GB)


def encoded(hyperparameters: Mapping[str, object]) -> dict[str, str]:
    """Return hyperparameters as requests have them, each value in JSON."""
    return {name: json.dumps(value) for name, value in hyperparameters.items()}


@dataclass(frozen=True)
class TrainingJob:
    """What a job is, before anybody knows as whom and where it runs.

    Times are in seconds. `dataset`, `output` and `checkpoints` are S3 folders; the code goes to
    OUTPUT/code, the model to OUTPUT/jobs/NAME/output/model.tar.gz: iam/roles.yaml lets no job
    write where code lies. Without `checkpoints` they stay on the instance.

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
    volume_gb: int = LEAST_VOLUME_GB
    account: AccountDemands = field(default_factory=AccountDemands)

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
        check_volume_key(self.account.volume_kms_key, self.instance_type)
        if self.max_run > MAX_RUN:
            raise ValueError(f"--max_run {self.max_run}: AWS takes {MAX_RUN:,} s at most, 28 days.")
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
        if precision.get("bf16") and WITHOUT_BF16.match(self.instance_type):
            raise ValueError(
                f"--instance_type {self.instance_type} only emulates bf16: leave --bf16 out, and "
                "train.py takes what the machine has."
            )
        if self.processor == "cpu" and precision.get("fp16"):
            raise ValueError(f"--instance_type {self.instance_type} has no fp16: leave --fp16 out.")

    @property
    def code(self) -> str:
        """S3 folder that the code goes to."""
        return f"{self.output}/code"

    @property
    def results(self) -> str:
        """S3 folder that the job's output goes to, in a folder of its name."""
        return f"{self.output}/jobs"

    @property
    def dataset_folder(self) -> str:
        """The dataset, with a slash: s3://b/bins alone would bring s3://b/bins_2 too."""
        return self.dataset.rstrip("/") + "/"

    @property
    def script_hyperparameters(self) -> Hyperparameters:
        """What train.py is given: a profile has its diagnostics too."""
        # AWS's rules see the machine; what the training itself does, train.py measures.
        measured = {"diagnostics": True} if self.profile else {}
        return {**measured, **self.hyperparameters}

    @property
    def is_distributed(self) -> bool:
        """Whether torchrun starts it: else Trainer would split a batch over one process's GPUs."""
        return self.instance_count > 1 or container.num_gpus(self.instance_type) > 1

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
