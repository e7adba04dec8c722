"""Where a training runs: in a SageMaker job or not, and what its device can do."""

import os
from pathlib import Path

import torch


def in_sagemaker_job() -> bool:
    """Say whether SageMaker's toolkit started this process, in a job or in a container here."""
    return "SM_MODEL_DIR" in os.environ


def decoding_workers() -> int:
    """Return how many processes decode photos for one device.

    On a CPU decoding takes 2 % of a step. A GPU needs several cores, its share of the machine's.
    """
    if not torch.accelerator.is_available():
        return 0
    num_devices_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(8, (os.cpu_count() or 1) // num_devices_here))


def device_has_bf16() -> bool:
    """Say whether the GPU, or the CPU where there is none, multiplies bfloat16 itself.

    Others emulate it: on such a CPU a matrix product takes some 60 times as long as in float32.
    """
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        # avx512_bf16, amx_bf16, or ARM's bf16. torch.cpu.get_capabilities() came after the
        # container's torch.
        return "bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


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
