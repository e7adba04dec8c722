from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

import timed_checkpoints
from timed_checkpoints import TimedCheckpoints


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_checkpoint_is_due_when_none_was_written_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(timed_checkpoints, "time", clock)
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
