"""Checkpoints of a run: complete or not there, which one to go on from, which to keep."""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Written last: the length of every other file of the checkpoint, in bytes. What S3 returns comes in
# any order, and may have been brought there while it was written.
COMPLETE = "complete.json"
NAME = re.compile(r"checkpoint-(\d+)")
# Processes that train together have to agree, which on a GPU waits for it: not at every step.
STEPS_BETWEEN_AGREEMENTS = 10


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, complete or not, the newest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=checkpoint_step, reverse=True)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def mark_complete(checkpoint: Path) -> None:
    """Say that all files of a checkpoint are there, which from now on is one to go on from."""
    lengths = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    temporary = checkpoint / f"{COMPLETE}.part"
    temporary.write_text(json.dumps(lengths, indent=2) + "\n")
    os.replace(temporary, checkpoint / COMPLETE)


def what_lacks(checkpoint: Path) -> str | None:
    """Return why a checkpoint is none to go on from, in a few words; None where it is complete."""
    try:
        lengths = json.loads((checkpoint / COMPLETE).read_text())
    except FileNotFoundError:
        return f"it was not written to its end: no {COMPLETE}"
    except (OSError, ValueError):
        return f"{COMPLETE} is damaged"
    for name, length in lengths.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != length:
            return f"{name} is damaged: {path.stat().st_size} bytes of {length}"
    return None


def checkpoint_to_resume(output_dir: Path, asked_for: str | None) -> str | None:
    """Return the checkpoint to go on from: the one asked for, else the newest complete one.

    A newer one that is not complete is passed over, and named on standard error.

    Raises: ValueError: the one asked for is not a complete checkpoint.
    """
    if asked_for is not None:
        if lack := what_lacks(Path(asked_for)):
            raise ValueError(
                f"--resume_from_checkpoint {asked_for} is not a complete checkpoint ({lack}): name "
                "a checkpoint-N folder, or leave the flag out to take the newest."
            )
        return asked_for
    for checkpoint in checkpoint_folders(output_dir):
        lack = what_lacks(checkpoint)
        if lack is None:
            return str(checkpoint)
        print(f"{checkpoint} is passed over ({lack}).", file=sys.stderr)
    return None


def remove_old_checkpoints(output_dir: Path, num_newest: int, best_step: int | None) -> None:
    """Keep the newest complete checkpoints and the best one, remove all others.

    Args:
        num_newest: how many, apart from the best one; above 0.
        best_step: after which the best one was written; None where none is the best.
    """
    complete = [path for path in checkpoint_folders(output_dir) if what_lacks(path) is None]
    kept = complete[:num_newest]
    for checkpoint in checkpoint_folders(output_dir):
        if checkpoint not in kept and checkpoint_step(checkpoint) != best_step:
            remove_checkpoint(checkpoint)


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint, its mark first: half of one never counts."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


class TimedCheckpoints(TrainerCallback):
    """Write a checkpoint when none was written for a while.

    A spot instance goes without a word, in the middle of an epoch: no signal reaches the script
    (sagemaker-training-toolkit issue 173).

    Args:
        minutes: for how long; above 0.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.last = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.last = time.monotonic()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock again, whoever asked for the checkpoint."""
        self.last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint when it is time."""
        # After an epoch's last step Trainer evaluates, and then saves: a checkpoint from before
        # the evaluation would go on without it.
        is_due = time.monotonic() - self.last >= self.seconds and state.epoch % 1 != 0
        if args.world_size > 1:
            if state.global_step % STEPS_BETWEEN_AGREEMENTS:
                return
            # The clocks of several processes differ: the first one's counts.
            answer = torch.tensor(int(is_due), device=args.device)
            distributed.broadcast(answer, src=0)
            is_due = bool(answer)
        control.should_save = control.should_save or is_due
