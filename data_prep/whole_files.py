"""Write files that are whole or not there, whenever the run is killed."""

import fcntl
import glob
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".part"


@contextmanager
def whole_file(path: Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes `path` when the block ends without error.

    The temporary name is this writer's own: two that write the same file do not meet. It is on the
    disk before it gets its name, so that a power cut leaves no empty file either.

    Args:
        replace: take the place of a file that is there.

    Raises: FileExistsError: it is there, and `replace` is False.
    """
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
