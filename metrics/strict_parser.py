"""The command line of the entries in this folder: strict flags, errors of one line."""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn


class StrictParser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are one line and exit code 2.

    Args:
        description: the module's docstring, shown as it is.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print `PROGRAM: error: MESSAGE` on standard error and exit with code 2."""
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)

    @contextlib.contextmanager
    def errors_of_one_line(self) -> Iterator[None]:
        """Turn what a user can mend into one line and exit code 2; a closed pipe ends quietly.

        `kill` and a closed terminal end the block as Ctrl-C does, by a KeyboardInterrupt. All of an
        entry belongs into the block, its help too.
        """
        try:
            try:
                with _ending_alike():
                    yield
            finally:
                sys.stdout.flush()  # Python itself would do it after all handlers
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except KeyboardInterrupt as interrupt:
            print("\nStopped.", file=sys.stderr)
            sys.exit(exit_code_of(interrupt))
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            self.error(str(error))


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Return what a shell expects of a program that a signal has ended: 130 after Ctrl-C."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


@contextlib.contextmanager
def _ending_alike() -> Iterator[None]:
    """Let `kill` and a closed terminal raise what Ctrl-C raises; what nohup ignores stays so."""

    def end(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
