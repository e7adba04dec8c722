from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from training import checkpoints
from training.checkpoints import (
    COMPLETE,
    TimedCheckpoints,
    checkpoint_folders,
    checkpoint_to_resume,
    mark_complete,
    remove_old_checkpoints,
)


def write_checkpoint(folder: Path, is_complete: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).write_bytes(b"12345678")
    if is_complete:
        mark_complete(folder)
    return folder


def test_the_newest_complete_checkpoint_is_taken_and_newer_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint_to_resume(tmp_path, None) is None
    write_checkpoint(tmp_path / "checkpoint-9")
    newest_complete = write_checkpoint(tmp_path / "checkpoint-10")
    write_checkpoint(tmp_path / "checkpoint-11", is_complete=False)
    (tmp_path / "checkpoint-100").mkdir()
    (tmp_path / "checkpoint-notes").mkdir()
    (write_checkpoint(tmp_path / "checkpoint-12") / "optimizer.pt").unlink()
    cut = write_checkpoint(tmp_path / "checkpoint-13") / "model.safetensors"
    cut.write_bytes(b"1234567")
    (write_checkpoint(tmp_path / "checkpoint-14") / COMPLETE).write_text('{"model.saf')
    assert checkpoint_to_resume(tmp_path, None) == str(newest_complete)
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/checkpoint-{step} is passed over ({lack})."
        for step, lack in (
            (100, "it was not written to its end: no complete.json"),
            (14, "complete.json is damaged"),
            (13, "model.safetensors is damaged: 7 bytes of 8"),
            (12, "optimizer.pt is missing"),
            (11, "it was not written to its end: no complete.json"),
        )
    ]


@pytest.mark.parametrize("asked_for", ["nowhere", "checkpoint-1"])
def test_a_checkpoint_that_is_none_is_refused(asked_for: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint-1", is_complete=False)
    with pytest.raises(ValueError, match=r"not a complete checkpoint \(it was not written"):
        checkpoint_to_resume(tmp_path, str(tmp_path / asked_for))


@pytest.mark.parametrize(
    ("best_step", "kept"), [(None, [9, 8]), (9, [9, 8]), (8, [9, 8]), (3, [9, 8, 3])]
)
def test_the_newest_complete_checkpoints_are_kept_and_the_best(
    best_step: int | None, kept: list[int], tmp_path: Path
) -> None:
    for step in (2, 3, 8, 9):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    # Newer, and half written by a run that then went on from an older one.
    write_checkpoint(tmp_path / "checkpoint-10", is_complete=False)
    remove_old_checkpoints(tmp_path, 2, best_step)
    assert checkpoint_folders(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in kept]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_checkpoint_is_due_when_none_was_written_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(checkpoints, "time", clock)
    callback = TimedCheckpoints(minutes=10)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)

    def is_due(now: float, epoch: float = 0.5) -> bool:
        clock.now, control = now, TrainerControl()
        callback.on_step_end(arguments, TrainerState(epoch=epoch), control)
        return control.should_save

    callback.on_train_begin(arguments, TrainerState(), TrainerControl())
    assert not is_due(599)
    assert is_due(600)
    # Evaluation comes first, and the checkpoint of the epoch after it.
    assert not is_due(600, epoch=1.0)
    clock.now = 601
    callback.on_save(arguments, TrainerState(), TrainerControl())
    assert not is_due(1200)
    assert is_due(1201)
