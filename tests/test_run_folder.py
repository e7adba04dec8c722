import json
from pathlib import Path

import pytest

from run_folder import check_run_folder, last_checkpoint, send_home, write_record

IDENTITY = {"dataset_fingerprint": "abc", "model": "vit", "max_train_samples": None}


def test_a_new_folder_and_the_same_run_may_go_on(tmp_path: Path) -> None:
    check_run_folder(tmp_path / "new", IDENTITY, tmp_path / "new" / "model")
    write_record(tmp_path, {**IDENTITY, "num_train_epochs": 2})
    check_run_folder(tmp_path, IDENTITY, tmp_path / "model")


def test_a_runs_own_model_may_be_evaluated_in_its_folder(tmp_path: Path) -> None:
    write_record(tmp_path, IDENTITY)
    own_model = {**IDENTITY, "model": str(tmp_path / "model")}
    check_run_folder(tmp_path, own_model, tmp_path / "model")


@pytest.mark.parametrize(
    "change", [{"dataset_fingerprint": "xyz"}, {"model": "resnet"}, {"max_train_samples": 5}]
)
def test_another_run_is_refused(change: dict, tmp_path: Path) -> None:
    write_record(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match=f"holds another run.*{next(iter(change))}"):
        check_run_folder(tmp_path, {**IDENTITY, **change}, tmp_path / "model")


def test_checkpoints_of_an_unknown_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    with pytest.raises(ValueError, match="unknown run"):
        check_run_folder(tmp_path, IDENTITY, tmp_path / "model")


def test_the_newest_complete_checkpoint_is_taken(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_results_are_sent_where_sagemaker_collects_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path / "run", IDENTITY)
    monkeypatch.setenv("SM_OUTPUT_DATA_DIR", str(tmp_path / "output" / "data"))
    send_home(tmp_path / "run")
    assert json.loads((tmp_path / "output" / "data" / "arguments.json").read_text()) == IDENTITY
