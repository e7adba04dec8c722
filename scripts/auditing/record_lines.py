"""The lines of a record, as a stranger wrote them -> the items that it names."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from items.evidence import RecordedItems, recorded_items


def merged_lines(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each item once, by its name: lines of one name are one item, of the first one's size.

    Args:
        items: with name, quantity, volume and weight.

    Returns: the same fields; the quantity is None where a line does not say it.
    """
    merged: dict[str, dict[str, Any]] = {}
    for item in items:
        same = merged.setdefault(item["name"], {**item, "quantity": 0})
        is_known = same["quantity"] is not None and item["quantity"] is not None
        same["quantity"] = same["quantity"] + item["quantity"] if is_known else None
    return merged


def record_of(expected: int | None, items: Sequence[Mapping[str, Any]]) -> RecordedItems:
    """Return what a record says of its items; none where these do not come to what it expects.

    Args: as in merged_lines.
    """
    merged = merged_lines(items).values()
    columns = [[item[name] for item in merged] for name in ("quantity", "volume", "weight")]
    return recorded_items(-1 if expected is None else expected, *columns)


def recorded_columns(records: Sequence[RecordedItems]) -> pa.Table:
    """Return records as columns of lists, some ten bytes an item."""
    types = {"quantities": pa.int32(), "volumes": pa.float32(), "weights": pa.float32()}
    return pa.table(
        {
            name: pa.array([getattr(record, name) for record in records], pa.large_list(kind))
            for name, kind in types.items()
        }
    )
