"""A process that writes in a run folder, and one that it has started, until the test has ended."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from paths import ROOT

# What is forked lives on, as a worker that decodes photos may.
HOLD = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from training.run_folder import only_run_in
with only_run_in(Path(sys.argv[2])):
    if os.fork() > 0:
        print("holds", flush=True)
    time.sleep(300)
"""


@contextlib.contextmanager
def held_run_folder(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield the process once it holds the folder; its number is that of its group, too."""
    command = [sys.executable, "-c", HOLD, str(ROOT / "scripts"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"holds\n"
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
