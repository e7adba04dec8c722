"""data_prep reads a bucket's items, scripts/ those of a caller: they mean the same by a size."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import item_sizes
from items import measured

NAMES = ("length", "width", "height", "weight")


def test_units_and_bounds_are_the_same() -> None:
    for name in ("INCHES", "POUNDS", "VOLUMES", "WEIGHTS"):
        assert getattr(item_sizes, name) == getattr(measured, name)


sizes = st.none() | st.fixed_dictionaries(
    {
        "value": st.none() | st.floats() | st.integers() | st.text(max_size=3),
        "unit": st.sampled_from(["IN", "pounds", "ounces", "cm", "furlong", None, " Inches "]),
    }
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, sizes)))
def test_items_as_the_bucket_has_them_are_read_alike(item: dict[str, Any]) -> None:
    one, other = item_sizes.item_size(item), measured.measured(item)
    assert (one.volume, one.weight) == (other.volume, other.weight)


@pytest.mark.parametrize("value", [0, 1e9, math.nan, math.inf, -3.0, 10**400, None])
def test_numbers_alone_are_inches_and_pounds_and_what_is_absurd_is_not_known(value: Any) -> None:
    item = {"length": 2, "width": 3.0, "height": 4, "weight": 1.5}
    assert measured.measured(item) == measured.Measured(24.0, 1.5)
    found = measured.measured(item | {"width": value, "weight": value})
    assert (found.volume, found.weight, found.faults) == (None, None, ())


@pytest.mark.parametrize(
    ("given_size", "fault"),
    [
        ({"unit": "\x1b[2Jell" + 99 * "x", "value": 3}, r"unit '\x1b[2Jell" + 13 * "x" + "'"),
        ({"value": 3}, "unit 'None' of length is not known"),
        ("3", "length '3' is not a number"),
        (True, "length 'True' is not a number"),
        ([], "length '[]' is not a number"),
    ],
)
def test_what_cannot_be_read_is_named(given_size: Any, fault: str) -> None:
    found = measured.measured({"length": given_size, "width": 3, "height": 3, "weight": 2})
    assert (found.volume, found.weight) == (None, 2.0)
    (named,) = found.faults
    assert named.startswith(fault)
