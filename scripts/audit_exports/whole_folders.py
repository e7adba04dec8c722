"""An export's folder, which is whole or not there, whenever the program is stopped."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from output_files import sync


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; it becomes `folder` when the block ends without error.

    What a run that was killed has left of it is removed first.

    Raises: ValueError: something is there already.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: choose another --output_dir.")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        # All at once: a hundred thousand photos, one after the other, would take minutes.
        if hasattr(os, "sync"):
            os.sync()
        part.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
