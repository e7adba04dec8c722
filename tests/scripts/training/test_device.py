"""What starts and ends beside a training."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
# The process ends where it is asked to prove that it may have the batch of a worker.
KILLED = f"""
import multiprocessing.connection, os, signal, sys, time
from functools import partial
from torch.utils.data import DataLoader
sys.path.insert(0, {str(SCRIPTS)!r})
from training.device import start_decoding_worker

def killed(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)

class Photos:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index:  # the other worker is still busy when the training has gone
            time.sleep(7)
        return index

multiprocessing.connection.answer_challenge = killed
begin = None if sys.argv[1:] else partial(start_decoding_worker, None)
next(iter(DataLoader(Photos(), num_workers=2, worker_init_fn=begin)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("more", "said"), [([], False), (["a worker as torch has it"], True)])
def test_a_worker_has_nothing_to_say_of_a_killed_training(more: list[str], said: bool) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *more], capture_output=True, text=True, timeout=60
    )
    assert killed.returncode == -15
    assert ("Traceback" in killed.stderr) == said, killed.stderr
