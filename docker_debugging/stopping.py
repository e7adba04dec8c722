"""What stops a run: Ctrl-C, a closed terminal, the end of a session. All of them end it alike."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

# Windows has no SIGHUP.
STOPPING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Stopped(BaseException):
    """A signal asks this process to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def raise_when_stopped() -> None:
    """Let the first of these signals raise Stopped, and those that follow do nothing.

    A signal that is ignored stays so: nohup ignores SIGHUP, a shell's background job SIGINT.
    """
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    # A closed terminal sends several, and the second would end what cleans up after the first.
    for other in STOPPING:
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Let Ctrl-C and the like wait until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
