import json
import os
import resource
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from training import checkpoints
from training.checkpoints import (
    COMPLETE,
    TimedCheckpoints,
    checkpoint_folders,
    checkpoint_to_resume,
    forget_newer_checkpoints,
    mark_complete,
    plain_write_errors,
    remove_old_checkpoints,
    whole_checkpoint,
)


def write_checkpoint(folder: Path, is_complete: bool = True, best_step: int | None = None) -> Path:
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt"):
        (folder / name).write_bytes(b"12345678")
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best_step}))
    if is_complete:
        mark_complete(folder)
    return folder


def test_the_newest_complete_checkpoint_is_taken_and_newer_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint_to_resume(tmp_path, None, True) is None
    write_checkpoint(tmp_path / "checkpoint-9")
    newest_complete = write_checkpoint(tmp_path / "checkpoint-10")
    write_checkpoint(tmp_path / "checkpoint-11", is_complete=False)
    (tmp_path / "checkpoint-100").mkdir()
    (tmp_path / "checkpoint-notes").mkdir()
    (write_checkpoint(tmp_path / "checkpoint-12") / "optimizer.pt").unlink()
    cut = write_checkpoint(tmp_path / "checkpoint-13") / "model.safetensors"
    cut.write_bytes(b"1234567")
    (write_checkpoint(tmp_path / "checkpoint-14") / COMPLETE).write_text('{"model.saf')
    zeros = write_checkpoint(tmp_path / "checkpoint-15") / "model.safetensors"
    zeros.write_bytes(b"1234\0\0\0\0")
    assert checkpoint_to_resume(tmp_path, None, True) == str(newest_complete)
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/checkpoint-{step} is passed over ({lack})."
        for step, lack in (
            (100, "it was not written to its end: no complete.json"),
            (15, "model.safetensors is damaged: it does not match its checksum"),
            (14, "complete.json is damaged"),
            (13, "model.safetensors is damaged: 7 bytes of 8"),
            (12, "optimizer.pt is missing"),
            (11, "it was not written to its end: no complete.json"),
        )
    ]


def test_a_checkpoint_of_an_earlier_version_counts_by_its_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its complete.json has no checksums."""
    older = write_checkpoint(tmp_path / "checkpoint-3", is_complete=False)
    cut = write_checkpoint(tmp_path / "checkpoint-4", is_complete=False, best_step=3)
    for checkpoint in (older, cut):
        lengths = {path.name: path.stat().st_size for path in checkpoint.iterdir()}
        (checkpoint / COMPLETE).write_text(json.dumps(lengths))
    assert checkpoint_to_resume(tmp_path, None, True) == str(cut)
    forget_newer_checkpoints(tmp_path, str(cut))
    write_checkpoint(tmp_path / "checkpoint-5", best_step=3)
    remove_old_checkpoints(tmp_path, 2)
    assert checkpoint_folders(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in (5, 4, 3)]
    (tmp_path / "checkpoint-5" / COMPLETE).unlink()
    (cut / "optimizer.pt").write_bytes(b"1234567")
    assert checkpoint_to_resume(tmp_path, None, True) == str(older)
    assert "(optimizer.pt is damaged: 7 bytes of 8)" in capsys.readouterr().err


@pytest.mark.parametrize("asked_for", ["nowhere", "checkpoint-1"])
def test_a_checkpoint_that_is_none_is_refused(asked_for: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint-1", is_complete=False)
    with pytest.raises(ValueError, match=r"not a complete checkpoint \(it was not written"):
        checkpoint_to_resume(tmp_path, str(tmp_path / asked_for), True)


def test_a_checkpoint_without_the_best_one_before_it_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "checkpoint-2", best_step=2)
    best = write_checkpoint(tmp_path / "checkpoint-3", best_step=3)
    newest = write_checkpoint(tmp_path / "checkpoint-4", best_step=3)
    assert checkpoint_to_resume(tmp_path, None, True) == str(newest)
    (best / "model.safetensors").write_bytes(b"1234\0\0\0\0")
    assert checkpoint_to_resume(tmp_path, None, True) == str(tmp_path / "checkpoint-2")
    assert capsys.readouterr().err.splitlines() == [
        f"{newest} is passed over (the best one before it is checkpoint-3: model.safetensors is "
        "damaged: it does not match its checksum).",
        f"{best} is passed over (model.safetensors is damaged: it does not match its checksum).",
    ]
    with pytest.raises(ValueError, match="the best one before it is checkpoint-3"):
        checkpoint_to_resume(tmp_path, str(newest), True)
    assert checkpoint_to_resume(tmp_path, None, False) == str(newest)


def test_what_is_newer_than_the_checkpoint_that_a_run_goes_on_from_does_not_count_again(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    forget_newer_checkpoints(tmp_path, str(tmp_path / "checkpoint-2"))
    assert checkpoint_to_resume(tmp_path, None, True) == str(tmp_path / "checkpoint-2")
    remove_old_checkpoints(tmp_path, 2)
    assert checkpoint_folders(tmp_path) == [tmp_path / "checkpoint-2", tmp_path / "checkpoint-1"]
    forget_newer_checkpoints(tmp_path, None)
    assert checkpoint_to_resume(tmp_path, None, True) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_checkpoint_that_cannot_be_written_leaves_nothing_that_takes_space(
    error: BaseException, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint-7"

    def write_half() -> None:
        with whole_checkpoint(checkpoint):
            write_checkpoint(checkpoint, is_complete=False)
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert not checkpoint.exists()
    with whole_checkpoint(checkpoint):
        write_checkpoint(checkpoint, is_complete=False)
    assert checkpoint_to_resume(tmp_path, None, True) == str(checkpoint)


def test_what_the_libraries_say_of_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    weights = {"weight": torch.zeros(100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        for save in (torch.save, save_file):
            message = f"{tmp_path} cannot be written"
            with pytest.raises(OSError, match=message), plain_write_errors(tmp_path):
                save(weights, tmp_path / "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(RuntimeError, match="another"), plain_write_errors(tmp_path):
        raise RuntimeError("another")


def test_the_files_of_a_checkpoint_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        checkpoint = write_checkpoint(tmp_path / "checkpoint-7", is_complete=False)
        (checkpoint / "model.safetensors").chmod(0o600)  # as safetensors leaves it
        mark_complete(checkpoint)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in checkpoint.iterdir()} == {0o640}


@pytest.mark.parametrize(
    ("best_steps", "kept"),
    [
        ({2: None, 3: None, 8: None, 9: None}, [9, 8]),
        ({2: 2, 3: 3, 8: 8, 9: 9}, [9, 8]),
        ({2: 2, 3: 3, 8: 3, 9: 3}, [9, 8, 3]),
        # The newest is the best; should it be damaged, the one before has its own.
        ({2: 2, 3: 2, 8: 2, 9: 9}, [9, 8, 2]),
    ],
)
def test_the_newest_complete_checkpoints_are_kept_and_the_best_as_of_each(
    best_steps: dict[int, int | None], kept: list[int], tmp_path: Path
) -> None:
    for step, best_step in best_steps.items():
        write_checkpoint(tmp_path / f"checkpoint-{step}", best_step=best_step)
    # Newer, and half written by a run that then went on from an older one.
    write_checkpoint(tmp_path / "checkpoint-10", is_complete=False)
    remove_old_checkpoints(tmp_path, 2)
    assert checkpoint_folders(tmp_path) == [tmp_path / f"checkpoint-{step}" for step in kept]
    assert checkpoint_to_resume(tmp_path, None, True) == str(tmp_path / "checkpoint-9")
    (tmp_path / "checkpoint-9" / "optimizer.pt").unlink()
    assert checkpoint_to_resume(tmp_path, None, True) == str(tmp_path / "checkpoint-8")


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

    def is_due(now: float, epoch: float = 0.5, step: int = 1) -> bool:
        clock.now, control = now, TrainerControl()
        state = TrainerState(epoch=epoch, global_step=step, max_steps=10)
        callback.on_step_end(arguments, state, control)
        return control.should_save

    callback.on_train_begin(arguments, TrainerState(), TrainerControl())
    assert not is_due(599)
    assert is_due(600)
    # Evaluation comes first, and the checkpoint of the epoch, or of --max_steps, after it.
    assert not is_due(600, epoch=1.0)
    assert not is_due(600, step=10)
    clock.now = 601
    callback.on_save(arguments, TrainerState(), TrainerControl())
    assert not is_due(1200)
    assert is_due(1201)
