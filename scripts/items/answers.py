"""What item heads say of photos, by its names.

Their answers are float (num_photos, 2 * len(SIZES) + max_distinct): the means of the logarithms of
SIZES, the logarithms of the spreads, and the logits of 1 to max_distinct distinct items.
"""

from dataclasses import dataclass

import numpy as np

from items.sizes import SIZES


@dataclass(frozen=True)
class ToldItems:
    """What is said of the items in some photos.

    Args:
        means: float (num_photos, len(SIZES)), of the logarithm of each size.
        spreads: the same shape, standard deviations of these.
        distinct: float (num_photos, max_distinct), how likely so many distinct items are.
    """

    means: np.ndarray
    spreads: np.ndarray
    distinct: np.ndarray


def told_items(answers: np.ndarray) -> ToldItems:
    """Return the answers of item heads by their names."""
    means, spreads, logits = np.split(answers, [len(SIZES), 2 * len(SIZES)], axis=1)
    return ToldItems(means, np.exp(spreads), np.exp(log_softmax(logits)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of distributions, float (rows, columns), from logits of that shape."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
