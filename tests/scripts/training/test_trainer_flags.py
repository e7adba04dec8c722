import dataclasses
from typing import Any

import pytest
from transformers import TrainingArguments

import train
from training import command_line
from training.arguments import BinTrainingArguments, DataArguments, ModelArguments
from training.command_line import make_parser, parse_arguments
from training.trainer_flags import (
    BOUNDS,
    DECIDE_WEIGHTS,
    MAY_CHANGE,
    REFUSED,
    REFUSED_OF_ACCELERATE,
)

REQUIRED = ["--config_name", "vit_demo", "--dataset_dir", "d", "--do_train"]


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the last line of the refusal of these flags, which ends with exit code 2."""
    with pytest.raises(SystemExit) as exit_info:
        parse_arguments(make_parser(""), [*REQUIRED, *argv])
    assert exit_info.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_number_has_its_bounds() -> None:
    bounded = {name for _, _, names in BOUNDS for name in names}
    of_trainer = TrainingArguments.__dataclass_fields__.keys()
    numbers = {
        field.name
        for arguments in (ModelArguments, DataArguments, BinTrainingArguments)
        for field in dataclasses.fields(arguments)
        if field.name not in of_trainer or field.name in DECIDE_WEIGHTS + MAY_CHANGE
        if str(field.type).removeprefix("<class '").startswith(("int", "float"))
    }
    assert len(numbers) > 30
    assert numbers - bounded == set()


@pytest.mark.parametrize("value", ["nan", "inf", "-7", "-1e-9"])
def test_no_number_takes_what_it_cannot_be(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, is_within, names in BOUNDS:
        for name in names:
            if name in BinTrainingArguments.__dataclass_fields__ and words != "a whole number":
                assert not is_within(float(value)) or value == "inf"
                assert f"--{name}" in error_of(capsys, f"--{name}={value}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr_scheduler_kwargs", '{"power": NaN}'),
        ("lr_scheduler_kwargs", '{"num_cycles": 1e999}'),
        ("lr_scheduler_kwargs", '{"deep": [{"er": -Infinity}]}'),
    ],
)
def test_no_number_within_an_object_is_none(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--lr_scheduler_type", "polynomial", f"--{name}", value]
    assert f"--{name} {value.replace('1e999', 'Infinity')}: give a finite number" in error_of(
        capsys, *flags
    )


@pytest.mark.parametrize(
    "name",
    ["num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps"]
    + ["max_train_samples", "global_batch_size", "logging_steps", "adam_epsilon"],
)
def test_nothing_is_not_enough(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--{name} 0" in error_of(capsys, f"--{name}", "0")


VALUES = {
    "eval_do_concat_batches": "false",
    "fsdp": "full_shard",
    "fsdp_config": '{"min_num_params": 1}',
    "deepspeed": "zero.json",
}


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - {"parallelism_config"}))
def test_what_breaks_a_promise_is_refused_with_its_reason(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, f"--{name}", VALUES.get(name, "true"))
    assert line == f"train.py: error: --{name}: leave it out: {REFUSED[name]}."


@pytest.mark.parametrize("variable", REFUSED_OF_ACCELERATE)
def test_what_accelerate_asks_for_behind_the_flags_is_refused_too(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for off in ("no", "False", "false"):  # as `accelerate launch` says it
        monkeypatch.setenv(variable, off)
        parse_arguments(make_parser(""), REQUIRED)
    monkeypatch.setenv(variable, "true")
    assert f"accelerate's {variable} is true: unset it" in error_of(capsys)


def test_a_run_is_in_no_other_precision_than_its_record_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert "is bf16, the flags of train.py stand for fp32" in error_of(capsys, "--bf16", "false")
    training = parse_arguments(make_parser(""), [*REQUIRED, "--bf16", "true"])[2]
    assert (training.bf16, training.mixed_precision) == (True, "bf16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # accelerate's own default
    training = parse_arguments(make_parser(""), [*REQUIRED, "--bf16", "true"])[2]
    assert (training.bf16, training.mixed_precision) == (True, "bf16")


def test_what_was_not_tried_is_named_in_one_line_and_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--neftune_noise_alpha", "5", "--optim", "adafactor", "--weight_decay", "0.1"]
    training = parse_arguments(make_parser(""), [*REQUIRED, *flags])[2]
    named = "--optim adafactor, --neftune_noise_alpha 5.0"
    assert sorted(training.untried) == sorted(named.split(", "))
    assert capsys.readouterr().err.startswith("Not tried in this project: --")
    parse_arguments(make_parser(""), [*REQUIRED, "--report_to", "none", "--optim", "sgd"])
    assert capsys.readouterr().err == ""


def test_a_flag_of_a_later_release_counts_as_one_that_was_not_tried() -> None:
    @dataclasses.dataclass
    class Later(BinTrainingArguments):
        sparkle: float = 0.5

    from training.trainer_flags import changed_flags, check_numbers, untried_flags

    later = Later(output_dir="unused", sparkle=2.0)
    changed = changed_flags(later, Later.__dataclass_fields__)
    assert "--sparkle 2.0" in untried_flags(changed)
    with pytest.raises(ValueError, match="--sparkle nan: give a number"):
        check_numbers(dataclasses.replace(later, sparkle=float("nan")))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr_scheduler_type", "warmup_stable_decay"], "num_decay_steps"),
        (["--lr_scheduler_kwargs", '{"num_cycle": 2}'], "num_cycle"),
    ],
)
def test_a_schedule_that_cannot_be_made_is_found_before_the_run(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(capsys, *flags)
    assert "--lr_scheduler_kwargs does not fit --lr_scheduler_type" in line
    assert message in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--report_to", "wandb"], "--report_to wandb: WandbCallback requires wandb"),
        (["--report_to", "wnadb"], "wnadb is not supported"),
        (["--optim", "lomo"], "lomo"),
        (["--config_name", "nowhere"], "--config_name nowhere: there is no such folder"),
    ],
)
def test_a_dry_run_finds_what_this_machine_lacks(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        train.main([*REQUIRED, *flags, "--dry_run"])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_launchers_check_asks_what_a_job_has(
    capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tracker, words in (("wandb", "add a line for it to"), ("wnadb", "give azure_ml, ")):
        with pytest.raises(SystemExit) as exit_info:
            command_line.main([*REQUIRED, "--report_to", tracker])
        assert exit_info.value.code == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    command_line.main([*REQUIRED, "--report_to", "trackio"])
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# trackers\ncomet-ml==3.49.0\nwandb==0.22.0\n")
    monkeypatch.setattr(command_line, "REQUIREMENTS", requirements)
    for tracker in ("wandb", "comet_ml"):
        command_line.main([*REQUIRED, "--report_to", tracker])
