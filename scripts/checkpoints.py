"""Checkpoints of a run: complete or not there, which one to go on from, which to keep."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

# Written last: the length of every other file of the checkpoint, in bytes. What S3 returns comes in
# any order, and may have been brought there while it was written.
COMPLETE = "complete.json"
NAME = re.compile(r"checkpoint-(\d+)")


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
