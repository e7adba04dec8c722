"""How large and how heavy an item is, as its record says: cubic inches, pounds.

A record gives length, width and height as `{"unit": "IN", "value": 3.4}`, and the weight likewise.
Any of these may be null or missing. What is absurd counts as missing, too: 0.1 x 0.1 x 0.1 inches
and the like stand for 'nobody has measured it'.
"""

import math
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# What a unit is worth, in lower case. The bucket's first records know IN and pounds alone.
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
# Of one item, least and most. The fullest of the first 9,992 records comes to 7,791 cubic inches
# with all of its items, and their heaviest item to 23 pounds.
VOLUMES, WEIGHTS = (0.05, 8000.0), (0.001, 100.0)
LONGEST_UNIT = 20  # characters that are named of one that is not known


@dataclass(frozen=True)
class ItemSize:
    """One item's size; None where the record does not say, or nothing that can be.

    Args:
        volume: cubic inches. weight: pounds.
        unknown_units: those that no figure could be made of.
    """

    volume: float | None
    weight: float | None
    unknown_units: tuple[str, ...] = ()


def item_size(item: object) -> ItemSize:
    """Return the size of an item of BIN_FCSKU_DATA. Never raises."""
    fields = item if isinstance(item, dict) else {}
    unknown: list[str] = []
    edges = [_measured(fields.get(n), INCHES, unknown) for n in ("length", "width", "height")]
    known = [edge for edge in edges if edge is not None]
    return ItemSize(
        volume=_within(math.prod(known), VOLUMES) if len(known) == len(edges) else None,
        weight=_within(_measured(fields.get("weight"), POUNDS, unknown), WEIGHTS),
        unknown_units=tuple(dict.fromkeys(unknown)),
    )


def sizes_line(bins: pa.Table) -> str:
    """Return one line on how many items have a size.

    Args:
        bins: columns asins, volumes and weights, of lists; a list that is null names none.
    """
    items, volumes, weights = (
        pc.count(pc.list_flatten(bins[name])).as_py() for name in ("asins", "volumes", "weights")
    )
    return (
        f"Of {items:,} items in these records {volumes:,} have a volume and {weights:,} a weight."
    )


def _measured(size: object, units: dict[str, float], unknown: list[str]) -> float | None:
    """Return a size in the unit that is worth 1; adds to `unknown` the unit that is not known."""
    value = size.get("value") if isinstance(size, dict) else None
    if not isinstance(size, dict) or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    unit = str(size.get("unit")).strip()
    if (worth := units.get(unit.lower())) is None:
        unknown.append(ascii(unit[:LONGEST_UNIT]))
        return None
    try:
        return float(value) * worth
    except OverflowError:  # an integer of hundreds of digits
        return None


def _within(value: float | None, bounds: tuple[float, float]) -> float | None:
    """Return a value within bounds, None for any other, and for NaN."""
    least, most = bounds
    return value if value is not None and least <= value <= most else None
