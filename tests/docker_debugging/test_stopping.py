import signal
import subprocess
import sys
import time

import pytest

from paths import ROOT

# A process that cleans up for as long as a container takes to go.
PROGRAM = f"""
import signal, sys, time
sys.path.insert(0, {str(ROOT / "docker_debugging")!r})
from stopping import Stopped, raise_when_stopped
IGNORED
raise_when_stopped()
try:
    print("waiting", flush=True)
    time.sleep(60)
except Stopped as stopped:
    print("cleaning", flush=True)
    time.sleep(0.5)
    print("clean", flush=True)
    sys.exit(128 + stopped.number)
"""


def started(ignored: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM.replace("IGNORED", ignored)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "waiting\n"
    return process


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_signals_after_the_first_do_not_end_what_cleans_up(first: signal.Signals) -> None:
    process = started()
    process.send_signal(first)
    assert process.stdout
    assert process.stdout.readline() == "cleaning\n"
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    assert process.stdout.read() == "clean\n"
    assert process.wait() == 128 + first


def test_what_nohup_ignores_stays_ignored() -> None:
    process = started("signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
