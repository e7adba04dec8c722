"""What a record says of its items beside their number, as targets that a photo can be asked about.

Volumes and weights span a factor of a thousand, and a photo shows them by factors: all targets are
natural logarithms, of cubic inches and of pounds.
"""

from collections.abc import Sequence

import numpy as np

# All items together, the largest and the smallest one, and the weight of all.
SIZES = ("volume", "largest", "smallest", "weight")


def size_targets(
    quantities: Sequence[int],
    volumes: Sequence[float | None] | None,
    weights: Sequence[float | None] | None,
) -> list[float]:
    """Return the logarithms of a bin's SIZES, NaN where an item that counts has no figure.

    Args:
        quantities: how many there are of each distinct item.
        volumes, weights: of one of each, cubic inches and pounds; None: nobody knows.
    """
    held = np.asarray(quantities, dtype=np.float64)

    def figures(values: Sequence[float | None] | None) -> np.ndarray:
        # Of another length they would be those of other items.
        is_whole = values is not None and len(values) == len(held) > 0
        return np.array(values if is_whole else [None], dtype=np.float64)

    of_volumes, of_weights = figures(volumes), figures(weights)
    total_volume, total_weight = (
        (of_each * held).sum() if len(held) else np.nan for of_each in (of_volumes, of_weights)
    )
    return np.log([total_volume, of_volumes.max(), of_volumes.min(), total_weight]).tolist()
