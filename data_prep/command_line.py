"""The command-line manners of every entry in this folder: strict flags, errors of one line."""

import argparse
import json
import os
import sys
from typing import Any, NoReturn

# Exit codes: 2 where the caller can mend the call or the input, 1 where the run itself failed.
BAD_INPUT = 2
MOST_ITEMS = 1_000  # each count is a class of the dataset; the bucket's fullest bin holds 88
MOST_PROCESSES = 256


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
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(BAD_INPUT)

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:  # --help
            say(message, end="")
        else:
            super()._print_message(message, file)


def say(*lines: str, end: str = "\n") -> None:
    """Print lines; where nobody reads them any more (`| head`), go on quietly."""
    try:
        print(*lines, sep="\n", end=end, flush=True)
    except BrokenPipeError:
        # Or the interpreter tries once more as it ends, and says so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_json(content: str | bytes) -> Any:
    """Return what a stranger's JSON says. Raises: ValueError: it is none, or has a key twice."""

    def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice[:40]!r} is there twice")
        return values

    try:
        return json.loads(content, object_pairs_hook=each_once)
    except RecursionError as error:
        raise ValueError("too deep") from error


def count_of_items(text: str) -> int:
    """Parse how many items a bin holds. Raises: argparse.ArgumentTypeError: too many, or none."""
    count = natural_number(text)
    if count > MOST_ITEMS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_ITEMS:,} items")
    return count


def number_of_processes(text: str) -> int:
    """Parse how many processes work. Raises: argparse.ArgumentTypeError: too many, or no number."""
    number = positive_integer(text)
    if number > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_PROCESSES} processes")
    return number


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
