"""How many photos a device takes at once: as flags say, or as many as its memory holds."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache

BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
# By then memory holds what optimizer, average and compiled forms keep, and little is lost.
FIRST_STEPS = 10


class BatchTooLargeError(Exception):
    """Memory does not hold what a training or an evaluation has to take at once."""


def evaluation_too_large(at_once: int) -> BatchTooLargeError:
    """Return the error of an evaluation of so many photos at once, which says what to do."""
    if at_once == 1:
        return BatchTooLargeError(
            "memory does not even hold an evaluation of one photo at once: take a smaller model or "
            "smaller photos."
        )
    return BatchTooLargeError(
        f"memory does not hold an evaluation at --per_device_eval_batch_size {at_once}: give a "
        "smaller one; the same command with it goes on from the last checkpoint, if there is one."
    )


def shares_of_batch(global_batch_size: int, num_devices: int, most_at_once: int) -> tuple[int, int]:
    """Return how many photos a device takes at once, and how many times a step.

    Raises: ValueError: the devices cannot share the batch evenly.
    """
    if global_batch_size < 1 or global_batch_size % num_devices:
        raise ValueError(
            f"--global_batch_size {global_batch_size}: give a multiple of {num_devices} devices."
        )
    for_each = global_batch_size // num_devices
    times = next(
        times
        for times in range(1, for_each + 1)
        if for_each % times == 0 and for_each // times <= max(1, most_at_once)
    )
    return for_each // times, times


def keep_recorded_batch(arguments: Any, recorded: Mapping[str, Any] | None) -> None:
    """Have a run take as many photos at once as it did before, where a step has as many as asked.

    Args:
        arguments: of the training.
        recorded: those in the run's folder; None where it is new.
    """
    if recorded and recorded["do_train"]:
        batch = {name: recorded[name] for name in BATCH}
        if math.prod(batch.values()) == math.prod(getattr(arguments, name) for name in BATCH):
            vars(arguments).update(batch)


def halve_batch(arguments: Any) -> dict[str, int]:
    """Have a device take half as many photos at once or fewer, and a step as many as before.

    What a trainer that failed leaves is taken from memory.

    Args:
        arguments: of the training.

    Returns: the flags that this changes, with their values.

    Raises: BatchTooLargeError: it took one photo at once.
    """
    at_once, times = (getattr(arguments, name) for name in BATCH)
    if at_once == 1:
        raise BatchTooLargeError(
            "memory does not even hold a training on one photo at once: add "
            "--gradient_checkpointing, or take a smaller model or smaller photos."
        )
    shares = shares_of_batch(at_once * times, num_devices=1, most_at_once=at_once // 2)
    batch = dict(zip(BATCH, shares, strict=True))
    vars(arguments).update(batch)
    clear_device_cache(garbage_collection=True)
    # On a CPU autograd keeps what a pass that failed left in its queue until the next one (torch
    # 2.13): 280 MB of a test.
    torch.zeros((), requires_grad=True).backward()
    return batch
