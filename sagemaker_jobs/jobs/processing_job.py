"""The processing jobs that prepare a dataset, as data.

Everything here is pure, so that what the jobs will be can be tested without an account.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import container
from aws.account_flags import AccountDemands
from aws.names import check_instance_type, check_volume_key

CATALOG, SHARDS, FINISH = "catalog", "shards", "finish"  # the stages, in their order
# Where SageMaker tells a machine which one it is. Source: AWS's "Build your own processing
# container".
RESOURCE_CONFIG = "/opt/ml/config/resourceconfig.json"
# Flags of build_dataset.py that name a file here, and what kind; it travels with the code.
FILE_FLAGS = {
    **dict.fromkeys(("bin_list", "official_train", "official_validation"), "json"),
    **dict.fromkeys(("exclude", "marks"), "csv"),
}
SET_BY_A_STAGE = ("--output_dir", "--resource_config", "--finish", "--check")
VOLUME_GB = 30  # a stage keeps nothing on its disk but its code


@dataclass(frozen=True)
class Stage:
    """One job: an entry of data_prep/ with its arguments, on one machine or several."""

    name: str
    entry: str
    arguments: tuple[str, ...]
    instance_count: int


@dataclass(frozen=True)
class DatasetJob:
    """What is prepared, and where, before anybody knows as whom it runs.

    `source`, `output`, `code` and `catalog` are S3 locations; without a catalog one is built first.
    `files` holds the contents of the files that FILE_FLAGS name, `flags` all other words for
    build_dataset.py. `max_run` is the seconds after which AWS stops a stage.

    Raises: ValueError: AWS would refuse a job, or it would fail after minutes that are paid for.
    """

    source: str
    output: str
    code: str
    catalog: str | None
    files: Mapping[str, bytes]
    flags: tuple[str, ...]
    instance_type: str
    instance_count: int
    max_run: int
    volume_gb: int = VOLUME_GB
    account: AccountDemands = field(default_factory=AccountDemands)

    def __post_init__(self) -> None:
        check_instance_type(self.instance_type, "processing", "ml.c5.4xlarge")
        check_volume_key(self.account.volume_kms_key, self.instance_type)
        if container.processor_of(self.instance_type) == "gpu":
            raise ValueError(
                f"--instance_type {self.instance_type}: nothing here uses a GPU; choose one "
                "without, such as ml.c5.4xlarge."
            )
        for flag in self.flags:
            if flag.partition("=")[0] in SET_BY_A_STAGE:
                raise ValueError(f"{flag}: each stage sets this itself; leave it out.")

    @property
    def name(self) -> str:
        """What the names of its jobs begin with: the same for the same command.

        So a command that is given again finds the jobs that it started before. How many machines
        do the work, and with how many processes, does not change what is done.
        """
        what = {
            "source": self.source,
            "output": self.output,
            "catalog": self.catalog,
            "flags": without_num_workers(self.flags),
            "files": {
                name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()
            },
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        folder = re.sub("[^a-zA-Z0-9]+", "-", self.output.rpartition("/")[2]).strip("-")[:20]
        return "-".join(filter(None, ("bins-data", folder.rstrip("-"), digest)))

    def stages(self) -> tuple[Stage, ...]:
        """Return the jobs to run, one after the other."""
        source = ("--source", self.source)
        listed = _file_arguments(self.files, "bin_list")
        catalog = self.catalog or f"{self.output}/catalog.parquet"
        dataset = (
            *source,
            *_file_arguments(self.files, *FILE_FLAGS),
            *self.flags,
            *("--catalog", catalog, "--output_dir", self.output),
        )
        stages = (
            Stage(CATALOG, "build_catalog.py", (*source, *listed, "--output", catalog), 1),
            Stage(
                SHARDS,
                "build_dataset.py",
                (*dataset, "--resource_config", RESOURCE_CONFIG),
                self.instance_count,
            ),
            Stage(FINISH, "build_dataset.py", (*dataset, "--finish"), 1),
        )
        return stages[1:] if self.catalog else stages

    def environment(self, region: str) -> dict[str, str]:
        """Return the variables of a stage's machines."""
        # obstore finds a job's credentials by itself, and its region only here.
        variables = {"AWS_REGION": region, "PYTHONUNBUFFERED": "1"}
        if self.account.kms_key is not None:  # it writes the dataset by itself, too
            variables |= {
                "AWS_SERVER_SIDE_ENCRYPTION": "aws:kms",
                "AWS_SSE_KMS_KEY_ID": self.account.kms_key,
            }
        return variables

    def most_it_can_cost(self, price_per_hour: float) -> float:
        """Return the cost of all time limits together, in the price's currency."""
        machines = sum(stage.instance_count for stage in self.stages())
        return price_per_hour * machines * self.max_run / 3600


def _file_arguments(files: Mapping[str, bytes], *names: str) -> tuple[str, ...]:
    """Return the flags of files that lie beside the code."""
    present = [name for name in names if name in files]
    return tuple(word for name in present for word in (f"--{name}", file_name(name)))


def file_name(flag: str) -> str:
    """Return what the file that a flag names is called beside the code."""
    return f"{flag}.{FILE_FLAGS[flag]}"


def without_num_workers(flags: tuple[str, ...]) -> list[str]:
    """Return flags of build_dataset.py without the one that does not change what it writes."""
    kept = [flag for flag in flags if not flag.startswith("--num_workers=")]
    if "--num_workers" in kept:
        at = kept.index("--num_workers")
        del kept[at : at + 2]
    return kept


def job_name(job: DatasetJob, stage: Stage, attempt: int) -> str:
    """Return the name of a stage's job. AWS takes each name once, so each attempt has its own."""
    return f"{job.name}-{stage.name}" + (f"-{attempt}" if attempt > 1 else "")
