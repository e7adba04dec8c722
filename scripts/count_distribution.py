"""From a distribution over counts to one number: the three ways of reading it, and their units.

A label is not a count: with labels "1" to "5" the label id 0 means 1 item. `counts_of_labels` is
the one place that converts, and everything measured in items goes through it.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

NUM_LEVELS = 10  # as in metrics/evaluation.py


def counts_of_labels(label_names: Sequence[str]) -> tuple[int, ...]:
    """Return how many items each label id stands for: ("1", "2", "3") -> (1, 2, 3).

    Raises: ValueError: the names are not increasing whole numbers.
    """
    try:
        counts = tuple(int(name) for name in label_names)
    except ValueError:
        counts = ()
    is_ordered = all(low < high for low, high in pairwise(counts))
    if not counts or not is_ordered or counts[0] < 0:
        raise ValueError(
            f"The labels {list(label_names)} are not counts in increasing order such as "
            '"1" to "5": build the dataset with data_prep/build_dataset.py.'
        )
    return counts


def mode_count(probabilities: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return the most likely count of each bin, the answer that is right most often.

    Args:
        probabilities: float (num_bins, num_counts), rows sum to 1.
        counts: what the columns stand for, items, increasing.

    Returns: int (num_bins,), items.
    """
    return np.asarray(counts)[probabilities.argmax(axis=1)]


def median_count(probabilities: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return the median count of each bin, the answer of the least expected absolute error.

    Args and returns: as in mode_count.
    """
    cumulative = probabilities.cumsum(axis=1)
    # Half of the row's own sum: rows sum to 1 only as well as floats can.
    return np.asarray(counts)[(cumulative >= cumulative[:, -1:] / 2).argmax(axis=1)]


def mean_count(probabilities: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return the mean count of each bin, the answer of the least expected squared error.

    Args: as in mode_count. Returns: float (num_bins,), items.
    """
    return probabilities @ np.asarray(counts, dtype=np.float64)


def confidence_levels(confidence: np.ndarray) -> np.ndarray:
    """Return in which of NUM_LEVELS equal steps from 0 to 1 each largest probability lies, int.

    Every expected calibration error is over these levels, or two of them could not be compared.
    """
    return np.minimum((confidence * NUM_LEVELS).astype(int), NUM_LEVELS - 1)
