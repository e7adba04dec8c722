import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import container
from layout import (
    SEVERAL_GPUS,
    configuration,
    for_the_toolkit,
    job_variables,
    lay_out,
    num_gpus,
)

REQUEST: dict[str, Any] = {
    "TrainingJobName": "bins-vit-1",
    "HyperParameters": {"learning_rate": "2e-05", "sagemaker_program": '"train.py"'},
    "ResourceConfig": {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 2},
    "InputDataConfig": [
        {
            "ChannelName": "dataset",
            "InputMode": "FastFile",
            "DataSource": {"S3DataSource": {"S3Uri": "s3://bucket/bins/"}},
        }
    ],
}
ONE_HOST = configuration(REQUEST, ["algo-1"], "algo-1", "eth0")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("bins")
    (folder / "data" / "train.parquet").write_text("photos")
    return folder


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "scripts"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')")
    return folder


def test_hyperparameters_stay_the_encoded_strings_of_the_request() -> None:
    assert ONE_HOST["hyperparameters.json"] == REQUEST["HyperParameters"]


def test_every_channel_is_in_the_configuration_as_sagemaker_writes_it() -> None:
    assert ONE_HOST["inputdataconfig.json"] == {
        "dataset": {
            "TrainingInputMode": "FastFile",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        }
    }


def request_of_version3(instance_type: str, instance_count: int) -> dict[str, Any]:
    channels = [
        {**REQUEST["InputDataConfig"][0], "ChannelName": name} for name in ("code", "sm_drivers")
    ]
    return {
        **REQUEST,
        "AlgorithmSpecification": {"ContainerEntrypoint": ["/bin/bash"]},
        "HyperParameters": {"learning_rate": "2e-05", "run_name": r'"\"1.10\""'},
        "ResourceConfig": {"InstanceType": instance_type, "InstanceCount": instance_count},
        "InputDataConfig": [*REQUEST["InputDataConfig"], *channels],
    }


@pytest.mark.parametrize(
    ("instance_type", "instance_count", "torchrun"),
    [
        ("ml.g5.2xlarge", 1, "false"),
        ("ml.g5.2xlarge", 2, "true"),
        ("ml.g5.12xlarge", 1, "true"),
        ("ml.c5.2xlarge", 1, "false"),
    ],
)
def test_a_request_of_version_3_is_told_to_the_toolkit_as_version_2_tells_it(
    instance_type: str, instance_count: int, torchrun: str
) -> None:
    found = for_the_toolkit(request_of_version3(instance_type, instance_count))
    assert found["InputDataConfig"] == REQUEST["InputDataConfig"]
    assert found["HyperParameters"]["sagemaker_program"] == '"train.py"'
    assert found["HyperParameters"]["sagemaker_torch_distributed_enabled"] == torchrun
    assert found["HyperParameters"]["learning_rate"] == "2e-05"
    assert found["HyperParameters"]["run_name"] == '"1.10"'


def test_a_request_of_version_2_stays_as_it_is() -> None:
    request = {**REQUEST, "AlgorithmSpecification": {"TrainingImage": "image"}}
    assert for_the_toolkit(request) == request


def test_hosts_are_listed_in_order_and_know_which_one_they_are() -> None:
    resources = configuration(REQUEST, ["algo-2", "algo-1"], "algo-2", "lo")["resourceconfig.json"]
    assert resources == {
        "current_host": "algo-2",
        "current_instance_type": "ml.g5.2xlarge",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1", "algo-2"],
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": "ml.g5.2xlarge",
                "hosts": ["algo-1", "algo-2"],
            }
        ],
        "network_interface_name": "lo",
    }


def test_the_environment_of_a_job_is_its_name_and_what_the_request_asks_for() -> None:
    assert job_variables(REQUEST) == {"TRAINING_JOB_NAME": "bins-vit-1"}
    request = REQUEST | {"Environment": {"HF_HUB_OFFLINE": "1"}}
    assert job_variables(request) == {"TRAINING_JOB_NAME": "bins-vit-1", "HF_HUB_OFFLINE": "1"}


def test_the_folder_holds_what_a_job_finds(tmp_path: Path, dataset: Path, code: Path) -> None:
    base_dir = tmp_path / "ml"
    lay_out(base_dir, ONE_HOST, dataset, code)
    found = {str(path.relative_to(base_dir)) for path in base_dir.rglob("*") if path.is_file()}
    assert found == {
        "input/config/hyperparameters.json",
        "input/config/resourceconfig.json",
        "input/config/inputdataconfig.json",
        "input/data/dataset/README.md",
        "input/data/dataset/data/train.parquet",
        "code/train.py",
    }
    for name in ("model", "output/data", "checkpoints"):
        assert (base_dir / name).is_dir()
    written = json.loads((base_dir / "input/config/resourceconfig.json").read_text())
    assert written == ONE_HOST["resourceconfig.json"]


def test_the_dataset_takes_no_room_and_no_link_leads_out_of_the_folder(
    tmp_path: Path, dataset: Path, code: Path
) -> None:
    shards = dataset / "data"
    (shards / "test.parquet").symlink_to(shards / "train.parquet")
    base_dir = tmp_path / "ml"
    lay_out(base_dir, ONE_HOST, dataset, code)
    for name in ("train.parquet", "test.parquet"):
        laid_out = base_dir / "input" / "data" / "dataset" / "data" / name
        assert not laid_out.is_symlink()
        assert os.path.samefile(laid_out, shards / "train.parquet")


def test_a_new_instance_keeps_nothing_but_checkpoints(
    tmp_path: Path, dataset: Path, code: Path
) -> None:
    base_dir = tmp_path / "ml"
    lay_out(base_dir, ONE_HOST, dataset, code)
    for name in ("model/old", "output/failure", "output/data/old", "code/old.py"):
        (base_dir / name).write_text("of the run before")
    (base_dir / "checkpoints" / "checkpoint-7").mkdir()
    lay_out(base_dir, ONE_HOST, dataset, code)
    left = {str(path.relative_to(base_dir)) for path in base_dir.rglob("*")}
    assert "checkpoints/checkpoint-7" in left
    assert not left & {"model/old", "output/failure", "output/data/old", "code/old.py"}
    assert (dataset / "data" / "train.parquet").read_text() == "photos"


def test_a_folder_with_something_else_is_left_alone(
    tmp_path: Path, dataset: Path, code: Path
) -> None:
    mine = tmp_path / "mine" / "model" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("three years")
    with pytest.raises(ValueError, match="holds something else: choose a new folder"):
        lay_out(tmp_path / "mine", ONE_HOST, dataset, code)
    assert mine.read_text() == "three years"


def test_a_folder_whose_layout_was_killed_is_laid_out_again(
    tmp_path: Path, dataset: Path, code: Path
) -> None:
    base_dir = tmp_path / "ml"
    # One file cannot be read: what was to be copied after the dataset is not there yet.
    (dataset / "data" / "unreadable.parquet").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="unreadable"):
        lay_out(base_dir, ONE_HOST, dataset, code)
    assert not (base_dir / "code").exists()
    (dataset / "data" / "unreadable.parquet").unlink()
    lay_out(base_dir, ONE_HOST, dataset, code)
    assert (base_dir / "code" / "train.py").exists()


def test_without_a_dataset_nothing_is_written(tmp_path: Path, code: Path) -> None:
    with pytest.raises(ValueError, match=r"build_dataset\.py"):
        lay_out(tmp_path / "ml", ONE_HOST, tmp_path / "missing", code)
    assert not (tmp_path / "ml").exists()


def test_instances_have_the_gpus_that_the_sdk_knows_of() -> None:
    [sdk] = find_spec("sagemaker").submodule_search_locations or []  # type: ignore[union-attr]
    path = Path(sdk) / "image_uri_config" / "instance_gpu_info.json"
    table = json.loads(path.read_text())["us-east-1"]
    assert len(table) > 20
    assert {name: num_gpus(name) for name in table} == {
        name: entry["Count"] for name, entry in table.items()
    }
    assert container.SEVERAL_GPUS == SEVERAL_GPUS
    assert num_gpus("ml.c7i.4xlarge") == num_gpus("ml.m5.xlarge") == 0
