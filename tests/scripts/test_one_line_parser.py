import os
import subprocess
import sys

import pytest

from one_line_parser import MAX_REASON, reason_of
from paths import ROOT

PROGRAM = """
from one_line_parser import OneLineErrorsParser
OneLineErrorsParser("").parse_args([])
print("figures " * {times})
{then}
"""


def run(program: str, reader_has_left: bool = True) -> tuple[int, str]:
    """Return exit code and standard error of a program whose reader may have left."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT / "scripts",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout
    if reader_has_left:
        process.stdout.close()
        process.stdout = None
    errors = process.communicate()[1]
    return process.returncode, errors


@pytest.mark.parametrize("times", [1, 1000, 100_000])
def test_a_reader_that_leaves_early_is_no_error(times: int) -> None:
    assert run(PROGRAM.format(times=times, then=""))[1] == ""
    assert run(PROGRAM.format(times=times, then="print(1, flush=True)"))[1] == ""


@pytest.mark.parametrize(
    ("error", "reader_has_left"),
    [
        ("ValueError('figures')", True),
        ("ValueError('figures')", False),
        ("BrokenPipeError('figures of a worker')", False),
    ],
)
def test_other_faults_keep_their_traceback(error: str, reader_has_left: bool) -> None:
    code, errors = run(PROGRAM.format(times=1, then=f"raise {error}"), reader_has_left)
    assert code == 1
    assert "Traceback" in errors
    assert "figures" in errors


def caught(raise_it: object) -> BaseException:
    with pytest.raises(Exception) as error_info:  # noqa: PT011
        raise_it()  # type: ignore[operator]
    return error_info.value


def test_a_reason_keeps_what_an_error_goes_back_to() -> None:
    def wrapped() -> None:
        try:
            try:
                raise OSError(28, "No space left on device")
            except OSError as error:
                raise KeyError("shard") from error
        except KeyError:
            raise RuntimeError("The dataset\ncannot be generated")  # noqa: B904

    assert reason_of(caught(wrapped)) == (
        "RuntimeError: The dataset cannot be generated; "
        "at its root [Errno 28] No space left on device"
    )


def test_a_reason_says_nothing_twice_and_hides_what_was_hidden() -> None:
    def advice() -> None:
        try:
            raise OSError("disk full")
        except OSError as error:
            raise ValueError("Make room: disk full") from error

    def hidden() -> None:
        try:
            raise OSError("of no use")
        except OSError:
            raise ValueError("Give a number.") from None

    assert reason_of(caught(advice)) == "Make room: disk full"
    assert reason_of(caught(hidden)) == "Give a number."


def test_a_reason_is_one_line_however_much_a_library_says() -> None:
    reason = reason_of(ValueError("size mismatch\n\t" * 10_000))
    assert len(reason) < MAX_REASON + 10
    assert "\n" not in reason
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert reason_of(ValueError()) == "ValueError: "
