"""The command line of the entries in this folder: strict flags, errors of one line."""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from typing import NoReturn

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from aws.ending_signals import ending_alike, exit_code_of, to_nowhere

# Source: the errors of AWS's references of CreateTrainingJob, CreateEndpoint and their like.
OUT_OF_QUOTA = "ResourceLimitExceeded"
QUOTA_ADVICE = (
    "A new account's quota for many instance types, spot training, warm pools and GPUs is 0: ask "
    "for more in the console (Service Quotas, Amazon SageMaker, the name above), or take another "
    "--instance_type."
)


class EntryParser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are one line and exit code 2.

    Args:
        description: the module's docstring, shown as it is.
    """

    def __init__(self, description: str | None, **kwargs: bool) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **kwargs,  # type: ignore[arg-type]
        )

    def error(self, message: str) -> NoReturn:
        """Print `PROGRAM: error: MESSAGE` on standard error and exit with code 2."""
        print(f"{self.prog}: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)

    @contextlib.contextmanager
    def errors_of_one_line(self) -> Iterator[None]:
        """Turn what a user can mend, and what AWS refuses, into one line and exit code 2.

        A closed terminal and `kill` end the block as Ctrl-C does, with a KeyboardInterrupt: what
        removes what was made then belongs into a `finally` or an `except BaseException` within it.
        """
        with ending_alike():
            try:
                try:
                    yield
                finally:
                    _flush()  # Python itself would do it after all handlers
            except BrokenPipeError:  # `| head` has seen enough
                sys.exit(0)
            except NoCredentialsError:
                self.error("no AWS credentials: run `aws configure`, or set AWS_PROFILE.")
            except ClientError as error:
                self.error(refusal(error))
            except KeyboardInterrupt as interrupt:
                print("\nStopped.", file=sys.stderr)
                sys.exit(exit_code_of(interrupt))
            # Boto3Error: an upload that S3 refuses.
            except (BotoCoreError, Boto3Error, ValueError, OSError) as error:
                self.error(str(error))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the program, after --help too, though nobody reads it to its end."""
        _flush()
        super().exit(status, message)


def _flush() -> None:
    """Write what is buffered to whoever reads it; the exit code stays where nobody does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        to_nowhere(sys.stdout)


def refusal(error: ClientError) -> str:
    """Return what AWS refused, and why, in a line."""
    details = error.response.get("Error", {})
    line = (
        f"AWS refused {error.operation_name}: {details.get('Message', '')} "
        f"({details.get('Code', 'no code')})"
    )
    if details.get("Code") == OUT_OF_QUOTA:
        line += f" {QUOTA_ADVICE}"
    return line


def positive_integer(text: str) -> int:
    """Return the number that a flag gives. Raises: ValueError: it is not a whole one above 0."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def price(text: str) -> float:
    """Return an amount of money. Raises: ValueError: it is negative or no number."""
    amount = float(text)
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(text)
    return amount


# What argparse names in "invalid ... value".
positive_integer.__name__ = "whole number above 0"


def hours(seconds: int) -> str:
    """Return a time as a user reads it: 24 h, 1.5 h, 10 min, 45 s."""
    if seconds % 60 or seconds < 60:
        return f"{seconds} s"
    return f"{seconds / 3600:.3g} h" if seconds >= 3600 else f"{seconds // 60} min"
