"""The command-line manners of every entry in this folder: strict flags, errors of one line."""

import argparse
import sys
from typing import NoReturn

# Exit codes: 2 where the caller can mend the call or the input, 1 where the run itself failed.
BAD_INPUT = 2


class InputError(ValueError):
    """The caller's flags or files are at fault; the message says what to do, in one line."""


class EntryParser(argparse.ArgumentParser):
    """An argument parser without abbreviations, whose errors are one line and exit code 2."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Print `PROGRAM: error: MESSAGE` on standard error and exit with code 2."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def fraction(text: str) -> float:
    """Parse a share from 0 to 1. Raises: argparse.ArgumentTypeError: it is none."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return value


def positive_integer(text: str) -> int:
    """Parse an integer above 0. Raises: argparse.ArgumentTypeError: it is none."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer above 0")
    return int(text)


def natural_number(text: str) -> int:
    """Parse an integer of 0 or more. Raises: argparse.ArgumentTypeError: it is none."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 0 or more")
    return int(text)
