"""The command line of the entries in this folder: strict flags, errors of one line."""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

from stopping import Stopped


class PlainParser(argparse.ArgumentParser):
    """A strict parser that shows the docstring as it is, and whose errors are one line."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print `PROGRAM: error: MESSAGE` on standard error and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    @contextlib.contextmanager
    def errors_of_one_line(self) -> Iterator[None]:
        """Turn what a user can mend into one line and exit code 2; a closed pipe ends quietly.

        All of an entry belongs into the block, its help too.
        """
        try:
            try:
                yield
            finally:
                _flush()  # Python itself would do it after all handlers
        except BrokenPipeError:  # `| head` has seen enough
            sys.exit(0)
        except KeyboardInterrupt:
            sys.exit(130)
        except Stopped as stopped:
            sys.exit(128 + stopped.number)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.error(str(error))


def _flush() -> None:
    """Write what is buffered to whoever reads it; the exit code stays where nobody does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def port_number(text: str) -> int:
    """Return the number of a port. Raises: ValueError: it is not one from 1 to 65535."""
    number = int(text)
    if not 0 < number < 2**16:
        raise ValueError(text)
    return number


port_number.__name__ = "port from 1 to 65535"  # what argparse names in "invalid ... value"
