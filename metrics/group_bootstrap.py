"""Intervals of means over photos that depend on one another: bootstrap over bin groups."""

import numpy as np

NUM_RESAMPLES = 10_000
SEED = 0


def bootstrap_means(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of some values and their bootstrap distribution over whole groups.

    Args:
        group: (num_bins,), the name of each bin's group.
        values: float (num_bins, num_values).

    Returns: (num_values,) and (NUM_RESAMPLES, num_values).
    """
    names, index = np.unique(group, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1] + 1))
    np.add.at(sums, index, np.column_stack([values, np.ones(len(values))]))
    generator = np.random.default_rng(SEED)
    drawn = np.empty((NUM_RESAMPLES, sums.shape[1]))
    for row in range(NUM_RESAMPLES):  # one at a time: all at once would take gigabytes
        drawn[row] = (
            np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
            @ sums
        )
    return values.mean(axis=0), drawn[:, :-1] / drawn[:, -1:]
