"""The figures of changes, against what can be said of them by hand."""

import numpy as np
import pytest

from visits.chain import ChainWeights, Visits
from visits.measures import change_figures, pair_outcomes

COUNTS = (1, 2, 3)
USUAL = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
ALIKE = np.full(3, 1 / 3)
# From 1 to 2 and on to 2; the changes -2 to 2 are told, the photos alone say nothing.
VISITS = Visits(
    probabilities=np.array([ALIKE, ALIKE, ALIKE]),
    steps=np.array([[0, 1], [1, 2]]),
    changes=np.array([[0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]]),
    counts=COUNTS,
)
TRUE = np.array([0, 1, 1])
WEIGHTS = (ChainWeights(1, 1, 0), ChainWeights(1, 0, 1))


def test_each_pair_is_told_or_not_by_each_way() -> None:
    outcomes = pair_outcomes(VISITS, TRUE, USUAL, *WEIGHTS)
    # No direction where both visits found the same; half of one where nothing tells it.
    assert outcomes["direction"].tolist() == pytest.approx([1, np.nan], nan_ok=True)
    assert outcomes["direction_by_records"].tolist() == pytest.approx([0.5, np.nan], nan_ok=True)
    assert outcomes["count_accuracy"].tolist() == [1, 1]
    assert outcomes["count_squared_error"] == pytest.approx([0, 0], abs=1e-9)
    # Given 1, records say 2 or 3: its mean is half an item off, and its probability a half. Given
    # 2, they say 1 or 3: one item off. That nothing changed they hold for impossible.
    assert outcomes["count_squared_error_by_records"][0] == pytest.approx((0.25 + 1) / 2)
    assert outcomes["count_loss_by_records"][0] == pytest.approx(np.log(2))
    assert outcomes["count_accuracy_by_records"][1] == 0
    assert outcomes["count_loss_by_records"][1] > 20


def test_the_figures_are_means_of_what_each_pair_adds() -> None:
    generator = np.random.default_rng(0)
    visits = Visits(
        generator.dirichlet(np.ones(3), size=40),
        np.array([[row, row + 1] for row in range(0, 40, 2)]),
        generator.dirichlet(np.ones(5), size=20),
        COUNTS,
    )
    true = generator.integers(3, size=40)
    figures = change_figures(visits, true, USUAL, *WEIGHTS)
    outcomes = pair_outcomes(visits, true, USUAL, *WEIGHTS)
    assert {name.replace("squared_error", "rmse") for name in outcomes} == {
        name for name in figures if "calibration" not in name
    }
    for name, values in outcomes.items():
        root = 0.5 if "squared_error" in name else 1
        mean = np.nanmean(values) ** root
        assert figures[name.replace("squared_error", "rmse")] == pytest.approx(mean), name
