import re
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from aws.names import JOB_NAME, MAX_NAME_LENGTH
from jobs.processing_job import FINISH, SHARDS, DatasetJob, job_name, without_num_workers

OUTPUT = "s3://photos/datasets/bins"


def dataset_job(**changes: Any) -> DatasetJob:
    plain: dict[str, Any] = {
        "source": "s3://aft-vbi-pds",
        "output": OUTPUT,
        "code": "s3://photos/bin-counting",
        "catalog": None,
        "files": {},
        "flags": ("--seed", "1"),
        "instance_type": "ml.c5.4xlarge",
        "instance_count": 2,
        "max_run": 3600,
    }
    return DatasetJob(**{**plain, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"instance_count": 9, "instance_type": "ml.c7i.xlarge", "max_run": 60},
        {"flags": ("--num_workers", "3", "--seed", "1")},
        {"flags": ("--seed", "1", "--num_workers=3")},
    ],
)
def test_who_does_the_work_does_not_change_the_name(changes: dict[str, Any]) -> None:
    assert dataset_job(**changes).name == dataset_job().name


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "s3://photos/mirror"},
        {"output": "s3://other/datasets/bins"},
        {"catalog": f"{OUTPUT}/catalog.parquet"},
        {"flags": ("--seed", "2")},
        {"files": {"bin_list": b"{}"}},
        {"files": {"bin_list": b"{ }"}},
    ],
)
def test_what_is_made_changes_the_name(changes: dict[str, Any]) -> None:
    assert dataset_job(**changes).name != dataset_job().name
    assert (
        dataset_job(files={"bin_list": b"{}"}).name != dataset_job(files={"bin_list": b"{ }"}).name
    )


@hypothesis.given(strategies.text(min_size=1, max_size=60), strategies.integers(1, 999))
def test_whatever_the_folder_is_called_aws_and_the_policies_take_the_names(
    folder: str, attempt: int
) -> None:
    job = dataset_job(output=f"s3://photos/{folder}")
    for stage in job.stages():
        name = job_name(job, stage, attempt)
        assert JOB_NAME.fullmatch(name), name
        assert len(name) <= MAX_NAME_LENGTH
        assert re.search(rf"-{stage.name}(-\d+)?$", name)


def test_only_the_number_of_processes_is_left_out() -> None:
    assert without_num_workers(("--seed", "1", "--num_workers", "3", "--max_bins", "2")) == [
        *("--seed", "1", "--max_bins", "2"),
    ]
    assert without_num_workers(("--seed", "--num_workers")) == ["--seed"]


def test_all_time_limits_of_all_machines_are_what_it_can_cost() -> None:
    assert dataset_job(instance_count=4, max_run=1800).most_it_can_cost(2) == 6
    given = dataset_job(catalog="s3://photos/c.parquet", instance_count=4, max_run=1800)
    assert given.most_it_can_cost(2) == 5
    assert [stage.name for stage in given.stages()] == [SHARDS, FINISH]
