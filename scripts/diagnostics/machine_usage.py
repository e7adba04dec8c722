"""How busy the machine is: processor, memory, disk, GPU."""

import time
from pathlib import Path

import psutil
import torch

MEBIBYTE = 2**20


class MachineUsage:
    """Samples what is used; rates are means since the sample before.

    Args:
        folder: the disk that it lies on is the one whose room counts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = psutil.Process()
        self._last_time, self._last_bytes = time.monotonic(), _bytes_moved()
        psutil.cpu_percent()  # the first answer means nothing

    def sample(self) -> dict[str, float]:
        """Return percent of all cores, MiB of memory and disk, and of the GPU what it tells.

        process_mib counts workers too; disk_mib_s is read and written together, of all disks.
        """
        now, moved = time.monotonic(), _bytes_moved()
        seconds = max(now - self._last_time, 1e-6)
        figures = {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": psutil.virtual_memory().percent,
            "process_mib": _resident_bytes(self.process) / MEBIBYTE,
            "disk_mib_s": (moved - self._last_bytes) / seconds / MEBIBYTE,
            "disk_free_mib": psutil.disk_usage(str(self.folder)).free / MEBIBYTE,
        }
        self._last_time, self._last_bytes = now, moved
        return figures | gpu_usage()


def gpu_usage() -> dict[str, float]:
    """Return utilisation and memory of this process's GPU; nothing without one.

    The utilisation is NVML's, where the package nvidia-ml-py is installed.
    """
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    figures = {
        "gpu_memory_percent": 100 * (total - free) / total,
        "gpu_peak_mib": torch.cuda.max_memory_allocated() / MEBIBYTE,
    }
    try:
        figures["gpu_percent"] = float(torch.cuda.utilization())
    except (
        Exception
    ):  # no NVML, or it does not answer; its errors have no class that is always there
        return figures
    return figures


def _resident_bytes(process: psutil.Process) -> int:
    total = process.memory_info().rss
    for worker in process.children(recursive=True):
        try:
            total += worker.memory_info().rss
        except psutil.NoSuchProcess:  # it has just ended
            continue
    return total


def _bytes_moved() -> int:
    counters = psutil.disk_io_counters()  # None where the system does not tell
    return counters.read_bytes + counters.write_bytes if counters else 0


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
