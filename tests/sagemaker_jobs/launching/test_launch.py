"""What the launchers show and send: the request is read where it arrives, at a real HTTP server."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import container
import resnet34
import vit
from aws.recorded_requests import RecordedRequests
from launches import DATASET, error_of, run_vit
from launching.recipe import recipe_names, shipped_recipe
from paths import ROOT
from stand_ins.aws_server import AwsServer

JOBS = ROOT / "sagemaker_jobs"


@pytest.mark.parametrize("entry", ["vit.py", "resnet34.py"])
def test_a_dry_run_needs_nothing_but_the_command(entry: str) -> None:
    result = subprocess.run(
        [sys.executable, str(JOBS / entry), "--dry_run", "--price_per_hour", "2"],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    request = json.loads(result.stdout)
    assert request["HyperParameters"]["do_train"] == "true"
    assert request["RoleArn"].endswith("/YOUR-ROLE")
    assert request["ResourceConfig"]["InstanceType"] == "ml.g5.2xlarge"
    assert "costs at most 48.00" in result.stderr
    assert "accuracy was published for plain" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_a_job_that_says_what_to_expect(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_vit("--dry_run", "--recipe", name)
    printed = capsys.readouterr()
    recipe = shipped_recipe(name)
    sent = json.loads(printed.out)["HyperParameters"]
    assert {flag: json.loads(sent[flag]) for flag in recipe.hyperparameters} == {
        **recipe.hyperparameters
    }
    assert len(recipe.expectation) > 50
    assert recipe.expectation in printed.err
    assert f"bins-{name.replace('_', '-')}-2" in printed.err


def test_a_recipe_goes_before_the_entrys_and_the_command_line_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_vit("--dry_run", "--recipe", "resnet34_scratch", "--learning_rate", "2e-3")
    printed = capsys.readouterr()
    sent = json.loads(printed.out)["HyperParameters"]
    assert json.loads(sent["config_name"]) == "resnet34"
    assert "model_name_or_path" not in sent
    # Version 3's programs read a text twice, and it is written twice for them.
    rate = json.loads(sent["learning_rate"]).strip('"')
    assert (rate, sent["num_train_epochs"]) == ("2e-3", "6")
    assert shipped_recipe("resnet34_scratch").expectation not in printed.err


@pytest.mark.parametrize("name", recipe_names())
def test_precision_is_the_machines_to_decide(name: str) -> None:
    assert not {"bf16", "fp16", "tf32"} & shipped_recipe(name).hyperparameters.keys()


def test_the_disk_holds_the_dataset_that_is_there(account: AwsServer) -> None:
    account.claim_size("photos", "bins/data/train-00000-of-00001.parquet", 20 * 10**9)
    flags = ["--dataset", DATASET, "--role", "jobs", "--instance_type", "ml.c5.xlarge"]
    run_vit(*flags)
    run_vit(*flags, "--volume_gb", "77", "--job_name", "bins-other")  # the default: of this second
    requests = account.requests("CreateTrainingJob")
    assert [r["ResourceConfig"]["VolumeSizeInGB"] for r in requests] == [56, 77]


def test_a_dry_run_shows_the_region_and_the_role_that_a_launch_would_take(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    role = "arn:aws:iam::123456789012:role/jobs"
    monkeypatch.setenv("AWS_REGION", "eu-south-1")
    monkeypatch.setenv("SAGEMAKER_ROLE", role)
    run_vit("--dry_run")
    request = json.loads(capsys.readouterr().out)
    assert request["RoleArn"] == role
    run_vit("--dry_run", "--role", "mine")  # whose account only AWS could tell
    assert json.loads(capsys.readouterr().out)["RoleArn"].endswith(":role/mine")
    assert ".ecr.eu-south-1." in request["AlgorithmSpecification"]["TrainingImage"]
    assert not aws.received


def test_what_was_published_for_other_settings_is_not_promised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_vit("--dry_run", "--config_name", "resnet34")
    assert "published" not in capsys.readouterr().err


def test_the_recipes_train_the_two_published_models() -> None:
    assert vit.RECIPE.hyperparameters["learning_rate"] == 3e-4
    assert vit.RECIPE.hyperparameters["num_train_epochs"] == 5
    assert resnet34.RECIPE.hyperparameters["learning_rate"] == 1e-3
    assert resnet34.RECIPE.hyperparameters["num_train_epochs"] == 10


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--spot", "--max_run", "3600", "--max_wait", "7200"],
        ["--instance_count", "2", "--input_mode", "FastFile"],
        ["--instance_type", "ml.c5.xlarge", "--volume_gb", "60", "--volume_kms_key", "disk"],
        ["--tags", "team=bins", "--subnets", "subnet-1", "--security_group_ids", "sg-1"]
        + ["--kms_key", "arn:aws:kms:us-east-1:123456789012:key/1"],
        ["--profile", "--keep_alive", "600"],
        ["--learning_rate", "3e-5", "--config_name", "resnet34", "--output", "s3://photos/out/"],
        ["--checkpoints", "s3://photos/bin-counting/checkpoints/bins-old"],
    ],
    ids=["plain", "spot", "two instances", "cpu", "account", "profile", "flags", "checkpoints"],
)
def test_what_arrives_is_what_the_dry_run_printed(
    flags: list[str], account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--dataset", DATASET, "--job_name", "bins-vit-1", *flags]
    arn = account.client("iam").get_role(RoleName="jobs")["Role"]["Arn"]
    account.received.clear()
    run_vit("--dry_run", "--role", arn, *common)
    printed = json.loads(capsys.readouterr().out)
    assert not account.received
    run_vit("--role", "jobs", *common)
    (arrived,) = account.requests("CreateTrainingJob")
    assert arrived == printed
    assert capsys.readouterr().out == "bins-vit-1\n"


def test_the_code_that_arrives_is_scripts_alone(account: AwsServer) -> None:
    run_vit("--dataset", DATASET, "--role", "jobs", "--job_name", "bins-1")
    key = "bin-counting/code/bins-1/source/sourcedir.tar.gz"
    body = account.client("s3").get_object(Bucket="photos", Key=key)["Body"].read()
    with tarfile.open(fileobj=BytesIO(body)) as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
    assert {"train.py", "model_configs/resnet34/config.json", "recipes/vit.json"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_a_cpu_job_installs_what_its_image_lacks(account: AwsServer) -> None:
    flags = ["--instance_type", "ml.c5.xlarge", "--job_name", "bins-1"]
    run_vit("--dataset", DATASET, "--role", "jobs", *flags)
    key = "bin-counting/code/bins-1/source/sourcedir.tar.gz"
    body = account.client("s3").get_object(Bucket="photos", Key=key)["Body"].read()
    with tarfile.open(fileobj=BytesIO(body)) as archive:
        requirements = archive.extractfile("requirements.txt")
        assert requirements is not None
        lines = requirements.read().decode().splitlines()
    pins = {f"{name}=={version}" for name, version in container.TRAINING_PACKAGES.items()}
    assert pins <= set(lines)


def test_the_next_commands_are_printed(
    account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_vit("--dataset", DATASET, "--role", "jobs", "--job_name", "bins-1")
    printed = capsys.readouterr().err
    for verb in ("attach", "stop", "report"):
        assert f"job_report.py {verb} bins-1 --region us-east-1" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --dataset s3://BUCKET/FOLDER"),
        (["--dataset", "data/bins"], "data/bins is not an S3 URI"),
        (["--dataset", DATASET, "--max_wait", "9"], "--max_wait is for --spot"),
        (["--dataset", DATASET, "--recipe", "vit_huge"], "invalid choice: 'vit_huge'"),
        (["--dataset", DATASET, "--role", "jobs", "--learning_rte", "1"], "--learning_rte"),
        (
            ["--dataset", DATASET, "--role", "jobs", "--learning_rate", "fast"],
            "invalid float value: 'fast'",
        ),
        (["--dataset", DATASET, "--instance_count", "0"], "--instance_count"),
        (
            ["--dataset", DATASET, "--checkpoints", "s3://photos/elsewhere/checkpoints/bins-1"],
            "a job's role may write below s3://photos/bin-counting/checkpoints/ alone",
        ),
        (
            ["--dataset", DATASET, "--checkpoints", "s3://photos/bin-counting/checkpoints/"],
            "name a folder there",
        ),
        (
            ["--dataset", DATASET, "--role", "jobs", "--region", "mars-1"],
            "--region mars-1: AWS keeps no GPU",
        ),
        (["--dataset", "s3://photos/empty", "--role", "jobs"], "holds no README.md"),
        (["--dataset", DATASET], "no role for the job: make one with"),
        (
            ["--dataset", DATASET, "--role", "jobs", "--output", "s3://nowhere/out"],
            "--output s3://nowhere/out: there is no such bucket",
        ),
        (["--dataset", DATASET, "--local", "--spot"], "--local and --spot exclude"),
        (["--dataset", DATASET, "--local", "--tags", "a=b"], "--local and --tags exclude"),
        (
            ["--dataset", DATASET, "--role", "jobs", "--keep_alive", "30000"],
            "error: --keep_alive 30000: AWS takes 21,600 at most.",
        ),
        (
            ["--dataset", DATASET, "--role", "jobs", "--run_name", "x" * 2499],
            "--run_name 2,501 characters: AWS takes 2,500 characters at most.",
        ),
        (
            ["--dataset", DATASET, "--role", "jobs", "--tags", "cost=1<2"],
            "--tags 1<2: AWS takes only what fits",
        ),
        (
            ["--dataset", DATASET, "--role", "jobs", "--run_name", "my run"],
            "--run_name my run: in a container a shell reads the flags",
        ),
        (["--dataset", DATASET, "--local"], "with --local it is a folder"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_sent(
    flags: list[str], message: str, account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, *flags)
    assert not account.requests("CreateTrainingJob")
    assert not [r for r in account.received if r.method == "PUT" and "sourcedir" in r.path]


def test_a_name_that_is_taken_is_refused_before_the_code_is_overwritten(
    account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", DATASET, "--role", "jobs", "--job_name", "bins-1"]
    run_vit(*flags)
    capsys.readouterr()
    account.received.clear()
    assert "bins-1: there is such a job already" in error_of(capsys, *flags)
    assert not [r for r in account.received if r.method == "PUT"]


def test_without_credentials_or_region_one_line_says_so(
    account: AwsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "no AWS region: give --region" in error_of(capsys, "--dataset", DATASET)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    line = error_of(capsys, "--dataset", DATASET, "--region", "us-east-1")
    assert "no AWS credentials: run `aws configure`" in line


@pytest.mark.parametrize("call", ["PutObject", "CreateTrainingJob"])
def test_a_signal_while_the_request_is_checked_launches_nothing(
    call: str,
    account: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = RecordedRequests._answer

    def interrupted(self: RecordedRequests, model: Any, **kwargs: Any) -> Any:
        if model.name == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer(self, model, **kwargs)

    monkeypatch.setattr(RecordedRequests, "_answer", interrupted)
    with pytest.raises(SystemExit) as exit_info:
        run_vit("--dataset", DATASET, "--role", "jobs")
    assert exit_info.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "\nStopped.\n"
    assert not account.requests("CreateTrainingJob")
    assert not [r for r in account.received if r.method == "PUT" and "sourcedir" in r.path]


@pytest.mark.slow
def test_a_terminal_that_closes_while_aws_is_asked_leaves_the_command_that_stops_the_job(
    account: AwsServer,
) -> None:
    account.throttled["CreateTrainingJob"] = 100  # botocore asks again, for seconds
    flags = ["--dataset", DATASET, "--role", "jobs", "--job_name", "bins-1"]
    process = subprocess.Popen(
        [sys.executable, str(JOBS / "vit.py"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not account.requests("CreateTrainingJob"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGHUP)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 129
    assert "It may run already" in told
    assert "job_report.py stop bins-1 --region us-east-1" in told
    assert "Traceback" not in told
    assert len(account.requests("CreateTrainingJob")) == 1


def test_no_secret_leaves_with_a_job(account: AwsServer, tmp_path: Path) -> None:
    canary = "canary7Jq2"
    defaults = tmp_path / ".config" / "sagemaker" / "config.yaml"
    defaults.parent.mkdir(parents=True)
    defaults.write_text(
        "SchemaVersion: '1.0'\nSageMaker:\n  TrainingJob:\n    Environment:\n"
        f"      LEAK: {canary}\n"
    )
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {canary}\n")
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "GITHUB_TOKEN")
    planted = dict.fromkeys(names, canary)
    planted |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    # boto3 signs with it, and sends it nowhere.
    planted["AWS_SECRET_ACCESS_KEY"] = canary
    result = subprocess.run(
        [sys.executable, str(JOBS / "vit.py"), "--dataset", DATASET, "--role", "jobs"]
        + ["--spot", "--profile"],
        env={**os.environ, **planted},
        check=True,
        capture_output=True,
        text=True,
    )
    assert account.requests("CreateTrainingJob")
    assert [r for r in account.received if r.method == "PUT" and "sourcedir" in r.path]
    assert not account.requests_with(canary)
    assert canary not in result.stdout + result.stderr
    # The search does find what is there.
    assert account.requests_with(re.search(r"bins-vit-[\d-]+", result.stdout)[0])  # type: ignore[index]
