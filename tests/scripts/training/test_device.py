"""What starts and ends beside a training."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
# The process ends where it is asked to prove that it may have the batch of a worker: at once, or
# by Ctrl-C, after which it has things to put away for longer than its worker should wait. Another
# worker begins when it has ended.
ENDED = f"""
import multiprocessing.connection, os, signal, sys, time
from functools import partial
from torch.utils.data import DataLoader
sys.path.insert(0, {str(SCRIPTS)!r})
from training.device import start_decoding_worker

number, as_torch_has_it = int(sys.argv[1]), bool(sys.argv[2:])

def ended(*arguments):
    os.kill(os.getpid(), number)

def begin_late(worker):
    time.sleep(2 * worker)

class Photos:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index:  # the other worker is still busy when the training has gone
            time.sleep(7)
        return index

multiprocessing.connection.answer_challenge = ended
begin = None if as_torch_has_it else partial(start_decoding_worker, begin_late)
try:
    next(iter(DataLoader(Photos(), num_workers=2, worker_init_fn=begin)))
except KeyboardInterrupt:
    pass  # with the exception goes the connection
time.sleep(7)
sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("more", "said"), [([], False), (["a worker as torch has it"], True)])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_worker_has_nothing_to_say_of_a_training_that_hung_up(
    number: signal.Signals, code: int, more: list[str], said: bool
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDED, str(int(number)), *more],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert ended.returncode == code
    assert ("Traceback" in ended.stderr) == said, ended.stderr
