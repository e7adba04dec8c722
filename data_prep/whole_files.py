"""Write files that are whole or not there, whenever the run is killed."""

import glob
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from command_line import InputError

try:
    import fcntl
except ImportError:  # Windows, where `--help` works at least
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".part"
# Opened by name, one that leads to a file is emptied, and written over by what the program says.
STANDARD_STREAMS = {Path("/dev/stdout"): 1, Path("/dev/stderr"): 2}


@contextmanager
def whole_file(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends without error.

    The temporary name is this writer's own: two that write the same file do not meet. It is on the
    disk before it gets its name, so that a power cut leaves no empty file either. Of a symbolic
    link the target is replaced; a device or a pipe is written to.

    Args:
        replace: take the place of a file that is there.

    Raises: IsADirectoryError: a folder is there. FileExistsError: a file is, and `replace` is
        False. OSError: it cannot be written; `filename` is set.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file.")
    try:
        with _onto_device(path) if _is_device(path) else _beside(path.resolve(), replace) as file:
            yield file
    except OSError as error:
        # A full disk is told without a name.
        error.filename = error.filename or str(path)
        raise


@contextmanager
def _beside(path: Path, replace: bool) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = _locked_temporary(path)
    try:
        yield temporary
        os.fsync(descriptor)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def _onto_device(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, path.name)
        yield temporary
        standard = STANDARD_STREAMS.get(path)
        target = path if standard is None else os.dup(standard)
        with temporary.open("rb") as whole, open(target, "wb") as device:
            shutil.copyfileobj(whole, device)


def _is_device(path: Path) -> bool:
    return path in STANDARD_STREAMS or (path.exists() and not stat.S_ISREG(path.stat().st_mode))


def check_platform() -> None:
    """Raise InputError where files cannot be locked, before any work."""
    if fcntl is None:
        raise InputError(
            "files cannot be locked here: use Linux or macOS, or WSL (wsl --install) on Windows."
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left below a folder.

    A writer holds a lock on its temporary file, which ends with it. Other machines' files are left
    alone: not every file system shows their locks.
    """
    for path in folder.rglob(f".*.{glob.escape(socket.gethostname())}.*{PARTIAL}"):
        # Gone meanwhile, or locked by a writer that lives.
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _locked_temporary(path: Path) -> tuple[int, Path]:
    while True:
        name = f".{path.name}.{socket.gethostname()}.{secrets.token_hex(4)}{PARTIAL}"
        temporary = path.with_name(name)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between those two lines another run may have taken it for a leftover.
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)
