import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, root_mean_squared_error

from paths import ROOT

COUNTS = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def metric() -> evaluate.EvaluationModule:
    return evaluate.load(str(ROOT / "scripts" / "counting_metric"))


def one_hot(counts: list[int]) -> np.ndarray:
    return np.eye(5)[np.array(counts) - 1]


def test_errors_are_in_items(metric: evaluate.EvaluationModule) -> None:
    results = metric.compute(
        predictions=one_hot([1, 2, 5, 4]), references=[1, 3, 2, 4], counts=COUNTS
    )
    assert results["accuracy"] == 0.5
    assert results["within_one_accuracy"] == 0.75
    assert results["mae"] == results["mae_mode"] == 1.0
    assert results["rmse"] == results["rmse_mode"] == pytest.approx((10 / 4) ** 0.5)
    assert (results["accuracy_1"], results["accuracy_2"], results["accuracy_4"]) == (1, 0, 1)
    assert (results["rmse_1"], results["rmse_2"], results["rmse_3"]) == (0, 3, 1)


def test_the_whole_distribution_counts_not_only_its_mode(
    metric: evaluate.EvaluationModule,
) -> None:
    probabilities = [[0.4, 0.0, 0.0, 0.3, 0.3]]
    results = metric.compute(predictions=probabilities, references=[4], counts=COUNTS)
    assert results["mae_mode"] == 3  # the mode is 1
    assert results["mae"] == 0  # the median is 4
    assert results["rmse"] == pytest.approx(4 - 3.1)  # the mean is 3.1


def test_figures_agree_with_those_of_scikit_learn(metric: evaluate.EvaluationModule) -> None:
    generator = np.random.default_rng(0)
    expected = generator.integers(1, 6, 400)
    probabilities = generator.dirichlet([0.4] * 5, size=400) / 2 + one_hot(list(expected)) / 4
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1) + 1
    results = metric.compute(predictions=probabilities, references=expected, counts=COUNTS)
    kappa = cohen_kappa_score(expected, predicted, weights="quadratic")
    assert results["quadratic_weighted_kappa"] == pytest.approx(kappa)
    assert results["accuracy"] == accuracy_score(expected, predicted)
    assert results["rmse_mode"] == pytest.approx(root_mean_squared_error(expected, predicted))


def test_counts_may_start_at_zero(metric: evaluate.EvaluationModule) -> None:
    results = metric.compute(predictions=[[0.1, 0.9]], references=[0], counts=(0, 1))
    assert results["mae_mode"] == 1
    assert results["accuracy_0"] == 0


def test_one_count_everywhere_has_no_agreement_beyond_chance(
    metric: evaluate.EvaluationModule,
) -> None:
    results = metric.compute(predictions=one_hot([3, 3]), references=[3, 3], counts=COUNTS)
    assert results["quadratic_weighted_kappa"] == 0
