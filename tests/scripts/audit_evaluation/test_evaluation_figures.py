import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from audit_evaluation.figures import BUDGETS, ranking_figures


def test_areas_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    score = generator.integers(0, 6, size=200) / 5  # with ties
    is_wrong = generator.random(200) < 0.2
    weights = np.vstack([np.ones(200), generator.integers(0, 4, size=200)])
    _, area = ranking_figures(score, is_wrong, weights)
    for row, sample_weight in enumerate(weights):
        expected = roc_auc_score(is_wrong, score, sample_weight=sample_weight)
        assert area[row] == pytest.approx(expected)


def test_cases_of_one_score_are_checked_in_random_order() -> None:
    is_wrong = np.array([True] * 10 + [False] * 90)
    found, area = ranking_figures(np.zeros(100), is_wrong, np.ones((1, 100)))
    assert found[0] == pytest.approx(BUDGETS)
    assert area == pytest.approx([0.5])


def test_a_weight_of_two_is_a_case_twice() -> None:
    generator = np.random.default_rng(0)
    score, is_wrong = generator.random(50), generator.random(50) < 0.3
    weights = generator.integers(0, 3, size=50)
    weighted = ranking_figures(score, is_wrong, weights[None])
    repeated = ranking_figures(
        np.repeat(score, weights), np.repeat(is_wrong, weights), np.ones((1, weights.sum()))
    )
    assert weighted[0] == pytest.approx(repeated[0])
    assert weighted[1] == pytest.approx(repeated[1])
