"""How much memory this process and the GPUs hold, as one log line."""

import psutil
import torch

MEBIBYTE = 2**20


def print_memory(moment: str) -> None:
    """Print what is held now and was held at most, in MiB.

    memory at=model_loaded process=812 gpu0=1280 gpu0_peak=1334
    """
    figures = {"process": psutil.Process().memory_info().rss}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        figures[f"gpu{index}"] = torch.cuda.memory_allocated(index)
        figures[f"gpu{index}_peak"] = torch.cuda.max_memory_allocated(index)
    values = " ".join(f"{name}={value // MEBIBYTE}" for name, value in figures.items())
    print(f"memory at={moment} {values}", flush=True)
