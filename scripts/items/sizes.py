"""What a record says of its items beside their number, as targets that a photo can be asked about.

Volumes and weights span a factor of a thousand, and a photo shows them by factors: their targets
are natural logarithms, of cubic inches and of pounds. The number of distinct items stands beside.
"""

from collections.abc import Sequence

import numpy as np

# All items together, the largest and the smallest one, and the weight of all.
SIZES = ("volume", "largest", "smallest", "weight")
SAME = 1e-6  # no bins differ by so little, but sums that are rounded


def volume_changes(targets: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the logarithm of how many times as large all items are after each step.

    Args:
        targets: float (num_rows, len(SIZES) + 1), of item_targets.
        steps: int (num_steps, 2), rows, the earlier one first.

    Returns: float (num_steps,); NaN where nobody knows.
    """
    before, after = targets[steps, SIZES.index("volume")].T
    return after - before


def item_targets(
    quantities: Sequence[int | None] | None,
    volumes: Sequence[float | None] | None,
    weights: Sequence[float | None] | None,
) -> list[float]:
    """Return the logarithms of a bin's SIZES, and how many distinct items it holds.

    A size is NaN where one of these items has no figure, all is where there are no items.

    Args:
        quantities: how many there are of each distinct item; None, for all or for one: nobody
            knows. Items of which there are none do not count.
        volumes, weights: of one of each, cubic inches and pounds; None: nobody knows.
    """
    held = np.array(quantities or [], dtype=np.float64)
    is_there = held > 0
    if np.isnan(held).any() or not is_there.any():
        return [np.nan] * (len(SIZES) + 1)

    def figures(values: Sequence[float | None] | None) -> np.ndarray:
        # Of another length they would be those of other items.
        is_whole = values is not None and len(values) == len(held)
        return np.array(values if is_whole else [None] * len(held), dtype=np.float64)[is_there]

    held, of_volumes, of_weights = held[is_there], figures(volumes), figures(weights)
    sizes = (of_volumes @ held, of_volumes.max(), of_volumes.min(), of_weights @ held)
    return [*np.log(sizes).tolist(), float(len(held))]
