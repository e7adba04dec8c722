import json
from pathlib import Path
from typing import Any

import pytest

from training.run_folder import (
    TRAINING_IDENTITY,
    check_run_folder,
    remove_results,
    send_home,
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
    with pytest.raises(ValueError, match=r"arguments.json cannot be read"):
        check_run_folder(tmp_path, TRAINING, tmp_path / "model")


def test_results_of_an_earlier_state_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("all_results.json", "predictions_test.parquet", "arguments.json"):
        (tmp_path / name).write_text("{}")
    remove_results(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["arguments.json"]


def test_results_are_sent_where_sagemaker_collects_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record: dict[str, Any] = dict(TRAINING)
    (tmp_path / "run").mkdir()
    write_record(tmp_path / "run", record)
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path / "output" / "data"))
    send_home(tmp_path / "run")
    assert json.loads((tmp_path / "output" / "data" / "arguments.json").read_text()) == record
