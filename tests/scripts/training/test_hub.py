"""A job that pushes by itself: its token comes from AWS Secrets Manager and goes nowhere else."""

import pickle
import subprocess
from pathlib import Path

import pytest

from paths import ROOT
from publishing.model_card import TAG
from stand_ins.aws_server import ACCOUNT, AwsServer
from stand_ins.hub_server import HUB_TOKEN, HubServer
from training.command_line import make_parser, parse_arguments, resolved_arguments
from training.hub import HUB_TAG, read_hub_token

TRAIN = str(ROOT / "scripts" / "train.py")
ARN = f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:hub-token-AbCdEf"
PUSH_FLAGS = ["--push_to_hub", "--hub_model_id", "ann/bins"]


def make_secret(aws: AwsServer, text: str) -> str:
    client = aws.client("secretsmanager")
    arn = client.create_secret(Name="hub-token", SecretString=text)["ARN"]
    aws.received.clear()
    return arn


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        parse_arguments(make_parser(""), [*argv, "--config_name", "vit_demo", "--dry_run"])
    return capsys.readouterr().err


def test_the_secret_is_the_token_alone(aws: AwsServer) -> None:
    assert read_hub_token(make_secret(aws, f"{HUB_TOKEN}\n")) == HUB_TOKEN
    aws.reset()
    arn = make_secret(aws, f'{{"HF_TOKEN": "{HUB_TOKEN}"}}')
    with pytest.raises(ValueError, match="has to be the token alone") as raised:
        read_hub_token(arn)
    assert HUB_TOKEN not in str(raised.value)


def test_a_secret_that_is_not_to_be_had_is_named(aws: AwsServer) -> None:
    with pytest.raises(ValueError, match=r"AWS does not give it \(ResourceNotFoundException\)"):
        read_hub_token(ARN)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--push_to_hub"], "give --hub_model_id USER/NAME"),
        (["--hub_token_secret", ARN], "is for --push_to_hub"),
        ([*PUSH_FLAGS, "--hub_token_secret", "hub-token"], "give the ARN of a secret"),
    ],
)
def test_flags_that_cannot_push_are_refused(
    flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in error_of(flags, capsys)


def test_neither_token_nor_secret_is_recorded_or_pickled() -> None:
    flags = ["--config_name", "vit_demo", "--dry_run", *PUSH_FLAGS, "--hub_token_secret", ARN]
    parsed = parse_arguments(make_parser(""), [*flags, "--hub_token", HUB_TOKEN])
    training = parsed[2]
    assert training.hub_private_repo is True
    assert training.hub_token == HUB_TOKEN
    pickled = pickle.dumps(training)
    for text in (HUB_TOKEN, ARN):
        assert text not in str(resolved_arguments(*parsed))
        assert text.encode() not in pickled
    copy = pickle.loads(pickled)
    assert copy.hub_token is None
    assert copy.hub_model_id == "ann/bins"


def test_a_repository_of_a_job_may_get_a_checked_push_later() -> None:
    assert HUB_TAG == TAG


def run_job(
    hub: HubServer, folder: Path, dataset_dir: Path, config_dir: Path, arn: str, *more: str
) -> subprocess.CompletedProcess[str]:
    """Train as SageMaker's toolkit starts train.py."""
    environment = hub.environment(None) | {
        "SM_MODEL_DIR": str(folder / "model"),
        "SM_OUTPUT_DATA_DIR": str(folder / "output" / "data"),
        "SM_CHANNEL_DATASET": str(dataset_dir),
    }
    flags = ["--config_name", str(config_dir), "--do_train", "--do_predict", "--max_steps", "2"]
    flags += ["--push_to_hub", "true", "--hub_model_id", "ann/bins", "--hub_token_secret", arn]
    return hub.run(TRAIN, *flags, *more, environment=environment)


@pytest.mark.slow
def test_a_job_pushes_its_model_and_its_token_is_nowhere(
    hub: HubServer, aws: AwsServer, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    arn = make_secret(aws, HUB_TOKEN)
    strategy = ("--hub_strategy", "end")
    result = run_job(hub, tmp_path / "job", dataset_dir, config_dir, arn, *strategy)
    assert result.returncode == 0, result.stderr
    assert "Not tried" not in result.stderr
    repository = hub.model("ann/bins")
    assert repository.is_private
    weights = (tmp_path / "job" / "model" / "model.safetensors").read_bytes()
    assert repository.files["model.safetensors"] == weights
    assert {"README.md", "config.json", "preprocessor_config.json"} <= repository.files.keys()
    assert b"bin-counting" in repository.files["README.md"]

    written = [path for path in (tmp_path / "job").rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in written)
    held = {str(path): path.read_bytes() for path in written}
    held |= {f"commit {commit.sha}": str(commit.files).encode() for commit in repository.commits}
    held |= repository.files
    assert not [name for name, content in held.items() if HUB_TOKEN.encode() in content]
    assert not [name for name, content in held.items() if arn.encode() in content]
    assert HUB_TOKEN not in result.stdout + result.stderr
    assert not hub.requests_with(HUB_TOKEN)
    assert not aws.requests_with(HUB_TOKEN)


@pytest.mark.slow
def test_a_job_says_in_one_line_why_it_cannot_push(
    hub: HubServer, aws: AwsServer, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    for arn, complaint in (
        (ARN, "--hub_token_secret: AWS does not give it"),
        (make_secret(aws, "hf_wrong"), "Invalid credentials"),
    ):
        result = run_job(hub, tmp_path / "job", dataset_dir, config_dir, arn)
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("ValueError: ")]
        assert complaint in line
        assert "hf_wrong" not in result.stdout + result.stderr


@pytest.mark.slow
def test_a_job_whose_last_push_breaks_keeps_its_model(
    hub: HubServer, aws: AwsServer, dataset_dir: Path, config_dir: Path, tmp_path: Path
) -> None:
    hub.break_uploads_after(1)
    arn = make_secret(aws, HUB_TOKEN)
    result = run_job(hub, tmp_path / "job", dataset_dir, config_dir, arn)
    assert result.returncode == 0, result.stderr
    assert "The model was not pushed" in result.stderr
    assert (tmp_path / "job" / "model" / "model.safetensors").exists()
    assert (tmp_path / "job" / "output" / "data" / "predictions_test.parquet").exists()
