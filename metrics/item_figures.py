"""What a run says of the items in a bin beside their number: figures with their intervals.

Runs without item heads (train.py --learn_items) have none.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from group_bootstrap import bootstrap_means

SIZES = {
    "volume": "volume of all items",
    "largest": "volume of the largest item",
    "smallest": "volume of the smallest item",
    "weight": "weight of all items",
}
DISTINCT = "number of distinct items"
# Each with its heading.
OF_ITEMS = {"r2": "variance told %", "covered": "within what should hold 90 %, %"}
NINETY_PERCENT = 1.6449  # of a normal distribution: within so many standard deviations
SAME = 1e-6  # no bins differ by so little, but sums that are rounded
ABOUT_ITEMS = (
    "Volumes and weights as the records have them, by their logarithms: the share of the variance "
    "that the photo tells, and of photos within what the model says to hold 90 % of them."
)


def items_of_run(predictions: pa.Table, group: np.ndarray) -> dict[str, Any] | None:
    """Return the figures of the items, JSON-ready; None where a run says nothing of them.

    Args:
        predictions: predictions_test.parquet.
        group: (num_bins,), the name of each bin's group.

    Returns: `sizes`: for each of SIZES that is known of two photos at least, its OF_ITEMS; and
        `distinct_accuracy`, of the photos of which it can be told: each the value and the ends of
        its 95 % interval over bin groups.
    """
    if "items_distinct_recorded" not in predictions.column_names:
        return None
    columns = {
        name: np.array(predictions[name].to_pylist(), dtype=float)  # null: NaN
        for name in predictions.column_names
        if name.startswith("items_")
    }
    sizes = {}
    for name in SIZES:
        recorded = columns[f"items_{name}_recorded"]
        is_known = np.isfinite(recorded)
        if not is_known.any() or np.ptp(recorded[is_known]) < SAME:
            continue
        off = recorded - columns[f"items_{name}"]
        is_covered = np.abs(off) < NINETY_PERCENT * columns[f"items_{name}_spread"]
        values = np.column_stack([off**2, recorded, recorded**2, is_covered])[is_known]
        value, drawn = bootstrap_means(group[is_known], values)
        sizes[name] = {
            "r2": _interval(_share_told(value[None])[0], _share_told(drawn)),
            "covered": _interval(value[3], drawn[:, 3]),
        }
    names = [name for name in columns if name.startswith("items_distinct_probability_")]
    numbers = np.array([int(name.rpartition("_")[2]) for name in names])
    told = numbers[np.column_stack([columns[name] for name in names]).argmax(axis=1)]
    recorded = columns["items_distinct_recorded"]
    is_told = recorded <= numbers.max()  # NaN is not
    if not is_told.any():
        return {"sizes": sizes}
    value, drawn = bootstrap_means(group[is_told], (told == recorded)[is_told, None])
    return {"sizes": sizes, "distinct_accuracy": _interval(value[0], drawn[:, 0])}


def item_rows(items: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each figure of items_of_run, its name first."""
    rows = [
        [SIZES[name], *(_cell(figures[figure]) for figure in OF_ITEMS)]
        for name, figures in items["sizes"].items()
    ]
    if "distinct_accuracy" in items:
        rows.append([f"{DISTINCT}: right", _cell(items["distinct_accuracy"]), ""])
    return rows


def _share_told(means: np.ndarray) -> np.ndarray:
    """Return R2 of means of the squared errors, of a size and of its square, (num_rows,)."""
    squared_error, of_size, of_square = means.T[:3]
    variance = of_square - of_size**2
    return 1 - np.divide(
        squared_error, variance, out=np.full_like(variance, np.nan), where=variance > 0
    )


def _interval(value: float, drawn: np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _cell(figure: Mapping[str, float]) -> str:
    value, low, high = (f"{100 * figure[name]:.1f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
