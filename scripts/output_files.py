"""Outputs that are whole or not there, whenever the program is stopped."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Opened by name, one that leads to a file is emptied, and written over by what the program says.
STANDARD_STREAMS = {Path("/dev/stdout"): 1, Path("/dev/stderr"): 2}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends without error.

    It is on the disk before it gets its name, so that a power cut leaves no empty file either. Of a
    symbolic link the target is replaced; a device or a pipe is written to.

    Raises: IsADirectoryError: a folder is there.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file.")
    if _is_device(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, path.name)
            yield temporary
            standard = STANDARD_STREAMS.get(path)
            target = path if standard is None else os.dup(standard)
            with temporary.open("rb") as whole, open(target, "wb") as device:
                shutil.copyfileobj(whole, device)
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Return when a file's content, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":  # cannot be opened there
        return
    # Windows writes out what may be written to alone.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_device(path: Path) -> bool:
    return path in STANDARD_STREAMS or (path.exists() and not stat.S_ISREG(path.stat().st_mode))
