import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launching.train_flags import (
    Hyperparameters,
    as_flags,
    check_for_container,
    checked_by_train,
    flags_as_hyperparameters,
    merged,
)
from training.command_line import make_parser, parse_arguments


def refusal_of(hyperparameters: Mapping[str, Any]) -> str:
    """Return why a job cannot have hyperparameters; empty where it can."""
    try:
        check_for_container(hyperparameters)
    except ValueError as error:
        return str(error)
    return ""


def test_flags_become_hyperparameters_and_flags_again() -> None:
    given = ["--learning-rate", "3e-5", "--bf16", "--fp16=false", "--run_name", "a b"]
    hyperparameters = flags_as_hyperparameters(given)
    assert hyperparameters == {
        "learning_rate": "3e-5",
        "bf16": True,
        "fp16": False,
        "run_name": "a b",
    }
    flags = as_flags(hyperparameters)
    assert flags[:6] == ["--learning_rate", "3e-5", "--bf16", "true", "--fp16", "false"]
    _, _, training = parse_arguments(make_parser(""), [*flags, "--config_name", "c", "--dry_run"])
    assert (training.learning_rate, training.bf16, training.fp16) == (3e-5, True, False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["3"], "3 belongs to no flag"),
        (["--report_to", "trackio", "tensorboard"], "takes one value a flag"),
        (["--output_dir", "x"], "--output_dir: a job finds or sets this itself"),
        (["--hub_token", "x"], "--hub_token: everybody who may see the job"),
        (["--hub_revision", "x"], "--hub_revision: everybody"),
        (["--push_to_hub"], "--push_to_hub: a job has no token; add --hub_token_secret"),
        (["--wandb_api_key", "x"], "--wandb_api_key: everybody"),
    ],
)
def test_flags_that_a_job_must_not_have_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        flags_as_hyperparameters(flags)
    assert "\n" not in str(raised.value)


def test_a_job_may_push_with_a_secret_that_is_only_named() -> None:
    arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:hub-token-AbCdEf"
    flags = ["--push_to_hub", "--hub_model_id", "ann/bins", "--hub_token_secret", arn]
    hyperparameters = flags_as_hyperparameters(flags)
    assert hyperparameters == {
        "push_to_hub": True,
        "hub_model_id": "ann/bins",
        "hub_token_secret": arn,
    }
    train_flags = ["--config_name", "vit_demo", "--dry_run", *as_flags(hyperparameters)]
    assert parse_arguments(make_parser(None), train_flags)[2].hub_token_secret == arn


def test_a_flag_takes_the_place_of_the_recipes() -> None:
    recipe: Hyperparameters = {"model_name_or_path": "m", "learning_rate": 1e-3, "bf16": True}
    assert merged(recipe, {"learning_rate": "1"}) == {**recipe, "learning_rate": "1"}
    assert merged(recipe, {"config_name": "resnet34"}) == {
        "learning_rate": 1e-3,
        "bf16": True,
        "config_name": "resnet34",
    }
    from_scratch = {"config_name": "resnet34"}
    assert merged(from_scratch, {"model_name_or_path": "m"}) == {"model_name_or_path": "m"}


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"model_name_or_path": "./runs/a/model"},
        {"model_name_or_path": "/data/model"},
        {"model_name_or_path": "runs/here"},
        {"config_name": "somewhere"},
    ],
)
def test_a_folder_of_this_machine_is_refused(
    hyperparameters: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "a job" in refusal_of(hyperparameters)


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"model_name_or_path": "google/vit-base-patch16-224-in21k"},
        {"model_name_or_path": "/opt/ml/input/data/model"},
        {"config_name": "vit_demo"},
        {},
    ],
)
def test_what_a_job_can_see_passes(hyperparameters: dict[str, str]) -> None:
    assert refusal_of(hyperparameters) == ""


# Values that train.py takes, and what is done to them on the way to it.
CHANGED_BY_A_SHELL = {
    "run_name": "my run",
    "lr_scheduler_kwargs": '{"num_cycles": 2}',
    "optim_args": "a=1;b=2",
    "report_to": "$HOME",
    "hub_model_id": "ann/bins*",
    "run_names": "",
    "metric": "a\nb",
    "model_name_or_path": "~ann",
}


@pytest.mark.parametrize(("name", "value"), CHANGED_BY_A_SHELL.items())
def test_what_the_containers_shell_would_change_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"--{name} "):
        check_for_container({name: value})


def test_what_is_not_refused_comes_through_the_shell_as_it_is(tmp_path: Path) -> None:
    safe = {
        "learning_rate": "1e-05",
        "hub_model_id": "ann/bins_2.1-a",
        "optim_args": "a=1,b=2",
        "hub_token_secret": "arn:aws:secretsmanager:us-east-1:123456789012:secret:a/b+c@d-AbCdEf",
        "run_name": "Süd%7",
        "bf16": True,
        "warmup_steps": -1,
    }
    check_for_container(safe)
    # As the container's toolkit does it, where a file may lie that a pattern would name.
    (tmp_path / "a").touch()
    command = " ".join([sys.executable, "-c", "'import sys; print(sys.argv[1:])'", *as_flags(safe)])
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == f"{as_flags(safe)}\n"


def test_train_checks_its_own_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a file that a flag names is looked for where the user is
    (tmp_path / "accelerator.json").write_text("{}")
    with (  # all processes at once
        checked_by_train({"config_name": "vit_demo", "bf16": True, "tf32": "true"}),
        checked_by_train({"config_name": "a", "accelerator_config": "accelerator.json"}),
        pytest.raises(ValueError, match="unrecognized arguments: --learning_rte 3") as raised,
        checked_by_train({"config_name": "vit_demo", "learning_rte": "3"}),
    ):
        pass
    assert "\n" not in str(raised.value)
