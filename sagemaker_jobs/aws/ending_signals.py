"""A closed terminal, `kill` and Ctrl-C end a command alike: what it began is cleaned up."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, cast

# SIGHUP, which a terminal sends as it closes, is not on Windows.
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

SECONDS_FOR_LAST_WORD = 5


# The signals that have come since ending_alike began.
_came: list[int] = []


class EndedBySignal(KeyboardInterrupt):
    """One of ENDING: what is done after Ctrl-C is done after each. `exit_code` is the shell's."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.exit_code = 128 + signal_number


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Return what a command exits with after a signal, 128 and its number: 130 after Ctrl-C."""
    return interrupt.exit_code if isinstance(interrupt, EndedBySignal) else 128 + signal.SIGINT


@contextlib.contextmanager
def ending_alike() -> Iterator[None]:
    """Raise EndedBySignal for each of ENDING, while the block runs.

    After the first only another Ctrl-C is heeded: a shell sends a second SIGHUP as its terminal
    closes, and it must not cut the cleaning up. A signal that whoever started this command has
    turned off (nohup, a shell's `&`) stays off.

    What nobody reads any more of standard error is lost without an error.

    Raises: EndedBySignal: one has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread have signals
        return
    streams = sys.stdout, sys.stderr
    # The terminal, or the `tee` that Ctrl-C has ended too, may be gone: cleaning up goes on. What
    # standard output is for ends with its reader.
    stdout, sys.stderr = (cast(TextIO, _Indifferent(stream)) for stream in streams)

    def end(signal_number: int, _: Any) -> None:
        for other in before:
            if other != signal.SIGINT:
                signal.signal(other, signal.SIG_IGN)
        sys.stdout = stdout
        _came.append(signal_number)
        raise EndedBySignal(signal_number)

    before: dict[int, Any] = {}
    for number in ENDING:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.stdout, sys.stderr = streams
        _came.clear()


@contextlib.contextmanager
def told_if_cut_off(commands: str) -> Iterator[None]:
    """Say what looks after the block's work if a signal ends it: AWS may have begun it already."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nIt may run already:\n{commands}", file=sys.stderr)
        raise


@contextlib.contextmanager
def signals_raised_again() -> Iterator[None]:
    """Let a signal end the block though the SageMaker SDK swallows it, or raises something else.

    The SDK's telemetry, which wraps Estimator.fit, returns in a `finally`: after Ctrl-C the work
    would count as done, and what follows it would be begun.

    Raises: EndedBySignal: one has come.
    """
    try:
        yield
    finally:
        if _came:
            raise EndedBySignal(_came[-1])


def run_child(command: Sequence[str]) -> int:
    """Run a command and return its exit code; a signal that ends this one ends it too."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt as interrupt:
            code = exit_code_of(interrupt)
            if code == 128 + signal.SIGINT:
                # The terminal sends Ctrl-C to both, and the child has the last word.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ended_with = process.wait(timeout=SECONDS_FOR_LAST_WORD)
                    return ended_with if ended_with >= 0 else code
            process.terminate()
            return code


class _Indifferent:
    """A stream that loses what nobody reads any more, and raises no error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            to_nowhere(self._stream)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def to_nowhere(stream: TextIO) -> None:
    """Lead a stream that nobody reads any more to where all is taken: its buffer is still full."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
