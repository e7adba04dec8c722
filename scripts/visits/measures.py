"""How well changes, and counts with visits, are told: the figures of a test split, and of rivals.

`by_records` is what knows how counts usually change, and sees no photo; `by_single_counts` counts
each photo alone and knows that beside it. Pure functions of probabilities.
"""

import numpy as np

from count_distribution import confidence_levels, mean_count
from visits.chain import ChainWeights, Visits, step_joints, visit_posteriors


def change_figures(
    visits: Visits,
    true: np.ndarray,
    usual: np.ndarray,
    weights: ChainWeights,
    weights_without_changes: ChainWeights,
) -> dict[str, float]:
    """Return the figures of the changes between visits, without a prefix.

    Args:
        true: int (num_rows,), the column of the count that each visit found.
        usual: as in visit_posteriors.

    Returns: direction, count_accuracy, count_rmse, count_loss, calibration_error, each also
        ..._by_records and ..._by_single_counts. The direction is which visit found more, of pairs
        that differ; the others are of the count given the count of the other visit, both ways.
    """
    if len(visits.steps) == 0:
        return {}
    figures: dict[str, float] = {}
    before, after = true[visits.steps].T
    for suffix, (given, told) in _ways_to_tell(
        visits, true, usual, weights, weights_without_changes
    ).items():
        of_counts = count_figures(given, np.concatenate([after, before]), visits.counts)
        figures |= {
            f"direction{suffix}": float(told[before != after].mean()),
            **{f"count_{name}{suffix}": of_counts[name] for name in ("accuracy", "rmse", "loss")},
            f"calibration_error{suffix}": of_counts["calibration_error"],
        }
    return figures


def pair_outcomes(
    visits: Visits,
    true: np.ndarray,
    usual: np.ndarray,
    weights: ChainWeights,
    weights_without_changes: ChainWeights,
) -> dict[str, np.ndarray]:
    """Return what each step adds to the figures of changes, for who wants intervals of these.

    Args: as in change_figures.

    Returns: float (num_steps,) each: direction, 1 where it was told and 0 where not, NaN where both
        visits found the same; count_accuracy, count_squared_error and count_loss, the means of both
        ways; each also ..._by_records and ..._by_single_counts.
    """
    before, after = true[visits.steps].T
    found = {}
    for suffix, (given, told) in _ways_to_tell(
        visits, true, usual, weights, weights_without_changes
    ).items():
        found[f"direction{suffix}"] = np.where(before == after, np.nan, told)
        outcomes = count_outcomes(given, np.concatenate([after, before]), visits.counts)
        for name, values in outcomes.items():
            found[f"count_{name}{suffix}"] = values.reshape(2, -1).mean(axis=0)
    return found


def _ways_to_tell(
    visits: Visits,
    true: np.ndarray,
    usual: np.ndarray,
    weights: ChainWeights,
    weights_without_changes: ChainWeights,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return what each way to tell says, by what is behind a figure's name.

    Returns: the count at one visit given the other's, float (2 * num_steps, num_counts): the later
        ones, then the earlier ones; whether the direction was told, float (num_steps,), a half for
        who cannot tell.
    """
    before, after = true[visits.steps].T
    rows = np.arange(len(before))
    ways = {}
    for suffix, chosen in (("", weights), ("_by_single_counts", weights_without_changes)):
        joint = step_joints(visits, chosen, usual)
        given = np.concatenate([joint[rows, before], joint[rows, :, after]])
        more, fewer = np.triu(joint, 1).sum(axis=(1, 2)), np.tril(joint, -1).sum(axis=(1, 2))
        told = np.where(np.isclose(more, fewer), 0.5, (more > fewer) == (after > before))
        ways[suffix] = given / given.sum(axis=1, keepdims=True), told
    ways["_by_records"] = np.concatenate([usual[before], usual[after]]), np.full(len(rows), 0.5)
    return ways


def visit_figures(
    visits: Visits, true: np.ndarray, usual: np.ndarray, weights: ChainWeights
) -> dict[str, float]:
    """Return accuracy, rmse and loss of the photos with visits, without any record.

    Args: as in change_figures.

    Returns: of all photos of a bin together, and `single_...` of each photo alone.
    """
    with_visits = np.unique(visits.steps)
    if len(with_visits) == 0:
        return {}
    together = visit_posteriors(visits, weights, usual)[with_visits]
    alone = visits.probabilities[with_visits]
    return {
        f"{prefix}{name}": value
        for prefix, probabilities in (("", together), ("single_", alone))
        for name, value in count_figures(probabilities, true[with_visits], visits.counts).items()
        if name != "calibration_error"
    }


def count_figures(
    probabilities: np.ndarray, true: np.ndarray, counts: tuple[int, ...]
) -> dict[str, float]:
    """Return accuracy, rmse (items), loss (nats) and calibration_error of distributions.

    Args:
        probabilities: float (num_rows, num_counts), rows sum to 1.
        true: int (num_rows,), the column of the true count.
    """
    confidence = probabilities.max(axis=1)
    outcomes = count_outcomes(probabilities, true, counts)
    off = np.bincount(confidence_levels(confidence), weights=confidence - outcomes["accuracy"])
    return {
        "accuracy": float(outcomes["accuracy"].mean()),
        "rmse": float(np.sqrt(outcomes["squared_error"].mean())),
        "loss": float(outcomes["loss"].mean()),
        "calibration_error": float(np.abs(off).sum() / len(true)),
    }


def count_outcomes(
    probabilities: np.ndarray, true: np.ndarray, counts: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Return accuracy, squared_error and loss of each distribution, float (num_rows,).

    Args: as in count_figures.
    """
    of_true = probabilities[np.arange(len(true)), true]
    errors = mean_count(probabilities, counts) - np.asarray(counts, dtype=np.float64)[true]
    return {
        "accuracy": (probabilities.argmax(axis=1) == true).astype(np.float64),
        "squared_error": np.square(errors),
        "loss": -np.log(np.maximum(of_true, 1e-12)),
    }
