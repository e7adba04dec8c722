"""What a training job's request says, whichever version of the SDK makes it."""

from typing import Any

import pytest

import container
from aws.account_flags import AccountDemands
from aws.settings import boto_session
from jobs.training_job import PROFILER_RULES
from launches import plain_job
from launching.launch import create, request_of
from stand_ins.aws_server import AwsServer

ROLE = "arn:aws:iam::111122223333:role/jobs"


def request(region: str = "us-east-1", **changes: Any) -> dict[str, Any]:
    """Return the request of a plain job with changes."""
    return request_of(plain_job(**changes), region, ROLE)


def test_a_plain_job_is_on_demand_with_checkpoints_in_s3_and_says_its_longest_run() -> None:
    found = request(max_run=7200)
    assert found["TrainingJobName"] == "bins-vit-1"
    assert found["RoleArn"] == ROLE
    image = found["AlgorithmSpecification"]["TrainingImage"]
    assert image.startswith("763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface")
    assert found["CheckpointConfig"]["S3Uri"] == "s3://photos/out/checkpoints/bins-vit-1/"
    assert found["StoppingCondition"] == {"MaxRuntimeInSeconds": 7200}
    assert found["ProfilerConfig"] == {"DisableProfiler": True}
    assert not found.get("EnableManagedSpotTraining")
    assert not found.keys() & {
        *("DebugHookConfig", "Environment", "ProfilerRuleConfigurations", "Tags", "VpcConfig"),
    }


def test_hyperparameters_travel_in_json() -> None:
    hyperparameters = {"learning_rate": 2e-5, "bf16": True, "config_name": "resnet34"}
    given = request(hyperparameters=hyperparameters)["HyperParameters"]
    assert {name: text for name, text in given.items() if not name.startswith("sagemaker_")} == {
        "learning_rate": "2e-05",
        "bf16": "true",
        "config_name": '"resnet34"',
    }


def test_a_spot_job_waits() -> None:
    found = request(max_wait=9000)
    assert found["EnableManagedSpotTraining"] is True
    assert found["StoppingCondition"]["MaxWaitTimeInSeconds"] == 9000


def test_what_an_account_demands_reaches_the_request() -> None:
    demands = AccountDemands({"team": "bins"}, ("subnet-1",), ("sg-1",), "out", "disk")
    found = request(
        account=demands, instance_type="ml.c7i.xlarge", volume_gb=50, hyperparameters={}
    )
    assert found["Tags"] == [{"Key": "team", "Value": "bins"}]
    assert found["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert found["OutputDataConfig"]["KmsKeyId"] == "out"
    assert found["ResourceConfig"]["VolumeKmsKeyId"] == "disk"
    assert found["ResourceConfig"]["VolumeSizeInGB"] == 50


def test_a_tag_may_have_no_value() -> None:
    tags = [{"Key": "audited", "Value": ""}]
    assert request(account=AccountDemands({"audited": ""}))["Tags"] == tags


def test_instances_are_kept_warm() -> None:
    assert request(keep_alive=600)["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 600


def test_a_cpu_job_runs_in_the_cpu_image() -> None:
    found = request(instance_type="ml.c5.xlarge", hyperparameters={})
    image = found["AlgorithmSpecification"]["TrainingImage"]
    assert image.endswith(f"/{container.CPU_TRAINING_IMAGE}")


@pytest.mark.parametrize("mode", ["File", "FastFile"])
def test_the_dataset_is_a_folder_and_not_all_that_begins_with_its_name(mode: str) -> None:
    (channel,) = (
        channel
        for channel in request(input_mode=mode)["InputDataConfig"]
        if channel["ChannelName"] == "dataset"
    )
    assert channel["DataSource"]["S3DataSource"]["S3Uri"] == "s3://photos/bins/"
    assert channel["InputMode"] == mode


def test_a_job_writes_nowhere_near_the_code_that_others_run() -> None:
    found = request(profile=True)
    assert found["OutputDataConfig"]["S3OutputPath"] == "s3://photos/out/jobs"
    assert found["ProfilerConfig"]["S3OutputPath"] == "s3://photos/out/jobs"


def test_a_profile_has_diagnostics_and_the_rules_on_system_metrics() -> None:
    found = request(profile=True)
    assert found["HyperParameters"]["diagnostics"] == "true"
    assert found["ProfilerConfig"]["ProfilingIntervalInMilliseconds"] == 500
    rules = found["ProfilerRuleConfigurations"]
    assert [rule["RuleParameters"]["rule_to_invoke"] for rule in rules] == [*PROFILER_RULES]
    assert {rule["RuleEvaluatorImage"].partition("/")[2] for rule in rules} == {
        "sagemaker-debugger-rules:latest"
    }


def test_a_region_without_profiler_rules_has_the_diagnostics_at_least() -> None:
    with pytest.raises(ValueError, match="--profile: AWS has no profiler rules in il-central-1"):
        request("il-central-1", profile=True)


@pytest.mark.parametrize("key", [None, "alias/out"])
def test_aws_is_asked_for_nothing_but_the_code_and_the_job(
    key: str | None, account: AwsServer
) -> None:
    """Not what the role may do, nor for a bucket; and no job may write where the code goes."""
    account.received.clear()
    plain = plain_job(output="s3://photos/out", account=AccountDemands(kms_key=key))
    create(plain, boto_session("us-east-1"), ROLE)
    (*uploads, created) = account.received
    assert created.operation == "CreateTrainingJob"
    assert uploads
    for upload in uploads:
        assert upload.method == "PUT"
        assert upload.path.startswith("/photos/out/code/bins-vit-1/")
        assert upload.headers["X-Amz-Server-Side-Encryption"] == "aws:kms"
        assert upload.headers.get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") == key
