"""Which bins to check beside those whose check saves most: those that the next model learns from.

A count teaches a model most about a photo that it cannot tell, and an audit most where the record
may be wrong. Both are ranked, since they have no unit in common, and the ranks are added. Visits of
one bin show much the same, so that each bin is taken once, and none of which a visit is checked
anyway. Uncertainty is that of the model's own distribution (Settles, Active Learning Literature
Survey, 2009).
"""

import numpy as np


def most_telling(
    risk: np.ndarray,
    uncertainty: np.ndarray,
    is_checked: np.ndarray,
    bins: np.ndarray,
    number: int,
) -> np.ndarray:
    """Return the rows to check to learn most, int (num_chosen,), the most telling first.

    Args:
        risk: float (num_rows,), how likely the best answer without a check is wrong; NaN where
            nothing can be said, and such rows are not chosen.
        uncertainty: float (num_rows,), the entropy of what the photo says.
        is_checked: bool (num_rows,), rows that are checked anyway.
        bins: int (num_rows,), a number for each bin.
        number: of rows to choose; fewer are returned where there are fewer bins.
    """
    is_left = ~np.isnan(risk) & ~np.isin(bins, bins[is_checked])
    rows = np.flatnonzero(is_left)
    ranks = sum(_ranks(values[rows]) for values in (risk, uncertainty))
    ordered = rows[np.argsort(-np.asarray(ranks), kind="stable")]
    _, first = np.unique(bins[ordered], return_index=True)
    return ordered[np.sort(first)][:number]


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of distributions, (num_rows, num_counts), in nats: float (num_rows,)."""
    logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return -(probabilities * logarithms).sum(axis=1)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the place of each value from below, float; equal values share the mean of theirs."""
    _, index, times = np.unique(values, return_inverse=True, return_counts=True)
    return (times.cumsum() - (times + 1) / 2)[index]
