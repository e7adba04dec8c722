import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.item_sizes import VOLUMES, WEIGHTS, item_size

SIZES = ("length", "width", "height", "weight")


def item(unit: Any = "IN", weight_unit: Any = "pounds", **values: Any) -> dict[str, Any]:
    """Return an item of 2 x 3 x 4 and weight 5, but for the values given."""
    of_size = {"length": 2.0, "width": 3.0, "height": 4.0, "weight": 5.0} | values
    return {
        name: {"unit": weight_unit if name == "weight" else unit, "value": value}
        for name, value in of_size.items()
    }


def test_a_size_is_in_cubic_inches_and_pounds() -> None:
    size = item_size(item())
    assert (size.volume, size.weight, size.unknown_units) == (24.0, 5.0, ())


@pytest.mark.parametrize(
    ("unit", "inches"),
    [("IN", 1), (" inches ", 1), ("CM", 0.393701), ("mm", 0.0393701), ("ft", 12)],
)
def test_lengths_in_other_units_are_converted(unit: str, inches: float) -> None:
    least, most = VOLUMES
    volume = 24 * inches**3
    size = item_size(item(unit=unit))
    expected = volume if least <= volume <= most else None
    assert size.volume == (None if expected is None else pytest.approx(expected, rel=1e-5))
    assert size.unknown_units == ()


@pytest.mark.parametrize(
    ("unit", "pounds"),
    [("pounds", 5), ("LB", 5), ("oz", 0.3125), ("kg", 11.0231), ("g", 0.0110231)],
)
def test_weights_in_other_units_are_converted(unit: str, pounds: float) -> None:
    assert item_size(item(weight_unit=unit)).weight == pytest.approx(pounds, rel=1e-5)


def test_units_that_are_not_known_are_named_without_harm_and_once() -> None:
    size = item_size(item(unit="\x1b[2Jell\u202e" + 1000 * "x", weight_unit=None))
    assert (size.volume, size.weight) == (None, None)
    assert size.unknown_units[1] == "'None'"
    assert len(size.unknown_units) == 2
    assert all(
        unit.isascii() and unit.isprintable() and len(unit) < 60 for unit in size.unknown_units
    )


@pytest.mark.parametrize(
    "value", [None, 0, 0.0, -1, 1e9, math.nan, math.inf, "3", True, [3], 10**400]
)
def test_what_is_missing_or_absurd_is_missing(value: Any) -> None:
    assert item_size(item(width=value)).volume is None
    assert item_size(item(width=value)).weight == 5.0
    assert item_size(item(weight=value)).weight is None
    assert item_size(item(weight=value)).volume == 24.0


def test_what_nobody_has_measured_is_missing() -> None:
    assert item_size(item(length=0.1, width=0.1, height=0.1)).volume is None


@pytest.mark.parametrize("nothing", [None, {}, [], "item", 3, {"length": None}, {"weight": {}}])
def test_an_item_without_a_size_has_none(nothing: object) -> None:
    size = item_size(nothing)
    assert (size.volume, size.weight) == (None, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
SIZE = JSON | st.fixed_dictionaries({"unit": JSON | st.just("IN"), "value": JSON})


@given(JSON | st.dictionaries(st.sampled_from(SIZES), SIZE))
def test_whatever_a_record_holds_a_size_is_within_bounds_or_missing(thing: object) -> None:
    size = item_size(thing)
    assert size.volume is None or VOLUMES[0] <= size.volume <= VOLUMES[1]
    assert size.weight is None or WEIGHTS[0] <= size.weight <= WEIGHTS[1]
