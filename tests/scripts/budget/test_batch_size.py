import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import ViTForImageClassification

import train
from budget.batch_size import (
    BatchTooLargeError,
    halve_batch,
    keep_recorded_batch,
    shares_of_batch,
)
from training.checkpoints import checkpoint_folders


def test_a_batch_is_shared_by_devices_and_times() -> None:
    assert shares_of_batch(256, num_devices=4, most_at_once=64) == (64, 1)
    assert shares_of_batch(256, num_devices=1, most_at_once=64) == (64, 4)
    assert shares_of_batch(256, num_devices=2, most_at_once=50) == (32, 4)
    assert shares_of_batch(96, num_devices=1, most_at_once=50) == (48, 2)
    assert shares_of_batch(8, num_devices=4, most_at_once=64) == (2, 1)


def batch(at_once: int, times: int) -> Any:
    return SimpleNamespace(per_device_train_batch_size=at_once, gradient_accumulation_steps=times)


@pytest.mark.parametrize(
    ("before", "after"),
    [((64, 1), (32, 2)), ((32, 2), (16, 4)), ((7, 2), (2, 7)), ((5, 1), (1, 5)), ((3, 4), (1, 12))],
)
def test_half_a_batch_at_once_is_as_many_photos_a_step(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    arguments = batch(*before)
    halved = halve_batch(arguments)
    assert arguments == batch(*after)
    assert tuple(halved.values()) == after


def test_one_photo_at_once_is_the_end() -> None:
    with pytest.raises(BatchTooLargeError, match="one photo at once"):
        halve_batch(batch(1, 64))


def test_a_run_keeps_its_batch_where_a_step_has_as_many_photos_as_asked() -> None:
    recorded = {**vars(batch(16, 4)), "do_train": True}
    for asked, kept in (((64, 1), (16, 4)), ((32, 1), (32, 1))):
        arguments = batch(*asked)
        keep_recorded_batch(arguments, recorded)
        assert arguments == batch(*kept)
    arguments = batch(64, 1)
    keep_recorded_batch(arguments, None)
    keep_recorded_batch(arguments, recorded | {"do_train": False})
    assert arguments == batch(64, 1)


# ---- Whole trainings, on a device whose memory ends where a test says

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB."  # as torch says it


@pytest.fixture
def limit_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what makes memory end: a rule of a batch's photos and the number of batches so far.

    Batches are those that are trained on, or else those that are evaluated.
    """
    forward = ViTForImageClassification.forward

    def limit(is_too_much: Callable[[int, int], bool], in_training: bool = True) -> None:
        num_batches = 0

        def limited(self: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
            nonlocal num_batches
            num_batches += self.training == in_training
            if self.training == in_training and is_too_much(len(pixel_values), num_batches):
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
            return forward(self, pixel_values, **kwargs)

        monkeypatch.setattr(ViTForImageClassification, "forward", limited)

    return limit


@pytest.fixture
def argv(dataset_dir: Path, config_dir: Path) -> list[str]:
    return [
        *("--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"),
        *("--num_train_epochs", "2", "--disable_tqdm", "true", "--bf16", "false"),
    ]


def weights(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_dir / "model").glob("*.safetensors")}


def tried(capsys: pytest.CaptureFixture[str]) -> list[tuple[int, int]]:
    """Return the batches that were tried: photos at once, times."""
    return [
        (int(line.split("=")[1].split()[0]), int(line.split("=")[2]))
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("batch ")
    ]


def test_a_batch_that_was_found_gives_the_weights_of_one_that_was_given_and_is_kept(
    argv: list[str],
    limit_memory: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "4"]
    train.main([*argv, *given, "--output_dir", str(tmp_path / "given")])
    assert tried(capsys) == []
    # The second batch of a step, too: others are in memory then.
    limit_memory(lambda photos, number: photos > 40 or (photos > 20 and number >= 3))
    argv += ["--auto_find_batch_size", "--output_dir", str(tmp_path / "found")]
    argv += ["--save_total_limit", "9", "--diagnostics"]
    train.main(argv)
    assert tried(capsys) == [(64, 1), (32, 2), (16, 4)]
    record = json.loads((tmp_path / "found" / "arguments.json").read_text())
    assert record["per_device_train_batch_size"] == 16
    assert record["gradient_accumulation_steps"] == 4
    found = weights(tmp_path / "found")
    assert found == weights(tmp_path / "given")
    assert len(found) == 3
    # It goes on with that batch, without looking for another.
    shutil.rmtree(tmp_path / "found" / "model")
    shutil.rmtree(checkpoint_folders(tmp_path / "found")[0])
    train.main(argv)
    assert tried(capsys) == [(16, 4)]
    assert weights(tmp_path / "found") == found


def fails(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        train.main(argv)
    assert exit_info.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_memory_that_runs_out_is_one_line_and_the_same_folder_takes_the_flag(
    argv: list[str],
    limit_memory: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit_memory(lambda photos, number: photos > 40)
    argv += ["--output_dir", str(tmp_path)]
    line = fails(argv, capsys)
    assert line.startswith("train.py: error: step 1: memory does not hold a training on 64 photos")
    assert "--auto_find_batch_size" in line
    train.main([*argv, "--auto_find_batch_size"])
    assert tried(capsys) == [(64, 1), (32, 2)]


def test_a_batch_is_not_halved_once_a_training_is_on_its_way(
    argv: list[str],
    limit_memory: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit_memory(lambda photos, number: number > 12)
    argv += ["--output_dir", str(tmp_path), "--auto_find_batch_size"]
    line = fails([*argv, "--per_device_train_batch_size", "8"], capsys)
    assert "step 13: memory does not hold a training on 8 photos" in line


def test_memory_that_runs_out_in_an_evaluation_is_one_line_and_the_run_goes_on(
    argv: list[str],
    limit_memory: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = tmp_path / "checkpoint-3"  # written after the first epoch's evaluation
    limit_memory(lambda photos, number: photos > 8 and first.exists(), in_training=False)
    argv += ["--output_dir", str(tmp_path), "--do_eval", "--auto_find_batch_size"]
    line = fails(argv, capsys)
    assert "memory does not hold an evaluation at --per_device_eval_batch_size 64: give" in line
    train.main([*argv, "--per_device_eval_batch_size", "4"])
    assert f"Going on from {first}." in capsys.readouterr().out
    assert weights(tmp_path)
    # The first batches are those by which a model is tried as it is loaded.
    limit_memory(lambda photos, number: number > 5, in_training=False)
    line = fails([*argv, "--per_device_eval_batch_size", "1"], capsys)
    assert "memory does not even hold an evaluation of one photo" in line


def test_memory_that_does_not_hold_one_photo_is_one_line(
    argv: list[str],
    limit_memory: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit_memory(lambda photos, number: True)
    argv += ["--output_dir", str(tmp_path), "--auto_find_batch_size"]
    assert "one photo at once" in fails([*argv, "--per_device_train_batch_size", "2"], capsys)


def test_several_processes_are_told_that_one_finds_the_batch() -> None:
    arguments: Any = SimpleNamespace(n_gpu=1, auto_find_batch_size=True, world_size=4)
    with pytest.raises(ValueError, match="for one process, of which there are 4"):
        train.check_machine(train.ModelArguments(config_name="vit_demo"), arguments)
