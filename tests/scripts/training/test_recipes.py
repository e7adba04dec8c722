"""The recipes that ship: --recipe NAME of train.py, and what each says to expect."""

import json
import re
import shlex
from pathlib import Path

import pytest

import train
from dataset.flags import next_command
from paths import ROOT
from recipes.named_flags import RECIPES, recipe_names
from training.command_line import command_of, make_parser, parse_arguments, resolved_arguments
from training.flag_table import answer_early, as_words


def resolved(*argv: str) -> dict[str, object]:
    return resolved_arguments(*parse_arguments(make_parser(None), [*argv, "--dry_run"]))


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_a_whole_training(name: str) -> None:
    recipe = json.loads((RECIPES / f"{name}.json").read_text())
    assert recipe.keys() == {"about", "flags", "expect"}
    answer_early(["--recipe", name], None)
    found = resolved("--recipe", name)
    assert {flag: found[flag] for flag in recipe["flags"]} == recipe["flags"]
    assert found["recipe"] == name
    assert [found[flag] for flag in ("do_train", "do_eval", "do_predict")] == [True] * 3


@pytest.mark.parametrize("name", recipe_names())
def test_what_a_recipe_promises_stands_on_the_page_that_it_names(name: str) -> None:
    expect = json.loads((RECIPES / f"{name}.json").read_text())["expect"]
    page, anchor = re.findall(r"\(([\w/]+\.md)#([\w-]+)\)", expect)[0]
    sections = re.split(r"^#+ ", (ROOT / page).read_text(), flags=re.MULTILINE)
    titles = [section.partition("\n")[0].lower().replace(" ", "-") for section in sections]
    said = sections[titles.index(anchor)]
    measured = re.findall(r"\[[\d., ]+\]", expect)
    assert len(measured) == (0 if expect.startswith("Not measured here") else 2)
    assert all(interval in said for interval in measured)


def test_every_recipe_is_on_the_page_of_training() -> None:
    text = (ROOT / "docs/training.md").read_text()
    assert all(f"`{name}`" in text for name in recipe_names())


def test_what_is_given_beside_a_recipe_goes_before() -> None:
    assert resolved("--recipe", "vit_tiny")["learning_rate"] == 1e-3
    found = resolved("--learning_rate", "2e-3", "--do-predict", "false", "--recipe=vit_tiny")
    assert found["learning_rate"] == 2e-3
    assert found["do_predict"] is False
    assert found["num_train_epochs"] == 8


def test_flags_of_a_file_go_before_a_recipe_and_may_name_it(tmp_path: Path) -> None:
    path = tmp_path / "flags.json"
    path.write_text('{"recipe": "resnet34", "num_train_epochs": 3, "mixup": null}')
    found = resolved(str(path), "--seed", "7")
    assert (found["num_train_epochs"], found["mixup"], found["seed"]) == (3, False, 7)


def test_a_recipe_is_a_file_of_flags_too() -> None:
    assert resolved(str(RECIPES / "vit.json"))["learning_rate"] == 3e-4


@pytest.mark.parametrize("flag", ["--config_name", "--config-name"])
def test_another_model_takes_the_place_of_the_recipes(flag: str) -> None:
    found = resolved("--recipe", "vit_tiny", flag, "resnet34")
    assert (found["model_name_or_path"], found["config_name"]) == (None, "resnet34")
    found = resolved("--recipe", "demo", "--model_name_or_path", "m")
    assert (found["model_name_or_path"], found["config_name"]) == ("m", None)


@pytest.mark.parametrize("size", [64, 112, 224])
@pytest.mark.parametrize(
    "splits",
    [["train", "validation", "test"], ["train", "test"], ["train"], ["validation", "test"]],
    ids=" ".join,
)
def test_data_prep_names_a_training_that_fits_its_splits(size: int, splits: list[str]) -> None:
    command = next_command("data/bins", size, splits)
    _, _, training = parse_arguments(make_parser(None), shlex.split(command)[2:])
    assert training.needed_splits == splits
    assert training.load_best_model_at_end == ({"train", "validation"} <= {*splits})


def test_a_run_by_a_recipe_is_that_of_its_flags(
    dataset_dir: Path, config_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir)]
    common += ["--output_dir", str(tmp_path / "run"), "--num_train_epochs", "1"]
    common += ["--max_train_samples", "32", "--max_eval_samples", "16"]
    train.main([*common, "--recipe", "demo"])
    first = json.loads((tmp_path / "run/arguments.json").read_text())
    assert first["per_device_train_batch_size"] == 32
    assert first["command"] == shlex.join(
        ["python", "scripts/train.py", *common, "--recipe", "demo"]
    )
    recipe = json.loads((RECIPES / "demo.json").read_text())["flags"]
    written_out = as_words({**recipe, "num_train_epochs": 1})
    train.main([*written_out, *common])
    assert "Going on from" in capsys.readouterr().out
    again = json.loads((tmp_path / "run/arguments.json").read_text())
    assert {name for name in first if again[name] != first[name]} <= {"recipe", "command"}


def test_an_unknown_recipe_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        resolved("--recipe", "vit_huge")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"train.py: error: --recipe vit_huge: give {', '.join(recipe_names())}."


def test_the_command_that_is_recorded_holds_no_secret() -> None:
    given = ["--recipe", "vit", "--hub_token", "hf_x", "--seed", "7", "--hub-token=hf_y"]
    given += ["--hub_token_secret", "arn:x", "--run_name", "a b"]
    assert command_of(given) == "python scripts/train.py --recipe vit --seed 7 --run_name 'a b'"
