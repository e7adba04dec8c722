from typing import Any

import pytest

import container
from aws.account_flags import AccountDemands
from aws.quiet_sdk import import_sagemaker
from launching.estimator import channels, estimator_arguments
from launching.training_job import MODEL_PARAMETERS, TrainingJob, volume_gb_for

ROLE = "arn:aws:iam::111122223333:role/jobs"


def job(**changes: Any) -> TrainingJob:
    values: dict[str, Any] = {
        "name": "bins-vit-1",
        "dataset": "s3://b/bins",
        "output": "s3://b/out",
        "checkpoints": "s3://b/out/checkpoints/bins-vit-1/",
        "hyperparameters": {"learning_rate": 2e-5, "bf16": True},
        "instance_type": "ml.g5.2xlarge",
        "instance_count": 1,
        "max_run": 3600,
    }
    return TrainingJob(**{**values, **changes})


def arguments(**changes: Any) -> dict[str, Any]:
    return estimator_arguments(job(**changes), import_sagemaker(), "us-east-1", ROLE, "s3://b/c")


def test_a_plain_job_is_on_demand_in_one_process_with_checkpoints_in_s3() -> None:
    found = arguments()
    assert found["image_uri"].startswith("763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface")
    assert found["checkpoint_s3_uri"] == "s3://b/out/checkpoints/bins-vit-1/"
    assert found["max_run"] == 3600
    assert found["disable_profiler"] is True
    assert found["debugger_hook_config"] is False
    assert not found.keys() & {
        *("use_spot_instances", "max_wait", "distribution", "rules", "profiler_config"),
        *("keep_alive_period_in_seconds", "environment"),
    }


def test_a_spot_job_waits() -> None:
    found = arguments(max_wait=7200)
    assert found["use_spot_instances"] is True
    assert found["max_wait"] == 7200


def test_what_an_account_demands_reaches_the_estimator() -> None:
    demands = AccountDemands({"team": "bins"}, ("subnet-1",), ("sg-1",), "out", "disk")
    found = arguments(account=demands, instance_type="ml.c7i.xlarge", volume_gb=50)
    assert found["tags"] == [{"Key": "team", "Value": "bins"}]
    assert (found["subnets"], found["security_group_ids"]) == (["subnet-1"], ["sg-1"])
    assert (found["output_kms_key"], found["volume_kms_key"]) == ("out", "disk")
    assert found["volume_size"] == 50
    assert not arguments().keys() & {"tags", "subnets", "output_kms_key", "volume_kms_key"}


def test_a_job_writes_nowhere_near_the_code_that_others_run() -> None:
    found = arguments(profile=True)
    assert found["code_location"] == "s3://b/out/code"
    assert found["output_path"] == "s3://b/out/jobs"
    assert found["profiler_config"].s3_output_path == "s3://b/out/jobs"


def test_the_disk_holds_the_dataset_twice_and_the_checkpoints() -> None:
    vit, resnet = ({"model_name_or_path": name} for name in MODEL_PARAMETERS)
    assert volume_gb_for(vit, 0) == volume_gb_for(resnet, 0) == 30
    assert volume_gb_for({"config_name": "resnet34"}, 0) == 30
    # 20 GB of photos, four checkpoints of 1.4 GB, and room.
    assert volume_gb_for(vit, 20 * 10**9) == 40 + 6 + 10
    # A model of which nothing is known may be a ViT-H/14.
    assert volume_gb_for({"model_name_or_path": "a/model"}, 0) == 41 + 10


def test_a_region_without_profiler_rules_has_the_diagnostics_at_least() -> None:
    with pytest.raises(ValueError, match="--profile: AWS has no profiler rules in il-central-1"):
        estimator_arguments(job(profile=True), import_sagemaker(), "il-central-1", ROLE, "s3://b/c")


def test_several_instances_or_gpus_run_torchrun() -> None:
    torchrun = {"torch_distributed": {"enabled": True}}
    assert arguments(instance_count=2)["distribution"] == torchrun
    assert arguments(instance_type="ml.g5.12xlarge")["distribution"] == torchrun


def test_a_gpu_type_that_is_not_in_the_table_may_hold_several() -> None:
    assert container.num_gpus("ml.g5.12xlarge") == 4
    assert container.num_gpus("ml.g99.2xlarge") == 2
    assert container.num_gpus("ml.c5.xlarge") == 0


@pytest.mark.parametrize("instance_type", ["ml.g5.xlarge", "ml.g6.xlarge", "ml.g6e.2xlarge"])
def test_one_gpu_is_one_process_where_the_sdk_knows_no_such_type(instance_type: str) -> None:
    assert "distribution" not in arguments(instance_type=instance_type)


def test_a_profile_has_diagnostics_and_the_rules_on_system_metrics() -> None:
    assert "diagnostics" not in arguments()["hyperparameters"]
    found = arguments(profile=True)
    assert found["hyperparameters"] == {"learning_rate": 2e-5, "bf16": True, "diagnostics": True}
    assert "disable_profiler" not in found
    assert {rule.name for rule in found["rules"]} == {
        *("ProfilerReport", "LowGPUUtilization", "CPUBottleneck", "IOBottleneck"),
        *("GPUMemoryIncrease", "OverallSystemUsage"),
    }


def test_a_cpu_job_runs_in_the_cpu_image() -> None:
    found = arguments(instance_type="ml.c5.xlarge", hyperparameters={})
    assert found["image_uri"].endswith(f"/{container.CPU_TRAINING_IMAGE}")


def test_the_dataset_is_a_folder_and_not_all_that_begins_with_its_name() -> None:
    (name, channel), *others = channels(job(input_mode="FastFile"), import_sagemaker()).items()
    assert not others
    assert name == "dataset"
    assert channel.config["DataSource"]["S3DataSource"]["S3Uri"] == "s3://b/bins/"
    assert channel.config["InputMode"] == "FastFile"


def test_the_most_it_can_cost_is_that_of_all_instances_for_the_whole_limit() -> None:
    assert job(max_run=7200, instance_count=3).most_it_can_cost(1.5) == 9.0
    # Waiting for a spot instance costs nothing, keeping one does.
    assert job(max_wait=72000).most_it_can_cost(1.5) == 1.5
    assert job(keep_alive=1800).most_it_can_cost(1.0) == 1.5


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
        job(**changes)
    assert "\n" not in str(raised.value)
