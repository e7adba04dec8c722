"""A command line with strict flags, and errors of one line."""

import argparse
import atexit
import contextlib
import os
import sys
from types import TracebackType
from typing import Any, NoReturn

MAX_REASON = 300  # characters: what some libraries say fills pages


def reason_of(error: BaseException) -> str:
    """Return in one line why something failed: the error, and what it goes back to.

    Libraries wrap what the system says: "the dataset cannot be generated" is a full disk. Who turns
    an error into advice says this with it.
    """
    root = error
    while under := root.__cause__ or (None if root.__suppress_context__ else root.__context__):
        root = under
    said, cause = _in_one_line(error), _in_one_line(root)
    return said if cause in said else f"{said}; at its root {cause}"


def _in_one_line(error: BaseException) -> str:
    kind, text = type(error).__name__, " ".join(str(error).split())
    text = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]} ..."
    # Of a KeyError the text is the key alone.
    return text if isinstance(error, OSError | ValueError) and text else f"{kind}: {text}"


class OneLineErrors(argparse.ArgumentParser):
    """The manners of every parser here: errors of one line, and none for a reader that has left.

    From its making on a closed pipe (`| head`) ends the program quietly.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if sys.excepthook is not _closed_pipe_or_traceback:
            sys.excepthook = _closed_pipe_or_traceback
            atexit.register(_last_words)

    def error(self, message: str) -> NoReturn:
        """Print `PROGRAM: error: MESSAGE` on standard error and exit with code 2."""
        self.exit_with(f"{self.prog}: error", message)

    @staticmethod
    def exit_with(kind: str, message: str) -> NoReturn:
        """Print `KIND: MESSAGE` in one line on standard error and exit with code 2."""
        print(f"{kind}: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


class OneLineErrorsParser(OneLineErrors):
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


def _flush_or_drop() -> None:
    """Write what is held back; where nobody reads it, drop it, and all that follows.

    Raises: BrokenPipeError: nobody does.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more as it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise


def _last_words() -> None:
    with contextlib.suppress(BrokenPipeError, ValueError):  # ValueError: it was closed already
        _flush_or_drop()


def _closed_pipe_or_traceback(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an exception that nobody caught, unless it says that the reader of a pipe has left."""
    if issubclass(kind, BrokenPipeError):
        try:
            sys.stdout.write("\n")  # what did not fit may have been dropped already
            _flush_or_drop()
        except BrokenPipeError:
            return
    sys.__excepthook__(kind, error, traceback)
