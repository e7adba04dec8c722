"""Lay out the folder that a job finds as /opt/ml, from the request that would create the job.

Source: docs.aws.amazon.com/sagemaker, "How Amazon SageMaker AI provides training information".
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INSTANCE_GROUP = "homogeneousCluster"  # SageMaker's name for the only group of a job
# As in sagemaker_jobs/container.py: family: size: GPUs, of instances with more than one.
# Source: aws.amazon.com/ec2/instance-types, accelerated computing.
SEVERAL_GPUS = {
    **{family: {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8} for family in ("g5", "g6", "g6e")},
    "g4dn": {"12xlarge": 4, "metal": 8},
    "g7e": {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
    "p2": {"8xlarge": 8, "16xlarge": 16},
    "p3": {"8xlarge": 4, "16xlarge": 8},
    **{family: {"24xlarge": 8} for family in ("p3dn", "p4d", "p4de")},
    **{family: {"48xlarge": 8} for family in ("p5", "p5e", "p5en", "p6-b200", "p6-b300")},
}
HYPERPARAMETERS = Path("input/config/hyperparameters.json")
# Of an earlier run; a new instance gets checkpoints alone back from S3.
NOT_KEPT = ("input/data", "code", "model", "output")
CHECKPOINTS = "checkpoints"
# Of version 3 of the SageMaker SDK, beside what a job is given.
CODE_CHANNELS = ("code", "sm_drivers")


def for_the_toolkit(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with what the container's own toolkit reads of it.

    Version 3 of the SageMaker SDK starts train.py by programs of its own, which it uploads beside
    the code. Here the toolkit starts it, as it does for version 2, and in the trials of a search
    under either: what version 2 would tell it to run is told, the two more channels are left out.

    Args:
        request: a CreateTrainingJob request of either version.
    """
    if "ContainerEntrypoint" not in request["AlgorithmSpecification"]:
        return dict(request)
    resources = request["ResourceConfig"]
    several = resources["InstanceCount"] > 1 or num_gpus(resources["InstanceType"]) > 1
    told = {
        "sagemaker_program": json.dumps("train.py"),
        "sagemaker_instance_type": json.dumps(resources["InstanceType"]),
        "sagemaker_torch_distributed_enabled": json.dumps(several),
    }
    channels = request["InputDataConfig"]
    read_once = {name: _read_once(text) for name, text in request["HyperParameters"].items()}
    return {
        **request,
        "HyperParameters": {**read_once, **told},
        "InputDataConfig": [
            channel for channel in channels if channel["ChannelName"] not in CODE_CHANNELS
        ],
    }


def _read_once(text: str) -> str:
    """Return a value without the second JSON that it may have for version 3's programs."""
    value = json.loads(text)
    return value if isinstance(value, str) and value.startswith('"') else text


def configuration(
    request: Mapping[str, Any], hosts: Sequence[str], current_host: str, network_interface: str
) -> dict[str, dict[str, Any]]:
    """Return the contents of /opt/ml/input/config by the name of the file.

    Args:
        request: a CreateTrainingJob request. Its hyperparameters are JSON-encoded strings, and stay
            so.
        hosts: names of all instances; each has to resolve, or the toolkit waits for it.
    """
    instance_type = request["ResourceConfig"]["InstanceType"]
    group = {
        "instance_group_name": INSTANCE_GROUP,
        "instance_type": instance_type,
        "hosts": sorted(hosts),
    }
    return {
        HYPERPARAMETERS.name: dict(request["HyperParameters"]),
        "resourceconfig.json": {
            "current_host": current_host,
            "current_instance_type": instance_type,
            "current_group_name": INSTANCE_GROUP,
            "hosts": sorted(hosts),
            "instance_groups": [group],
            "network_interface_name": network_interface,
        },
        "inputdataconfig.json": {
            channel["ChannelName"]: {
                "TrainingInputMode": channel.get("InputMode", "File"),
                "S3DistributionType": channel["DataSource"]["S3DataSource"].get(
                    "S3DataDistributionType", "FullyReplicated"
                ),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
            }
            for channel in request["InputDataConfig"]
        },
    }


def num_gpus(instance_type: str) -> int:
    """Return how many GPUs an instance has; of a type that is newer than the table, one."""
    family, _, size = instance_type.removeprefix("ml.").partition(".")
    if not family.startswith(("g", "p")):
        return 0
    return SEVERAL_GPUS.get(family, {}).get(size, 1)


def job_variables(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment variables that a job has beside those of its container."""
    return {"TRAINING_JOB_NAME": request["TrainingJobName"], **request.get("Environment", {})}


def lay_out(
    base_dir: Path,
    configuration: Mapping[str, Mapping[str, Any]],
    dataset_dir: Path,
    code_dir: Path,
) -> None:
    """Write the folder as a new instance finds it; checkpoints that are there stay.

    Args:
        base_dir: the folder that stands for /opt/ml.
        configuration: what the function of that name returns.
        dataset_dir: contents of each channel. Hard links where the disk allows it: a link by name
            would lead nowhere in a container.
        code_dir: contents of /opt/ml/code.

    Raises: ValueError: no finished dataset, or the folder holds something else. OSError: it cannot
        be written.
    """
    check_dataset(dataset_dir)
    check_base_dir(base_dir)
    # First, since it says whose folder this is when what follows is killed.
    for name, content in configuration.items():
        path = (base_dir / HYPERPARAMETERS).with_name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    for name in NOT_KEPT:
        if (base_dir / name).exists():
            shutil.rmtree(base_dir / name)
    for name in ("output/data", "model", CHECKPOINTS):
        (base_dir / name).mkdir(parents=True, exist_ok=True)
    for channel in configuration["inputdataconfig.json"]:
        shutil.copytree(
            dataset_dir, base_dir / "input" / "data" / channel, copy_function=link_or_copy
        )
    shutil.copytree(code_dir, base_dir / "code", ignore=shutil.ignore_patterns("__pycache__"))


def check_dataset(dataset_dir: Path) -> None:
    """Check that a dataset was built to its end. Raises: ValueError: it was not."""
    if not (dataset_dir / "README.md").is_file():
        raise ValueError(
            f"--dataset {dataset_dir}: there is no finished dataset here; run "
            "data_prep/build_dataset.py first, or `make demo`."
        )


def check_base_dir(base_dir: Path) -> None:
    """Check that a folder may be laid out: new, empty, or laid out before.

    Raises: ValueError: it holds something else, which would be lost.
    """
    is_ours = (base_dir / HYPERPARAMETERS).is_file()
    if base_dir.exists() and not is_ours and (base_dir.is_file() or any(base_dir.iterdir())):
        raise ValueError(f"--output_dir {base_dir} holds something else: choose a new folder.")


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name, or copy it to another disk."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
