"""What predictions say of a model: errors by count, honesty of its probabilities, what it is worth
to leave the unsure bins to a person. Pure functions on arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from compare_runs import known_groups
from group_bootstrap import bootstrap_means

NUM_CONFIDENCE_BINS = 10
NUM_CURVE_POINTS = 200


@dataclass(frozen=True)
class Evaluation:
    """The predictions of a test split.

    Args:
        ids: (num_bins,), str.
        group: (num_bins,), the name of each bin's group.
        expected: int (num_bins,), items.
        counts: int (num_counts,), what the columns of `probabilities` stand for, items.
        probabilities: float (num_bins, num_counts); rows sum to 1.
    """

    ids: np.ndarray
    group: np.ndarray
    expected: np.ndarray
    counts: np.ndarray
    probabilities: np.ndarray

    @property
    def most_likely(self) -> np.ndarray:
        """(num_bins,), items."""
        return self.counts[self.probabilities.argmax(axis=1)]

    @property
    def is_right(self) -> np.ndarray:
        """Bool (num_bins,)."""
        return self.most_likely == self.expected

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most likely count, (num_bins,)."""
        return self.probabilities.max(axis=1)

    @property
    def squared_error(self) -> np.ndarray:
        """Of the mean, items squared, (num_bins,)."""
        return (self.probabilities @ self.counts - self.expected) ** 2

    @property
    def expected_probability(self) -> np.ndarray:
        """What the model gives to the count that the inventory expects, (num_bins,)."""
        columns = np.searchsorted(self.counts, self.expected)
        return self.probabilities[np.arange(len(self.expected)), columns]

    @property
    def negative_log_likelihood(self) -> np.ndarray:
        """Of the count that the inventory expects, nats, (num_bins,)."""
        return -np.log(np.maximum(self.expected_probability, 1e-300))


def read_evaluation(table: pa.Table) -> Evaluation:
    """Turn a predictions_test.parquet into arrays.

    Raises: ValueError: rows are no distributions.
    """
    names = [name for name in table.column_names if name.startswith("probability_")]
    probabilities = np.column_stack([table[name].to_numpy() for name in names])
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-4):
        raise ValueError("the probabilities of a row do not sum to 1")
    return Evaluation(
        ids=np.array(table["id"].to_pylist()),
        group=known_groups(table),
        expected=table["expected_quantity"].to_numpy(),
        counts=np.array([int(name.removeprefix("probability_")) for name in names]),
        probabilities=probabilities,
    )


def confusion_matrix(evaluation: Evaluation) -> np.ndarray:
    """Return how often each expected count (rows) was taken for each count (columns)."""
    size = len(evaluation.counts)
    matrix = np.zeros((size, size), dtype=int)
    rows = np.searchsorted(evaluation.counts, evaluation.expected)
    np.add.at(matrix, (rows, evaluation.probabilities.argmax(axis=1)), 1)
    return matrix


def with_intervals(
    group: np.ndarray, columns: dict[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return means with their 95 % bootstrap intervals over bin groups.

    Args:
        columns: (num_bins,) each. Of `rmse`, squared errors, the root is taken.
    """
    mean, drawn = bootstrap_means(group, np.column_stack(list(columns.values())).astype(float))
    figures = {}
    for index, name in enumerate(columns):
        values = np.array([mean[index], *np.percentile(drawn[:, index], [2.5, 97.5])])
        values = values**0.5 if name == "rmse" else values
        figures[name] = dict(zip(("value", "low", "high"), values.tolist(), strict=True))
    return figures


def overall(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Return the figures of the whole split, each with its interval."""
    columns = {
        "accuracy": evaluation.is_right,
        "within_one_accuracy": np.abs(evaluation.most_likely - evaluation.expected) <= 1,
        "mae": np.abs(median_count(evaluation) - evaluation.expected),
        "rmse": evaluation.squared_error,
        "negative_log_likelihood": evaluation.negative_log_likelihood,
    }
    return with_intervals(evaluation.group, columns)


def median_count(evaluation: Evaluation) -> np.ndarray:
    """Return the median of each distribution, items, (num_bins,)."""
    cumulative = evaluation.probabilities.cumsum(axis=1)
    return evaluation.counts[(cumulative >= cumulative[:, -1:] / 2).argmax(axis=1)]


def by_key(evaluation: Evaluation, key: np.ndarray) -> list[dict[str, Any]]:
    """Return accuracy and RMSE, with intervals, for each value of a key.

    Args:
        key: int (num_bins,), such as the expected count or the number of distinct items.
    """
    rows = []
    for value in np.unique(key):
        chosen = key == value
        columns = {
            "accuracy": evaluation.is_right[chosen],
            "rmse": evaluation.squared_error[chosen],
        }
        intervals = with_intervals(evaluation.group[chosen], columns)
        rows.append({"key": int(value), "num_bins": int(chosen.sum()), **intervals})
    return rows


def reliability(evaluation: Evaluation) -> tuple[list[dict[str, float]], float]:
    """Return what each level of confidence is worth, and the expected calibration error.

    The error is the mean over bins of photos, weighted by their number, of the distance between
    confidence and accuracy. Source: Naeini et al., Obtaining well calibrated probabilities using
    Bayesian binning, AAAI 2015.

    Returns: a row for each level that occurs (low, high, num_bins, confidence, accuracy), and the
        error as a share.
    """
    edges = np.linspace(0, 1, NUM_CONFIDENCE_BINS + 1)
    level = np.clip(np.digitize(evaluation.confidence, edges[1:-1]), 0, NUM_CONFIDENCE_BINS - 1)
    rows, error = [], 0.0
    for index in np.unique(level):
        chosen = level == index
        confidence = float(evaluation.confidence[chosen].mean())
        accuracy = float(evaluation.is_right[chosen].mean())
        error += chosen.mean() * abs(confidence - accuracy)
        rows.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "num_bins": int(chosen.sum()),
                "confidence": confidence,
                "accuracy": accuracy,
            }
        )
    return rows, float(error)


def risk_coverage(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the share of wrong answers among the surest photos, for each share of photos.

    Returns: coverage and risk, float (num_bins,), and the area under the curve. Photos of equal
        confidence come in one step, so that the order of rows does not matter.
    """
    order = np.argsort(-evaluation.confidence, kind="stable")
    confidence = evaluation.confidence[order]
    wrong = np.cumsum(~evaluation.is_right[order])
    answered = np.arange(1, len(order) + 1)
    is_last = np.append(confidence[1:] != confidence[:-1], True)
    coverage, risk = answered[is_last] / len(order), wrong[is_last] / answered[is_last]
    area = float(np.sum(np.diff(coverage, prepend=0.0) * risk))
    return coverage, risk, area


def worst_errors(evaluation: Evaluation, number: int) -> np.ndarray:
    """Return the rows where the model was surest of a wrong count, the surest first."""
    wrong = np.flatnonzero(~evaluation.is_right)
    order = np.lexsort((evaluation.ids[wrong], -evaluation.confidence[wrong]))
    return wrong[order][:number]


def figures(evaluation: Evaluation, distinct_items: Sequence[int] | None) -> dict[str, Any]:
    """Return everything above as one JSON-ready dictionary.

    Args:
        distinct_items: (num_bins,), how many different items each bin holds; None where no dataset
            is at hand.
    """
    levels, calibration_error = reliability(evaluation)
    coverage, risk, area = risk_coverage(evaluation)
    shown = np.unique(np.linspace(0, len(coverage) - 1, NUM_CURVE_POINTS).astype(int))
    return {
        "num_bins": len(evaluation.ids),
        "num_groups": len(np.unique(evaluation.group)),
        "counts": evaluation.counts.tolist(),
        "overall": overall(evaluation),
        "confusion_matrix": confusion_matrix(evaluation).tolist(),
        "by_count": by_key(evaluation, evaluation.expected),
        "by_distinct_items": (
            None if distinct_items is None else by_key(evaluation, np.asarray(distinct_items))
        ),
        "reliability": levels,
        "expected_calibration_error": calibration_error,
        "risk_coverage": {
            "area": area,
            "coverage": coverage[shown].tolist(),
            "risk": risk[shown].tolist(),
        },
    }
