import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from paths import ROOT
from training import arguments, command_line
from training.arguments import BinTrainingArguments, DataArguments, ModelArguments
from training.command_line import make_parser
from training.command_line import parse_arguments as parse_with
from training.device import check_one_device_a_process

REQUIRED = ["--model_name_or_path", "m", "--dataset_dir", "d", "--do_train"]
NO_GPU = not torch.accelerator.is_available()


def parse(*argv: str) -> tuple[ModelArguments, DataArguments, BinTrainingArguments]:
    return parse_with(make_parser("train"), list(argv))


def error_line(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        parse(*argv)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*REQUIRED, "--learning_rte", "1"], "unrecognized arguments: --learning_rte 1"),
        ([*REQUIRED, "--learning", "1"], "--learning"),
        ([*REQUIRED, "--learning_rate", "fast"], "invalid float value: 'fast'"),
        ([*REQUIRED, "--eval_strategy", "sometimes"], "sometimes"),
        ([*REQUIRED, "--max_hours", "0"], "--max_hours 0.0: give a number above 0"),
        ([*REQUIRED, "--max_hours", "1", "--eval_strategy", "no"], "--max_hours ends a training"),
        ([*REQUIRED[:-1], "--do_eval", "--max_hours", "1"], "give --do_train with --eval_strategy"),
        ([*REQUIRED, "--early_stopping_patience", "0"], "give 1 or more"),
        (
            [*REQUIRED, "--early_stopping_patience", "1", "--eval_strategy", "no"],
            "--early_stopping_patience ends a training at an evaluation",
        ),
        ([*REQUIRED, "--max_train_samples", "0"], "--max_train_samples 0: give 1 or more"),
        ([*REQUIRED, "--config_name", "c"], "either --model_name_or_path"),
        (["--dataset_dir", "d", "--do_train"], "either --model_name_or_path"),
        (["--model_name_or_path", "m", "--do_train"], "give --dataset_dir"),
        (["--model_name_or_path", "m", "--dataset_dir", "d"], "nothing to do"),
        ([*REQUIRED, "--remove_unused_columns", "true"], "--remove_unused_columns: leave it out"),
        (["nowhere.json"], "No such file"),
        ([*REQUIRED, "--metric_for_best_model", "f1"], "--metric_for_best_model f1: give loss"),
        (
            [*REQUIRED, "--metric_for_best_model", "eval_change_loss", "--learn_changes", "false"],
            "--metric_for_best_model eval_change_loss: without --learn_changes there is none",
        ),
        ([*REQUIRED, "--loss", "hinge"], "invalid choice: 'hinge'"),
        ([*REQUIRED, "--neighbour_weight", "1.5"], "--neighbour_weight 1.5: give a share, 0 to 1"),
        ([*REQUIRED, "--checkpoint_minutes", "-1"], "--checkpoint_minutes -1.0: give 0 or more"),
        (
            [*REQUIRED, "--output_dir", "$RUNS/vit"],
            "--output_dir $RUNS/vit: nothing replaces the $",
        ),
        ([*REQUIRED, "--save_on_each_node"], "--save_on_each_node: leave it out"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(capsys, *argv)


def test_flags_may_be_written_with_dashes_and_booleans_as_words() -> None:
    _, data, training = parse(
        *REQUIRED, "--max-train-samples", "7", "--load_best_model_at_end", "False"
    )
    assert data.max_train_samples == 7
    assert training.load_best_model_at_end is False


def test_a_flag_with_an_empty_value_is_one_that_was_not_given() -> None:
    _, data, _ = parse(*REQUIRED, "--max_train_samples", "", "--seed", "3")
    assert data.max_train_samples is None


def test_a_json_file_is_checked_as_flags_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.json"
    values = {
        "model_name_or_path": "m",
        "dataset_dir": "d",
        "do_train": True,
        "learning_rate": 3e-05,
        "max_eval_samples": None,
        "report_to": ["none"],
    }
    recipe.write_text(json.dumps(values))
    model, _, training = parse(str(recipe))
    assert model.model_name_or_path == "m"
    assert training.learning_rate == 3e-05
    assert training.do_train
    assert parse(str(recipe), "--seed", "7")[2].seed == 7
    recipe.write_text(json.dumps({**values, "learning_rate": "fast"}))
    assert "invalid float value" in error_line(capsys, str(recipe))
    recipe.write_text(json.dumps({**values, "learnin_rate": 1}))
    assert "learnin_rate" in error_line(capsys, str(recipe))


@pytest.mark.skipif(not NO_GPU, reason="asks what happens without a GPU")
def test_half_precision_is_accepted_without_a_gpu() -> None:
    _, _, training = parse(*REQUIRED, "--bf16")
    assert training.bf16
    assert training.use_cpu


@pytest.mark.parametrize("has_bf16", [True, False])
def test_training_is_in_bf16_where_the_device_has_it_unless_asked_otherwise(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arguments, "device_has_bf16", lambda on_cpu: has_bf16)
    assert parse(*REQUIRED)[2].bf16 is has_bf16
    assert parse(*REQUIRED, "--bf16", "false")[2].bf16 is False


@pytest.mark.skipif(not NO_GPU, reason="asks what happens without a GPU")
def test_a_cpu_has_bf16_where_torch_says_so_too() -> None:
    able = torch.cpu.get_capabilities()
    known = any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    assert arguments.device_has_bf16(on_cpu=True) == known


def test_a_global_batch_is_shared_by_devices_and_steps() -> None:
    _, _, training = parse(*REQUIRED, "--global_batch_size", "256")
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 256
    assert training.per_device_train_batch_size == 64


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--global_batch_size", "0"], "--global_batch_size 0: give 1 or more"),
        (
            ["--global_batch_size", "64", "--gradient_accumulation_steps", "2"],
            "leave out --gradient_accumulation_steps",
        ),
        (["--trace_steps", "3-5"], "--trace_steps is for --diagnostics"),
        (["--diagnostics", "--trace_steps", "5-3"], "--trace_steps 5-3: give the first and"),
        (["--diagnostics", "--trace_steps", "five"], "--trace_steps five: give the first and"),
        (["--diagnostics", "--diagnostics_interval", "0"], "--diagnostics_interval 0"),
        (["--diagnostics", "--do_train", "false"], "--diagnostics looks at a training"),
    ],
)
def test_flags_that_cannot_be_followed_are_named(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(capsys, *REQUIRED, *flags)


def test_sagemaker_says_where_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_CHANNEL_DATASET", "/opt/ml/input/data/dataset")
    monkeypatch.setenv("SM_MODEL_DIR", "/opt/ml/model")
    model, data, training = parse("--model_name_or_path", "m", "--do_train")
    assert data.dataset_dir == "/opt/ml/input/data/dataset"
    assert model.model_dir == "/opt/ml/model"
    assert training.output_dir == "/opt/ml/checkpoints"


def test_the_model_goes_into_the_run_folder_elsewhere() -> None:
    model, _, _ = parse(*REQUIRED, "--output_dir", "runs/x")
    assert model.model_dir == "runs/x/model"


def test_predicting_alone_asks_for_no_evaluation() -> None:
    _, _, training = parse("--model_name_or_path", "m", "--dataset_dir", "d", "--do_predict")
    assert not training.do_eval
    assert not training.load_best_model_at_end


def test_checkpoints_are_written_when_they_are_evaluated() -> None:
    _, _, training = parse(*REQUIRED, "--eval_strategy", "steps", "--eval_steps", "50")
    assert training.save_strategy == "steps"


@pytest.mark.parametrize(
    ("metric", "should_grow"),
    [("loss", False), ("rmse", False), ("mae_mode", False), ("accuracy", True)]
    + [("quadratic_weighted_kappa", True), ("within_one_accuracy", True), ("change_loss", False)],
)
def test_the_best_error_is_the_smallest(metric: str, should_grow: bool) -> None:
    _, _, training = parse(*REQUIRED, "--metric_for_best_model", metric)
    assert training.greater_is_better is should_grow


def test_a_dry_run_prints_json_and_needs_no_dataset_and_leaks_no_token(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model_name_or_path", "m", "--hub_token", "hf_secret", "--learning_rate", "1e-5"]
    train.main(["--dry_run", *flags])
    printed = capsys.readouterr().out
    resolved = json.loads(printed)
    assert resolved["learning_rate"] == 1e-05
    assert resolved["model_name_or_path"] == "m"
    assert "hf_secret" not in printed


@pytest.mark.skipif(not NO_GPU, reason="asks what happens without a GPU")
def test_a_flag_for_gpus_may_be_checked_where_there_is_none() -> None:
    _, _, training = parse(*REQUIRED, "--tf32", "true", "--bf16")
    assert training.tf32 is None
    assert training.bf16


def test_a_job_writes_checkpoints_by_the_clock_where_sagemaker_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, training = parse(*REQUIRED)
    assert (training.output_dir, training.checkpoint_minutes) == ("runs/latest", 0)
    assert not training.save_on_each_node
    monkeypatch.setenv("SM_MODEL_DIR", "/opt/ml/model")
    monkeypatch.setenv("SM_HOSTS", '["algo-1", "algo-2"]')
    _, _, training = parse(*REQUIRED)
    assert (training.output_dir, training.checkpoint_minutes) == ("/opt/ml/checkpoints", 10)
    assert training.disable_tqdm
    assert not training.save_on_each_node  # what both write lies in one folder
    monkeypatch.setenv("TRAINING_JOB_NAME", "bins-7")
    _, _, training = parse(*REQUIRED)
    assert training.run_name == "bins-7"


def test_an_error_in_a_job_has_the_form_that_sagemakers_toolkit_reports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SM_MODEL_DIR", "/opt/ml/model")
    assert error_line(capsys, *REQUIRED, "--metric_for_best_model", "f1").startswith(
        "ValueError: --metric_for_best_model f1"
    )


def test_the_arguments_alone_resolve_to_what_a_dry_run_of_train_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--config_name", "vit_demo", "--learning_rate", "3e-5", "--bf16"]
    command_line.main(flags)
    alone = capsys.readouterr().out
    train.main([*flags, "--dry_run"])
    assert json.loads(alone) == json.loads(capsys.readouterr().out)


def test_a_check_of_flags_waits_for_nothing_that_only_a_training_needs() -> None:
    program = (
        "import sys, training.command_line\n"
        "print({'transformers.trainer', 'datasets', 'sklearn'} & sys.modules.keys())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "scripts",
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.strip() == "set()"


@pytest.mark.parametrize("flags", [["--use_cpu"], []], ids=["flag", "accelerate"])
def test_precision_is_that_of_the_device_that_is_used(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(arguments, "device_has_bf16", lambda on_cpu: asked.append(on_cpu))
    if not flags:
        monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # accelerate launch --cpu
    _, _, training = parse(*REQUIRED, *flags)
    assert asked == [True]
    assert (training.use_cpu, training.tf32) == (True, None)


def test_several_gpus_take_a_process_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_one_device_a_process(0)  # a CPU
    check_one_device_a_process(1)
    # What Trainer looks at before it wraps a model in DataParallel.
    monkeypatch.setattr(BinTrainingArguments, "n_gpu", 4)
    for more in ([], ["--dry_run"]):
        with pytest.raises(SystemExit) as exit_info:
            train.main([*REQUIRED, *more])
        assert exit_info.value.code == 2
        assert "`torchrun --nproc_per_node 4 scripts/train.py`" in capsys.readouterr().err
    # A launcher's machine is not the job's.
    command_line.main(REQUIRED)
