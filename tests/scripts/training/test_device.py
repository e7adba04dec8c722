"""What starts and ends beside a training."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
# The process ends where it is asked to prove that it may have the batch of a worker.
KILLED = f"""
import multiprocessing.connection, os, signal, sys
from functools import partial
from torch.utils.data import DataLoader
sys.path.insert(0, {str(SCRIPTS)!r})
from training.device import start_decoding_worker

def killed(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)

multiprocessing.connection.answer_challenge = killed
begin = None if sys.argv[1:] else partial(start_decoding_worker, None)
next(iter(DataLoader(range(4), num_workers=1, worker_init_fn=begin)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("more", "said"), [([], False), (["a worker as torch has it"], True)])
def test_a_worker_has_nothing_to_say_of_a_killed_training(more: list[str], said: bool) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *more], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -15
    assert ("Traceback" in killed.stderr) == said, killed.stderr
