"""The table of train.py's flags: it says what the full command line says, and waits for nothing."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import train
from paths import ROOT
from training import flag_table
from training.command_line import make_parser, parse_arguments
from training.flag_table import TABLE, answer_early, parser_of_table
from training.write_flag_table import as_text, table_of_parser

REQUIRED = ["--config_name", "vit_demo", "--dataset_dir", "data/bins", "--do_train"]
WRITTEN = json.loads(TABLE.read_text())
of_this_release = pytest.mark.skipif(
    version("transformers") != WRITTEN["transformers"],
    reason="the table is of another release of transformers, and answers nothing",
)


def test_the_table_is_of_the_release_that_is_pinned() -> None:
    pinned = (ROOT / "requirements.txt").read_text().split()
    assert f"transformers=={WRITTEN['transformers']}" in pinned


@of_this_release
def test_the_table_is_that_of_the_flags() -> None:
    fresh = as_text(table_of_parser(make_parser(None)))
    assert TABLE.read_text() == fresh, "cd scripts; python -m training.write_flag_table"


@of_this_release
def test_the_help_is_the_full_command_lines() -> None:
    of_table = parser_of_table(WRITTEN, train.__doc__)
    assert of_table.format_help() == make_parser(train.__doc__).format_help()


@of_this_release
@pytest.mark.parametrize(
    "flags",
    [
        ["--lerning_rate", "3e-5"],
        ["--learning_rate", "fast"],
        ["--learning_rate", "-1"],
        ["--num_train_epochs", "nan"],
        ["--bf16", "maybe"],
        ["--mixup", "perhaps"],
        ["--loss", "hinge"],
        ["--optim", "adam"],
        ["--drop_path", "1"],
        ["--fsdp", "full_shard"],
        ["--max_hours", "0"],
        ["--early_stopping_patience", "0"],
        ["--learning_rate"],
        ["--recipe", "vit_huge"],
        ["--recipe"],
        ["a_word"],
    ],
    ids=" ".join,
)
def test_a_flag_is_refused_in_the_full_command_lines_words(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for refuse in (
        lambda argv: answer_early(argv, None),
        lambda argv: parse_arguments(make_parser(None), argv),
    ):
        with pytest.raises(SystemExit) as end:
            refuse([*REQUIRED, *flags])
        assert end.value.code == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert said[0].startswith("train.py: error: ")
    assert said[0].count("\n") == 1


def test_flags_that_the_full_command_line_takes_are_not_answered(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"report_to": ["none"], "bf16": True, "seed": None}))
    for argv in (
        REQUIRED,
        [*REQUIRED, "--bf16", "--no_calibrate", "--learning-rate=1e-3", "--fsdp", ""],
        [str(recipe), *REQUIRED, "--optim", "sgd", "--lr_scheduler_kwargs", '{"num_cycles": 1}'],
        [*REQUIRED, "--debug", "underflow_overflow", "--label_names", "a", "b"],
    ):
        parse_arguments(make_parser(None), [*argv, "--dry_run"])
        answer_early(argv, None)


@of_this_release
def test_a_damaged_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text("{")
    with pytest.raises(SystemExit):
        answer_early([str(recipe)], None)
    assert f"train.py: error: {recipe} is not JSON" in capsys.readouterr().err


def test_with_another_release_of_transformers_nothing_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flag_table, "version", lambda package: "999.0")
    answer_early(["--help"], None)
    answer_early(["--lerning_rate", "3e-5"], None)


@of_this_release
@pytest.mark.parametrize("command", [["train.py"], ["-m", "training.flag_table"]], ids=str)
def test_an_answer_waits_for_no_framework(command: list[str], tmp_path: Path) -> None:
    for name in ("torch", "transformers", "datasets", "accelerate", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    for flags, code in ((["--help"], 0), (["--drop_path", "2"], 2)):
        done = subprocess.run(
            [sys.executable, *command, *flags],
            cwd=ROOT / "scripts",
            env={"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert "was imported" not in done.stderr
