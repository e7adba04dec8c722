"""What the machine that a run is made on is: its system, SELinux, its GPUs."""

import platform
import shutil
import subprocess
from pathlib import Path

# 1 where the kernel refuses what SELinux's policy does not allow.
SELINUX = Path("/sys/fs/selinux/enforce")


def check_system() -> None:
    """Check that runs can be made here. Raises: ValueError: not on this system."""
    if platform.system() == "Windows":
        raise ValueError(
            "Runs need Linux or macOS: open WSL 2 (`wsl --install`), clone the project there, and "
            "switch Docker Desktop's WSL integration on."
        )


def mount_label() -> str:
    """Return the option of a mount that lets containers read it under SELinux, else nothing."""
    try:
        return "z" if SELINUX.read_text().strip() == "1" else ""
    except OSError:
        return ""


def gpus() -> list[str]:
    """Return the names of this machine's NVIDIA GPUs."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.split("\n")[:-1] if result.returncode == 0 else []
