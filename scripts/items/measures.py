"""How well a photo tells what the items are: the figures of a split, pure functions of answers."""

import numpy as np

from items.answers import told_items
from items.sizes import SAME, SIZES

# Of a normal distribution: 90 % of it lies within so many standard deviations.
NINETY_PERCENT = 1.6449


def item_figures(answers: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the figures of all targets that some photo has.

    Args:
        answers: float (num_photos, 2 * len(SIZES) + max_distinct), of items.heads.
        targets: float (num_photos, len(SIZES) + 1), of items.sizes.item_targets.

    Returns: of each size NAME_r2, the share of the variance of its logarithm that is told, and
        NAME_covered, the share of the photos within what is said to hold 90 % of them;
        distinct_accuracy.
    """
    figures: dict[str, float] = {}
    for column, name in enumerate(SIZES):
        known, off, spreads = _told(answers, targets, column)
        if len(known) < 2 or known.std() < SAME:
            continue
        figures[f"{name}_r2"] = float(1 - (off**2).mean() / known.var())
        figures[f"{name}_covered"] = float((np.abs(off) < NINETY_PERCENT * spreads).mean())
    logits, columns = distinct_items(answers, targets)
    is_right = logits.argmax(axis=1) == columns
    return figures | ({"distinct_accuracy": float(is_right.mean())} if len(columns) else {})


def volume_interval(answers: np.ndarray) -> tuple[float, float, float]:
    """Return what volume a photo shows of all items, cubic inches.

    Args:
        answers: float (num_answers,), of items.answers, to one photo.

    Returns: the middle one is as likely too large as too small, and 90 % lie between the others.
    """
    told, column = told_items(answers[None]), SIZES.index("volume")
    off = NINETY_PERCENT * told.spreads[0, column] * np.array([-1, 0, 1])
    low, middle, high = np.exp(told.means[0, column] + off).tolist()
    return low, middle, high


def distinct_items(answers: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of the numbers of distinct items, and which of them is true of each photo.

    Photos of more distinct items than are told, or of which nobody knows, are left out.

    Args: as in item_figures.

    Returns: float (num_told, max_distinct) and int (num_told,).
    """
    logits, numbers = answers[:, 2 * len(SIZES) :], targets[:, -1]
    is_told = numbers <= logits.shape[1]  # NaN is not
    return logits[is_told], numbers[is_told].astype(np.int64) - 1


def fitted_spread_factors(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return by what to multiply each spread, so that these targets are as likely as can be.

    Args: as in item_figures.

    Returns: float (len(SIZES),); 1 where nothing is known.
    """
    factors = np.ones(len(SIZES))
    for column in range(len(SIZES)):
        _, off, spreads = _told(answers, targets, column)
        factors[column] = fitted_spread_factor(off, spreads)
    return factors


def fitted_spread_factor(off: np.ndarray, spreads: np.ndarray) -> float:
    """Return by what to multiply spreads, so that it is as likely as can be to be so far off.

    Args:
        off, spreads: float (num_rows,); NaN where nothing is known.

    Returns: 1 where nothing is known at all.
    """
    squares = ((off / spreads) ** 2)[~np.isnan(off)]
    wanted = float(np.sqrt(squares.mean())) if len(squares) else 0.0
    return wanted if wanted > 0 else 1.0


def volume_change_figures(answers: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Return r2 and covered, as item_figures has them, of the changes of volume between photos.

    Args:
        answers: float (num_pairs, 2), as items.heads.volume_change_loss takes them.
        true: float (num_pairs,), of items.sizes.volume_changes.
    """
    is_known = ~np.isnan(true)
    known, off = true[is_known], (true - answers[:, 0])[is_known]
    if len(known) < 2 or known.std() < SAME:
        return {}
    is_covered = np.abs(off) < NINETY_PERCENT * np.exp(answers[is_known, 1])
    return {"r2": float(1 - (off**2).mean() / known.var()), "covered": float(is_covered.mean())}


def _told(
    answers: np.ndarray, targets: np.ndarray, column: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a size where it is known, how far off the means of it are, and their spreads."""
    is_known = ~np.isnan(targets[:, column])
    known, told = targets[is_known, column], told_items(answers[is_known])
    return known, known - told.means[:, column], told.spreads[:, column]
