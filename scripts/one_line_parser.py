"""A command line with strict flags, and errors of one line."""

import argparse
import sys
from typing import NoReturn


class OneLineErrorsParser(argparse.ArgumentParser):
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
