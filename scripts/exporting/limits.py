"""How far the exported form may be from the safetensors."""

from collections.abc import Mapping
from typing import Any

from exporting.comparison import OF_SIZES

# What the exported form may be off by on the test split, in counts and in changes.
MAX_ACCURACY_LOST = 0.002
MAX_LOG_LIKELIHOOD_LOST = 0.005  # nats a photo: what wrong or blurred probabilities cost
MAX_CALIBRATION_LOST = 0.005
MAX_DIFFERENCE = {"int8": 0.25, "bf16": 0.05, "f32": 1e-4}  # of any probability
# The change head makes much of small differences of two photos, those of rounding among them.
MAX_DIFFERENCE_OF_CHANGE = {"int8": 0.25, "bf16": 0.05, "f32": 1e-3}
# Of the mean of any size, in what the safetensors say that it is off by, and of any spread's
# logarithm or probability of so many distinct items.
MAX_DIFFERENCE_OF_ITEMS = {"int8": 1.0, "bf16": 0.2, "f32": 1e-3}


def check(record: dict[str, Any]) -> None:
    """Check that the exported form may stand in. Raises: ValueError: it is worse by too much."""
    precision = record["precision"]
    check_answers(record, record["num_photos"], MAX_DIFFERENCE[precision], precision)
    if "changes" in record:
        most = MAX_DIFFERENCE_OF_CHANGE[precision]
        check_answers(record["changes"], record["num_pairs"], most, precision, " of changes")
    for name, what in OF_SIZES.items():
        if name in record:
            limit = MAX_DIFFERENCE_OF_ITEMS[precision]
            check_limits({what: (record[name]["largest_difference"], limit)}, precision)


def check_answers(
    compared: dict[str, Any], num_rows: int, max_difference: float, precision: str, what: str = ""
) -> None:
    """Check one kind of answers, of `comparison`. Raises: ValueError: they are worse by too much.

    Args:
        max_difference: that any probability may be off by.
        what: is told of them in a message.
    """
    before, after = compared["safetensors"], compared["exported"]
    one = 1.5 / num_rows  # of a few answers one may tip over by any rounding
    limits = {
        f"accuracy{what}": (
            before["accuracy"] - after["accuracy"],
            max(MAX_ACCURACY_LOST, one),
        ),
        f"negative log likelihood{what}": (
            after["negative_log_likelihood"] - before["negative_log_likelihood"],
            MAX_LOG_LIKELIHOOD_LOST,
        ),
        f"expected calibration error{what}": (
            after["expected_calibration_error"] - before["expected_calibration_error"],
            max(MAX_CALIBRATION_LOST, one),
        ),
        f"a probability{what}": (compared["largest_difference"], max_difference),
    }
    check_limits(limits, precision)


def check_limits(limits: Mapping[str, tuple[float, float]], precision: str) -> None:
    """Check what was lost, by its name, against its limit. Raises: ValueError: one is passed."""
    for name, (lost, limit) in limits.items():
        # Not `>`: nan is too much, too.
        if not lost <= limit:
            raise ValueError(f"in {precision} {name} is off by {lost:.4f}, more than {limit:.4g}")
