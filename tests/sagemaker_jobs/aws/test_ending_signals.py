"""Real signals to a real process that cleans up as it ends, in a terminal and without one."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paths import ROOT

# What every command does: something is made, and removed whatever ends the command.
PROGRAM = """
import sys, time
from pathlib import Path
from aws.entry_parser import EntryParser

with EntryParser(None).errors_of_one_line():
    try:
        Path(sys.argv[1], "made").touch()
        while True:
            time.sleep(0.05)  # a signal that comes just before one is heeded after it
    except BaseException:
        print("Removing what was made.", file=sys.stderr)
        time.sleep(0.3)
        print("Removing more.")
        Path(sys.argv[1], "removed").touch()
        raise
"""


def command(folder: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(folder)]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def in_sagemaker_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "sagemaker_jobs"))


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        # As from a shell whose terminal closes: its own after the terminal's.
        ([signal.SIGHUP, signal.SIGHUP], 129),
        ([signal.SIGHUP, signal.SIGTERM], 129),
    ],
)
def test_each_signal_lets_a_command_remove_what_it_made(
    signals: list[signal.Signals], code: int, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "made")
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    output = process.communicate(timeout=60)
    assert (tmp_path / "removed").exists()
    assert process.returncode == code
    assert output == ("Removing more.\n", "Removing what was made.\n\nStopped.\n")


def test_a_closed_terminal_lets_a_command_remove_what_it_made(tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, command(tmp_path))
    wait_for(tmp_path / "made")
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert (tmp_path / "removed").exists()
    assert os.waitstatus_to_exitcode(status) == 129


def test_what_ctrl_c_ends_with_it_does_not_keep_a_command_from_cleaning_up(
    tmp_path: Path,
) -> None:
    """`command 2>&1 | tee log`: Ctrl-C comes to both, and nobody reads the pipe any more."""
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for(tmp_path / "made")
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert (tmp_path / "removed").exists()


def test_what_nohup_turns_off_stays_off(tmp_path: Path) -> None:
    process = subprocess.Popen(["nohup", *command(tmp_path)], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "made")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)
    process.terminate()
    assert process.wait(timeout=60) == 143


def test_a_command_ends_with_those_that_it_runs(tmp_path: Path) -> None:
    parent = (
        "import sys; from aws.ending_signals import ending_alike, run_child\n"
        "with ending_alike(): sys.exit(run_child(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, *command(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "made")
    process.send_signal(signal.SIGHUP)
    assert "Removing what was made." in process.communicate(timeout=60)[1]
    assert (tmp_path / "removed").exists()
    assert process.returncode == 129
