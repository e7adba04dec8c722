import json
import os
from pathlib import Path
from typing import Any

import pytest

from held_run_folder import held_run_folder
from training.run_folder import (
    TRAINING_IDENTITY,
    check_run_folder,
    check_writable,
    only_run_in,
    remove_results,
    send_home,
    write_figures,
    write_record,
)

TRAINING = {**dict.fromkeys(TRAINING_IDENTITY, 1), "model": "vit", "do_train": True}
EVALUATION = {**TRAINING, "learning_rate": 5, "max_train_samples": 7, "do_train": False}


def test_a_new_folder_and_the_same_run_may_go_on(tmp_path: Path) -> None:
    check_run_folder(tmp_path / "new", TRAINING, tmp_path / "new" / "model")
    assert not (tmp_path / "new").exists()  # a check makes nothing
    write_record(tmp_path, {**TRAINING, "num_train_epochs": 2})
    check_run_folder(tmp_path, {**TRAINING, "num_train_epochs": 3}, tmp_path / "model")


def test_a_runs_own_model_may_be_evaluated_in_its_folder_and_its_record_stays(
    tmp_path: Path,
) -> None:
    write_record(tmp_path, TRAINING)
    own_model = {**EVALUATION, "model": str(tmp_path / "model")}
    check_run_folder(tmp_path, own_model, tmp_path / "model")
    write_record(tmp_path, own_model)
    assert json.loads((tmp_path / "arguments.json").read_text()) == TRAINING


def test_a_folder_of_an_evaluation_may_become_that_of_a_training(tmp_path: Path) -> None:
    write_record(tmp_path, EVALUATION)
    check_run_folder(tmp_path, TRAINING, tmp_path / "model")
    write_record(tmp_path, TRAINING)
    assert json.loads((tmp_path / "arguments.json").read_text()) == TRAINING


@pytest.mark.parametrize("name", TRAINING_IDENTITY)
def test_another_run_is_refused(name: str, tmp_path: Path) -> None:
    write_record(tmp_path, TRAINING)
    with pytest.raises(ValueError, match=f"holds another run.*{name}"):
        check_run_folder(tmp_path, {**TRAINING, name: "other"}, tmp_path / "model")


def test_a_run_of_before_a_flag_goes_on_where_it_is_off(tmp_path: Path) -> None:
    before = {name: value for name, value in TRAINING.items() if name != "learn_items"}
    write_record(tmp_path, before)
    check_run_folder(tmp_path, {**TRAINING, "learn_items": False}, tmp_path / "model")
    with pytest.raises(ValueError, match="learn_items False, now True"):
        check_run_folder(tmp_path, {**TRAINING, "learn_items": True}, tmp_path / "model")


def test_another_model_is_not_evaluated_in_the_folder_of_a_run(tmp_path: Path) -> None:
    write_record(tmp_path, TRAINING)
    with pytest.raises(ValueError, match="holds another run"):
        check_run_folder(tmp_path, {**EVALUATION, "model": "resnet"}, tmp_path / "model")


def test_checkpoints_of_an_unknown_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match="unknown run"):
        check_run_folder(tmp_path, TRAINING, tmp_path / "model")


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "arguments.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"arguments.json cannot be read \(Expecting value"):
        check_run_folder(tmp_path, TRAINING, tmp_path / "model")


def test_results_of_an_earlier_state_are_removed_and_nothing_else(tmp_path: Path) -> None:
    predictions = ("predictions_test.parquet", "predictions_validation.parquet")
    for name in ("all_results.json", *predictions, "arguments.json"):
        (tmp_path / name).write_text("{}")
    remove_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["arguments.json"]


def test_figures_of_a_split_take_the_place_of_all_that_were_there_of_it(tmp_path: Path) -> None:
    write_figures(tmp_path, "test", {"test_loss": 1.0, "test_change_loss": 2.0})
    write_figures(tmp_path, "eval", {"eval_loss": 3.0})
    write_figures(tmp_path, "test", {"test_loss": 4.0})
    written = json.loads((tmp_path / "all_results.json").read_text())
    assert written == {"test_loss": 4.0, "eval_loss": 3.0}


def test_results_are_sent_where_sagemaker_collects_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record: dict[str, Any] = dict(TRAINING)
    (tmp_path / "run").mkdir()
    write_record(tmp_path / "run", record)
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path / "output" / "data"))
    send_home(tmp_path / "run")
    assert json.loads((tmp_path / "output" / "data" / "arguments.json").read_text()) == record


def test_one_run_is_in_a_folder_until_its_process_dies_whatever_it_started_lives_on(
    tmp_path: Path,
) -> None:
    with held_run_folder(tmp_path) as other:
        said = rf"Another run is writing in {tmp_path} \(process {other.pid} on .*--output_dir"
        with pytest.raises(ValueError, match=said), only_run_in(tmp_path):
            pass
        other.kill()
        other.wait()
        with only_run_in(tmp_path):
            os.killpg(other.pid, 0)  # what it forked is there
    with only_run_in(tmp_path):  # and once more
        pass


def test_a_folder_that_cannot_be_written_to_is_named_with_its_flag(tmp_path: Path) -> None:
    check_writable(tmp_path / "deep" / "model", "--model_dir")
    assert not list((tmp_path / "deep" / "model").iterdir())
    (tmp_path / "file").write_text("")
    # For root too.
    for folder in (tmp_path / "file", Path("/proc")):
        with pytest.raises(ValueError, match=rf"--model_dir {folder} cannot be written to \(.+\)"):
            check_writable(folder, "--model_dir")


def test_figures_are_added_and_those_that_cannot_be_read_are_named_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_figures(tmp_path, "eval", {"eval_loss": 1.5})
    write_figures(tmp_path, "test", {"test_loss": 2.0})
    assert json.loads((tmp_path / "all_results.json").read_text()) == {
        "eval_loss": 1.5,
        "test_loss": 2.0,
    }
    assert json.loads((tmp_path / "eval_results.json").read_text()) == {"eval_loss": 1.5}
    assert capsys.readouterr().err == ""
    for damaged in ('{"eval_loss": 1', "[1, 2]", ""):
        (tmp_path / "all_results.json").write_text(damaged)
        write_figures(tmp_path, "test", {"test_loss": 3.0})
        assert json.loads((tmp_path / "all_results.json").read_text()) == {"test_loss": 3.0}
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{tmp_path}/all_results.json cannot be read and is written anew")
    assert not list(tmp_path.glob("*.part"))
