"""How large and how heavy an item is, as a caller or a csv gives it: cubic inches, pounds.

Length, width, height and weight are numbers, inches and pounds, or as the bucket's records have
them: `{"unit": "IN", "value": 3.4}`. What is missing, or absurd, counts as not known: 0.1 x 0.1 x
0.1 inches and the like stand for 'nobody has measured it'. data_prep reads the bucket by the same
rules (tests/contracts/test_item_sizes.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EDGES, WEIGHT = ("length", "width", "height"), "weight"
# What a unit is worth, in lower case.
INCHES = {
    **dict.fromkeys(("in", "inch", "inches"), 1.0),
    **dict.fromkeys(("ft", "foot", "feet"), 12.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1 / 25.4),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 1 / 2.54),
    **dict.fromkeys(("m", "meter", "meters"), 100 / 2.54),
}
POUNDS = {
    **dict.fromkeys(("lb", "lbs", "pound", "pounds"), 1.0),
    **dict.fromkeys(("oz", "ounce", "ounces"), 1 / 16),
    **dict.fromkeys(("g", "gram", "grams"), 1 / 453.59237),
    **dict.fromkeys(("kg", "kilogram", "kilograms"), 1 / 0.45359237),
}
# Of one item, least and most.
VOLUMES, WEIGHTS = (0.05, 8000.0), (0.001, 100.0)
LONGEST_NAME = 20  # characters of a stranger's text in a message


@dataclass(frozen=True)
class Measured:
    """One item's size.

    Args:
        volume: cubic inches, weight: pounds; None where it is not given, or nothing that can be.
        faults: what could not be read, a phrase each.
    """

    volume: float | None
    weight: float | None
    faults: tuple[str, ...] = ()


def measured(item: Mapping[str, Any]) -> Measured:
    """Return the size of an item. Never raises."""
    faults: dict[str, None] = {}
    edges = [_size(name, item.get(name), INCHES, faults) for name in EDGES]
    known = [edge for edge in edges if edge is not None]
    return Measured(
        volume=_within(math.prod(known), VOLUMES) if len(known) == len(edges) else None,
        weight=_within(_size(WEIGHT, item.get(WEIGHT), POUNDS, faults), WEIGHTS),
        faults=tuple(faults),
    )


def _size(
    name: str, given: Any, units: Mapping[str, float], faults: dict[str, None]
) -> float | None:
    """Return a size in the unit that is worth 1; adds to `faults` what cannot be read."""
    if given is None:
        return None
    value, worth = given, 1.0
    if isinstance(given, dict):
        value = given.get("value")
        if value is None:
            return None
        unit = str(given.get("unit")).strip()
        if unit.lower() not in units:
            faults[f"unit {unit[:LONGEST_NAME]!a} of {name} is not known"] = None
            return None
        worth = units[unit.lower()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        faults[f"{name} {str(value)[:LONGEST_NAME]!a} is not a number"] = None
        return None
    try:
        return float(value) * worth
    except OverflowError:  # an integer of hundreds of digits
        return None


def _within(value: float | None, bounds: tuple[float, float]) -> float | None:
    """Return a value within bounds, None for any other, and for NaN."""
    least, most = bounds
    return value if value is not None and least <= value <= most else None
