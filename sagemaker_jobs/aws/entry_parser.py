"""The command line of the entries in this folder: strict flags, errors of one line."""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError


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
        """Turn what a user can mend, and what AWS refuses, into one line and exit code 2."""
        try:
            yield
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except NoCredentialsError:
            self.error("no AWS credentials: run `aws configure`, or set AWS_PROFILE.")
        except ClientError as error:
            details = error.response.get("Error", {})
            self.error(
                f"AWS refused {error.operation_name}: {details.get('Message', '')} "
                f"({details.get('Code', 'no code')})"
            )
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            sys.exit(130)
        # Boto3Error: an upload that S3 refuses.
        except (BotoCoreError, Boto3Error, ValueError, OSError) as error:
            self.error(str(error))


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
