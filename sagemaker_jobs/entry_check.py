"""Let an entry of another folder check its own flags: the folders share no code."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# No credentials, and nothing else that a check does not need.
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")


@contextlib.contextmanager
def checked_by(entry: Path, arguments: Sequence[str]) -> Iterator[None]:
    """Run an entry, which checks its arguments and does nothing else, while the block runs.

    Raises: ValueError: the entry's own words, at the end of the block.
    """
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, str(entry), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"HF_HUB_OFFLINE": "1"},
    )
    try:
        yield
        errors = process.communicate()[1]
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        lines = [line for line in errors.splitlines() if line.strip()] or ["it gave no reason"]
        raise ValueError(re.sub(r"^\w+\.py: error: ", "", lines[-1]))
