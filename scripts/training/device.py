"""Where a training runs: what its device can do, and with whom."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import distributed


def decoding_workers() -> int:
    """Return how many processes decode photos for one device.

    On a CPU decoding takes 2 % of a step. A GPU needs several cores, its share of the machine's.
    """
    if not torch.accelerator.is_available():
        return 0
    num_devices_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (os.cpu_count() or 1) // num_devices_here))


def start_decoding_worker(initialize: Callable[[int], None] | None, worker: int) -> None:
    """Begin a process that decodes photos, unless its training has gone by now.

    Where a training is stopped or killed as it takes a batch, Python would print in the worker how
    the connection broke: this one says nothing of that. Who hung up says why: only trainings
    connect to their workers, and what fails in a worker's own reading reaches its training another
    way.

    Args:
        initialize: the data loader's own beginning; None has none.
        worker: the process's number within its data loader.
    """
    if initialize is not None:
        initialize(worker)
    # torch takes whoever is the parent from here on for the training, and would wait for the end of
    # the process that orphans are given to.
    training = multiprocessing.parent_process()
    if training is not None and os.getppid() != training.pid:
        sys.exit()
    say = sys.excepthook

    def say_what_is_the_workers(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, EOFError | ConnectionError):
            say(kind, error, trace)

    sys.excepthook = say_what_is_the_workers


def trains_on_cpu(use_cpu: bool) -> bool:
    """Say whether a training is one on the CPU: there is no other device, or a flag asks for it.

    Args:
        use_cpu: Trainer's flag; `accelerate launch --cpu` asks through the environment.
    """
    of_accelerate = os.environ.get("ACCELERATE_USE_CPU", "false").lower()
    return use_cpu or of_accelerate in ("1", "true", "yes") or not torch.accelerator.is_available()


def check_one_device_a_process(num_gpus: int) -> None:
    """Check that this process trains on one GPU at most.

    On several Trainer wraps the model in DataParallel, whose replicas run without the autocast of
    --bf16 and draw the same augmentations: a training of another kind than its record says.

    Args:
        num_gpus: that Trainer would use in this process.

    Raises: ValueError: it would use several.
    """
    if num_gpus > 1:
        raise ValueError(
            f"This machine has {num_gpus} GPUs, which take a process each: start with `torchrun "
            f"--nproc_per_node {num_gpus} scripts/train.py` in place of `python scripts/train.py`, "
            "or set CUDA_VISIBLE_DEVICES=0 to use one."
        )


def device_has_bf16(on_cpu: bool) -> bool:
    """Say whether the CPU, or else the GPU, multiplies bfloat16 itself.

    Others emulate it: on such a CPU a matrix product takes some 60 times as long as in float32.
    """
    if not on_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        # avx512_bf16, amx_bf16, or ARM's bf16. torch.cpu.get_capabilities() came after the
        # container's torch.
        return "bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def first_process_says(function: Callable[[], Any]) -> Any:
    """Return in all processes what a function returns in the first one, or raise what it raises.

    What it returns or raises is pickled.
    """
    if not distributed.is_initialized():
        return function()
    answer: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            answer[0] = function()
        except Exception as error:
            answer[1] = error
    distributed.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]
