"""Checkpoints of a run: complete or not there, which one to go on from, which to keep.

The first process writes them, for all machines: SageMaker gives the machines of a job one folder in
S3, where two would write over one another's files. It hands them out when the run goes on, too.
"""

import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from one_line_parser import reason_of
from output_files import sync, whole_file

# Written last: length in bytes and checksum of every other file of the checkpoint. What S3 returns
# comes in any order, and may have been brought there while it was written; a power cut leaves files
# of the right length without their content.
COMPLETE = "complete.json"
# 0.26 s for 350 MB on a processor that has instructions for it, which most do (AMD EPYC; blake2b:
# 0.44 s), and what sha256sum prints.
CHECKSUM = "sha256"
NAME = re.compile(r"checkpoint-(\d+)")
# Processes that train together have to agree, which on a GPU waits for it: not at every step.
STEPS_BETWEEN_AGREEMENTS = 10
SENT_AT_ONCE = 64 * 2**20  # bytes, which wait in the memory of each process


class UnfitCheckpointError(ValueError):
    """A checkpoint that a run was to go on from is not one of this training."""


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Return the checkpoints of a run, complete or not, the newest first."""
    found = [path for path in output_dir.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=checkpoint_step, reverse=True)


def checkpoint_step(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def mark_complete(checkpoint: Path) -> None:
    """Say that all files of a checkpoint are on the disk: from now on it is one to go on from."""
    contents = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            contents[str(path.relative_to(checkpoint))] = _content(path)
            with suppress(PermissionError):  # safetensors' files are the user's alone
                path.chmod(checkpoint.stat().st_mode & 0o666)
        sync(path)
    with whole_file(checkpoint / COMPLETE) as temporary:
        temporary.write_text(json.dumps(contents, indent=2) + "\n")
    sync(checkpoint.parent)


def what_lacks(checkpoint: Path) -> str | None:
    """Return why a checkpoint is none to go on from, in a few words; None where it is complete."""
    try:
        contents = json.loads((checkpoint / COMPLETE).read_text())
        # An earlier version wrote the length alone.
        lengths = {
            name: content if isinstance(content, int) else content["bytes"]
            for name, content in contents.items()
        }
    except FileNotFoundError:
        return f"it was not written to its end: no {COMPLETE}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{COMPLETE} is damaged"
    # All lengths first, which take no time.
    for name, length in lengths.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != length:
            return f"{name} is damaged: {path.stat().st_size} bytes of {length}"
    for name, content in contents.items():
        try:
            if not isinstance(content, int) and _content(checkpoint / name) != content:
                return f"{name} is damaged: it does not match its checksum"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def _content(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, CHECKSUM).hexdigest()
    return {"bytes": path.stat().st_size, CHECKSUM: checksum}


def checkpoint_to_resume(output_dir: Path, asked_for: str | None, needs_best: bool) -> str | None:
    """Return the checkpoint to go on from: the one asked for, else the newest complete one.

    A newer one that is not complete is passed over, and named on standard error.

    Args:
        needs_best: whether the best checkpoint so far has to be there as well, since the model is
            loaded from it in the end.

    Raises: ValueError: the one asked for is not a complete checkpoint.
    """

    def lack_of(checkpoint: Path) -> str | None:
        lack = what_lacks(checkpoint)
        if lack or not needs_best:
            return lack
        step = best_step(checkpoint)
        best = output_dir / f"checkpoint-{step}"
        lack = None if step is None or best == checkpoint else what_lacks(best)
        return lack and f"the best one before it is {best.name}: {lack}"

    if asked_for is not None:
        is_named = NAME.fullmatch(Path(asked_for).name)
        if lack := lack_of(Path(asked_for)) or (None if is_named else "its name says no step"):
            raise ValueError(
                f"--resume_from_checkpoint {asked_for} is not a complete checkpoint ({lack}): name "
                "a checkpoint-N folder, or leave the flag out to take the newest."
            )
        return asked_for
    for checkpoint in checkpoint_folders(output_dir):
        lack = lack_of(checkpoint)
        if lack is None:
            return str(checkpoint)
        print(f"{checkpoint} is passed over ({lack}).", file=sys.stderr)
    return None


def forget_newer_checkpoints(output_dir: Path, resumed: str | None) -> None:
    """Take the mark off checkpoints that the run passes over as it goes on from an older one.

    Args:
        resumed: the one that it goes on from; None where it starts at the beginning.
    """
    step = checkpoint_step(Path(resumed)) if resumed else -1
    for checkpoint in checkpoint_folders(output_dir):
        if checkpoint_step(checkpoint) > step:
            (checkpoint / COMPLETE).unlink(missing_ok=True)


def remove_old_checkpoints(output_dir: Path, num_newest: int) -> None:
    """Keep the newest complete checkpoints and the best one as of each, remove all others.

    These are one more at most. A mark is enough to be complete: forget_newer_checkpoints took it
    from those that were passed over.

    Args:
        num_newest: how many; above 0.
    """
    marked = [path for path in checkpoint_folders(output_dir) if (path / COMPLETE).exists()]
    newest = marked[:num_newest]
    kept = [*newest, *(output_dir / f"checkpoint-{best_step(path)}" for path in newest)]
    for checkpoint in checkpoint_folders(output_dir):
        if checkpoint not in kept:
            remove_checkpoint(checkpoint)


def best_step(checkpoint: Path) -> int | None:
    """Return the step of the best checkpoint so far, None where none is the best."""
    return json.loads((checkpoint / TRAINER_STATE_NAME).read_text())["best_global_step"]


def remove_checkpoint(checkpoint: Path) -> None:
    """Remove a checkpoint, its mark first: half of one never counts."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


@contextmanager
def whole_checkpoint(checkpoint: Path) -> Iterator[None]:
    """Remove what is there, and what the block left of it where it failed; mark it where it ended.

    Raises: OSError: a file cannot be written.
    """
    remove_checkpoint(checkpoint)  # what a killed run left of it
    try:
        with plain_write_errors(checkpoint):
            yield
            mark_complete(checkpoint)
    except BaseException:
        remove_checkpoint(checkpoint)
        raise


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Say of a checkpoint, or a file of it, that it does not fit where the block cannot load it.

    Raises: UnfitCheckpointError: an earlier version wrote it for a model or an optimizer that
        differ, or it is damaged.
    """
    try:
        yield
    except Exception as error:  # torch and transformers raise nearly anything
        raise UnfitCheckpointError(
            f"{path} does not fit this training ({reason_of(error)}). All checkpoints are as they "
            "were: name an older one with --resume_from_checkpoint, go on with the version of this "
            "project that wrote it, or choose another --output_dir."
        ) from error


@contextmanager
def plain_write_errors(path: Path) -> Iterator[None]:
    """Raise OSError where safetensors and torch say in words of their own that a disk is full.

    Args:
        path: what is written.
    """
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        free = shutil.disk_usage(path.parent).free / 1e6
        raise OSError(
            f"{path} cannot be written ({error}; {free:,.0f} MB are free there)"
        ) from error


@contextmanager
def checkpoint_here(checkpoint: str | None, args: TrainingArguments) -> Iterator[str | None]:
    """Yield where this process can read the first process's checkpoint, until the block ends.

    On another machine that is a temporary folder: what lies on its own disk may be older.

    Args:
        checkpoint: the first process's; None where there is none.
    """
    # The processes of a machine have numbers in a row, which start with its own first one.
    first_here = args.process_index - args.local_process_index
    if checkpoint is None or not _is_true_of_any(first_here > 0, args):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        copy = Path(folder, Path(checkpoint).name)
        copies = [str(copy)] * args.world_size
        distributed.all_gather_object(copies, str(copy))
        is_written = args.local_process_index == 0 and first_here > 0
        _send(Path(checkpoint), copy if is_written else None, args)
        yield checkpoint if first_here == 0 else copies[first_here]
        distributed.barrier()


def _is_true_of_any(is_true: bool, args: TrainingArguments) -> bool:
    if args.world_size == 1:
        return is_true
    answer = torch.tensor(int(is_true), device=args.device)
    distributed.all_reduce(answer, distributed.ReduceOp.MAX)
    return bool(answer)


def _send(checkpoint: Path, copy: Path | None, args: TrainingArguments) -> None:
    """Send the first process's checkpoint to all; `copy` is where this one is to write it."""
    lengths: list[Any] = [None]
    if is_first := args.process_index == 0:
        files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
        lengths = [{str(path.relative_to(checkpoint)): path.stat().st_size for path in files}]
    distributed.broadcast_object_list(lengths, src=0, device=args.device)
    for name, length in lengths[0].items():
        with ExitStack() as opened:
            if is_first:
                read = opened.enter_context((checkpoint / name).open("rb"))
            if copy is not None:
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                written = opened.enter_context((copy / name).open("wb"))
            for start in range(0, length, SENT_AT_ONCE):
                part = torch.empty(min(SENT_AT_ONCE, length - start), dtype=torch.uint8)
                if is_first:
                    read.readinto(part.numpy())
                part = part.to(args.device)
                distributed.broadcast(part, src=0)
                if copy is not None:
                    written.write(part.cpu().numpy())


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
        # After an epoch's last step, and that of --max_steps, Trainer evaluates, and then saves: a
        # checkpoint from before the evaluation would go on without it.
        is_last = state.epoch % 1 == 0 or state.global_step >= state.max_steps
        is_due = time.monotonic() - self.last >= self.seconds and not is_last
        if args.world_size > 1:
            if state.global_step % STEPS_BETWEEN_AGREEMENTS:
                return
            # The clocks of several processes differ: the first one's counts.
            answer = torch.tensor(int(is_due), device=args.device)
            distributed.broadcast(answer, src=0)
            is_due = bool(answer)
        control.should_save = control.should_save or is_due
