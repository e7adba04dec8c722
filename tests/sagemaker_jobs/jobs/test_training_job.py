from typing import Any

import pytest

import container
from aws.account_flags import AccountDemands
from jobs.training_job import MODEL_PARAMETERS, volume_gb_for
from launches import plain_job


def test_the_disk_holds_the_dataset_twice_and_the_checkpoints() -> None:
    vit, resnet = ({"model_name_or_path": name} for name in MODEL_PARAMETERS)
    assert volume_gb_for(vit, 0) == volume_gb_for(resnet, 0) == 30
    assert volume_gb_for({"config_name": "resnet34"}, 0) == 30
    # 20 GB of photos, four checkpoints of 1.4 GB, and room.
    assert volume_gb_for(vit, 20 * 10**9) == 40 + 6 + 10
    # A model of which nothing is known may be a ViT-H/14.
    assert volume_gb_for({"model_name_or_path": "a/model"}, 0) == 41 + 10


def test_a_gpu_type_that_is_not_in_the_table_may_hold_several() -> None:
    assert container.num_gpus("ml.g5.12xlarge") == 4
    assert container.num_gpus("ml.g99.2xlarge") == 2
    assert container.num_gpus("ml.c5.xlarge") == 0


@pytest.mark.parametrize("instance_type", ["ml.g5.xlarge", "ml.g6.xlarge", "ml.g6e.2xlarge"])
def test_one_gpu_is_one_process(instance_type: str) -> None:
    assert not plain_job(instance_type=instance_type).is_distributed
    assert plain_job(instance_type=instance_type, instance_count=2).is_distributed
    assert plain_job(instance_type="ml.g5.12xlarge").is_distributed


def test_a_profile_has_diagnostics_unless_a_flag_says_otherwise() -> None:
    assert "diagnostics" not in plain_job().script_hyperparameters
    assert plain_job(profile=True).script_hyperparameters["diagnostics"] is True
    off = plain_job(profile=True, hyperparameters={"diagnostics": False})
    assert off.script_hyperparameters == {"diagnostics": False}


def test_the_most_it_can_cost_is_that_of_all_instances_for_the_whole_limit() -> None:
    assert plain_job(max_run=7200, instance_count=3).most_it_can_cost(1.5) == 9.0
    # Waiting for a spot instance costs nothing, keeping one does.
    assert plain_job(max_wait=72000).most_it_can_cost(1.5) == 1.5
    assert plain_job(keep_alive=1800).most_it_can_cost(1.0) == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_wait": 1800}, "--max_wait 1800 is less than --max_run 3600"),
        ({"max_wait": 7200, "keep_alive": 60}, "--keep_alive and --spot"),
        ({"name": "vit-1"}, "--job_name vit-1: write bins-NAME"),
        ({"name": "bins-" + "x" * 59}, "at most 63 characters"),
        ({"name": "bins-a_b"}, "--job_name bins-a_b"),
        ({"instance_type": "ml.g5.3xlarge"}, "such as ml.g5.xlarge, ml.g5.2xlarge"),
        ({"instance_type": "g5"}, "there is no such type"),
        ({"instance_type": "ml.p3.2xlarge"}, "the training container does not run on it"),
        ({"instance_type": "ml.trn1.2xlarge"}, "the training container does not run on it"),
        ({"instance_type": "ml.g4dn.xlarge"}, "ml.g4dn.xlarge only emulates bf16"),
        ({"instance_type": "ml.c5.4xlarge"}, "only emulates bf16: leave --bf16 out"),
        ({"max_run": 2_419_201}, "--max_run 2419201: AWS takes 2,419,200 s at most"),
        (
            {"account": AccountDemands(volume_kms_key="k")},
            "--volume_kms_key: ml.g5.2xlarge has disks of its own",
        ),
        (
            {"instance_type": "ml.c5.xlarge", "hyperparameters": {"fp16": True}},
            "has no fp16: leave --fp16 out",
        ),
        ({"instance_type": "ml.c5.xlarge", "instance_count": 2}, "ml.c5.xlarge has no GPU"),
    ],
)
def test_what_aws_would_refuse_is_refused_before(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        plain_job(**changes)
    assert "\n" not in str(raised.value)
