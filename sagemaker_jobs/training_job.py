"""A training job as data, and the arguments of the SDK's estimator for it.

Everything here is pure, so that what a job will be can be tested without an account.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import botocore.session

import container
from metric_definitions import metric_definitions

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
JOB_NAME = re.compile(r"bins-[a-zA-Z0-9](-*[a-zA-Z0-9])*")  # iam/roles.yaml allows these only
MAX_NAME_LENGTH = 63
# Rules on system metrics, the ones that still work: those on tensors and on the framework's own
# profile need hooks that left the PyTorch containers at 2.0.
PROFILER_RULES = (
    *("ProfilerReport", "LowGPUUtilization", "CPUBottleneck", "IOBottleneck"),
    *("GPUMemoryIncrease", "OverallSystemUsage"),
)
WITHOUT_BF16 = ("ml.g4dn.",)  # their T4 is older than Ampere
# What the containers do not run on: K80 and V100, which CUDA 13 has dropped; AWS's own
# accelerators; hosts with ARM processors.
UNUSABLE = ("ml.p2.", "ml.p3.", "ml.p3dn.", "ml.trn", "ml.p6e-")

# What AWS calls its lists.
INSTANCE_TYPES = {
    "training": "TrainingInstanceType",
    "processing": "ProcessingInstanceType",
    "hosting": "ProductionVariantInstanceType",
    "transform": "TransformInstanceType",
}


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


def check_instance_type(instance_type: str, purpose: str, example: str) -> None:
    """Check a name against AWS's own list.

    Args:
        purpose: one of INSTANCE_TYPES.
        example: a type to name where no other is alike.

    Raises: ValueError: AWS has no such type for it.
    """
    model = botocore.session.get_session().get_service_model("sagemaker")
    known = model.shape_for(INSTANCE_TYPES[purpose]).enum
    if instance_type in known:
        return
    family = ".".join(instance_type.split(".")[:2])
    similar = [name for name in known if name.startswith(f"{family}.")] or [example]
    raise ValueError(
        f"--instance_type {instance_type}: there is no such type for {purpose}; choose one such as "
        f"{', '.join(similar[:4])}."
    )


def estimator_arguments(
    job: TrainingJob, sdk: ModuleType, region: str, role: str, source_dir: str
) -> dict[str, Any]:
    """Return the keyword arguments of sagemaker.huggingface.HuggingFace, but for the session.

    Args:
        sdk: the module that quiet_sdk.import_sagemaker returns.
        source_dir: folder with train.py, here or in S3.

    Raises: ValueError: AWS keeps no container in the region.
    """
    arguments: dict[str, Any] = {
        "entry_point": "train.py",
        "source_dir": source_dir,
        "code_location": job.output,
        "output_path": job.output,
        "role": role,
        "image_uri": container.image_uri(region, job.processor, "training"),
        "py_version": container.PYTHON_VERSION,
        "instance_type": job.instance_type,
        "instance_count": job.instance_count,
        "hyperparameters": dict(job.hyperparameters),
        "metric_definitions": metric_definitions(),
        "max_run": job.max_run,
        "debugger_hook_config": False,  # its hooks left the PyTorch containers at 2.1
    }
    if job.checkpoints is not None:
        arguments["checkpoint_s3_uri"] = job.checkpoints
    if job.is_spot:
        arguments |= {"use_spot_instances": True, "max_wait": job.max_wait}
    if job.keep_alive is not None:
        arguments["keep_alive_period_in_seconds"] = job.keep_alive
    if job.instance_count > 1 or num_gpus(job.instance_type, sdk) > 1:
        # Otherwise Trainer would split each batch over the GPUs of one process.
        arguments["distribution"] = {"torch_distributed": {"enabled": True}}
    if job.profile:
        rules = sdk.debugger.rule_configs
        arguments["rules"] = [
            sdk.debugger.ProfilerRule.sagemaker(getattr(rules, name)()) for name in PROFILER_RULES
        ]
        # AWS's rules see the machine; what the training itself does, train.py measures.
        arguments["hyperparameters"] = {"diagnostics": True, **job.hyperparameters}
        arguments["profiler_config"] = sdk.debugger.ProfilerConfig(
            s3_output_path=job.output, system_monitor_interval_millis=500
        )
    else:
        arguments["disable_profiler"] = True
    return arguments


def num_gpus(instance_type: str, sdk: ModuleType) -> int:
    """Return the GPUs of an instance; 2 for a GPU type that is newer than the SDK's table."""
    if container.processor_of(instance_type) == "cpu":
        return 0
    table = sdk.instance_types_gpu_info.retrieve(container.DEFAULT_REGION)
    return table[instance_type]["Count"] if instance_type in table else 2


def channels(job: TrainingJob, sdk: ModuleType) -> dict[str, Any]:
    """Return the job's inputs by name: train.py finds the channel `dataset` by itself."""
    # With a slash: s3://b/bins alone would bring s3://b/bins_2 too.
    folder = job.dataset.rstrip("/") + "/"
    return {"dataset": sdk.inputs.TrainingInput(folder, input_mode=job.input_mode)}
