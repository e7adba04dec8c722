"""How well a model counts, as an `evaluate` metric: every figure in items or a share of the bins.

metric = evaluate.load("scripts/counting_metric")  # with scripts/ on sys.path, as in train.py
metric.compute(predictions=probabilities, references=expected_quantities, counts=(1, 2, 3, 4, 5))
"""

# One import a line: `evaluate` reads them to find what it must copy beside this file.
from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

from count_distribution import mean_count, median_count, mode_count

DESCRIPTION = "How well predicted distributions over counts match the number of items in a bin."
INPUTS = """
Args:
    predictions: float (num_bins, num_counts), probabilities; rows sum to 1.
    references: int (num_bins,), items.
    counts: what the columns of the predictions stand for, items, increasing.
Returns:
    accuracy: share of bins whose most likely count is right.
    within_one_accuracy: share of bins whose most likely count is at most one item off.
    mae, mae_mode: mean absolute error of the median and of the most likely count, items.
    rmse, rmse_mode: root of the mean squared error of the mean and of the most likely count, items.
    quadratic_weighted_kappa: agreement of the most likely count with the reference beyond chance.
    accuracy_K, rmse_K: the same over the bins that hold K items; only for counts that occur.
"""


class CountingMetric(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(
        self, predictions: Sequence, references: Sequence[int], counts: Sequence[int]
    ) -> dict[str, float]:
        probabilities = np.asarray(predictions, dtype=np.float64)
        expected = np.asarray(references)
        most_likely = mode_count(probabilities, counts)
        mean = mean_count(probabilities, counts)
        results = {
            "accuracy": np.mean(most_likely == expected),
            "within_one_accuracy": np.mean(np.abs(most_likely - expected) <= 1),
            "mae": np.mean(np.abs(median_count(probabilities, counts) - expected)),
            "mae_mode": np.mean(np.abs(most_likely - expected)),
            "rmse": _root_mean_square(mean - expected),
            "rmse_mode": _root_mean_square(most_likely - expected),
            "quadratic_weighted_kappa": _quadratic_weighted_kappa(most_likely, expected),
        }
        for count in np.unique(expected):
            chosen = expected == count
            results[f"accuracy_{count}"] = np.mean(most_likely[chosen] == count)
            results[f"rmse_{count}"] = _root_mean_square(mean[chosen] - count)
        return {name: float(value) for name, value in results.items()}


def _root_mean_square(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def _quadratic_weighted_kappa(predicted: np.ndarray, expected: np.ndarray) -> float:
    """Return 1 minus the squared disagreement over that of two independent raters.

    Source: Cohen, Weighted kappa, Psychological Bulletin 70 (1968). The squared disagreement of
    independent raters has a closed form: both variances and the squared distance of the means.
    """
    by_chance = predicted.var() + expected.var() + (predicted.mean() - expected.mean()) ** 2
    if by_chance == 0:  # one and the same count everywhere: agreement says nothing
        return 0.0
    return float(1 - np.mean(np.square(predicted - expected)) / by_chance)
