import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from auditing.decisions import Costs
from auditing.error_model import ErrorModel
from auditing.evaluation import (
    BUDGETS,
    NUM_DRAWS,
    WRONG_SHARE,
    JudgedBins,
    evaluate_audit,
    ranking_figures,
    real_pairs,
    symmetric_errors,
)

COUNTS = (1, 2, 3, 4, 5)


def judged_bins(sharpness: float, num_bins: int = 300) -> JudgedBins:
    """Bins in pairs of before and after; 0 knows nothing, a large sharpness everything."""
    generator = np.random.default_rng(0)
    first = generator.integers(1, 5, size=num_bins // 2)
    true = np.column_stack([first, first - 1]).ravel()
    distance = np.abs(np.arange(5) - true[:, None])
    weights = np.exp(-sharpness * distance + generator.normal(size=(num_bins, 5)) * (sharpness > 0))
    return JudgedBins(
        ids=[f"{row:05d}" for row in range(num_bins)],
        groups=[f"{row - row % 2:05d}" for row in range(num_bins)],
        true=true,
        probabilities=weights / weights.sum(axis=1, keepdims=True),
        counts=COUNTS,
    )


def test_a_wrong_record_of_a_pair_is_that_of_the_other_state() -> None:
    bins = JudgedBins(
        ids=["1", "2", "3", "7", "8", "9"],
        groups=["1", "1", "1", "7", "8", None],
        true=np.array([0, 2, 4, 1, 3, 3]),
        probabilities=np.full((6, 5), 0.2),
        counts=COUNTS,
    )
    cases = real_pairs(bins)
    assert cases.rows.tolist() == [0, 1, 2]
    assert [sorted(columns.tolist()) for columns in cases.wrong_records] == [[2], [0, 4], [2]]


def test_symmetric_errors_stay_among_the_counts() -> None:
    cases = symmetric_errors(judged_bins(1.0))
    assert len(cases.rows) == 300
    for row, columns in zip(cases.rows, cases.wrong_records, strict=True):
        true = judged_bins(1.0).true[row]
        assert sorted(columns) == [c for c in (true - 1, true + 1) if 0 <= c <= 4]


def test_a_tenth_of_the_records_is_wrong_in_each_draw() -> None:
    bins = judged_bins(1.0)
    cases = real_pairs(bins)
    generator = np.random.default_rng(0)
    draws = [cases.draw(bins.true, generator) for _ in range(20)]
    for recorded in draws:
        wrong = np.flatnonzero(recorded != bins.true[cases.rows])
        assert len(wrong) == round(WRONG_SHARE * len(cases.rows))
        assert all(recorded[case] in cases.wrong_records[case] for case in wrong)
    assert len({tuple(recorded) for recorded in draws}) == 20


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


def test_a_model_that_knows_nothing_finds_as_much_as_chance() -> None:
    calls: list[int] = []
    found = evaluate_audit(judged_bins(0), ErrorModel(), Costs(20, 1), lambda: calls.append(1))
    assert len(calls) == 2 * NUM_DRAWS
    kind = found["kinds"]["symmetric_errors"]
    # The record alone says a little: 1 and 5 have one neighbour.
    assert 0.4 < kind["area_under_curve"]["value"] < 0.6
    assert kind["rule_area_under_curve"]["value"] == pytest.approx(0.5, abs=0.08)


@pytest.mark.slow
def test_a_model_that_knows_all_finds_all_and_saves_all() -> None:
    found = evaluate_audit(judged_bins(30), ErrorModel(), Costs(20, 1), lambda: None)
    for kind in found["kinds"].values():
        by_budget = {row["budget"]: row for row in kind["budgets"]}
        assert by_budget[0.05]["precision"]["value"] == pytest.approx(1)
        assert by_budget[0.1]["found"]["value"] == pytest.approx(1)
        assert by_budget[0.2]["times_random"]["value"] == pytest.approx(5)
        assert kind["area_under_curve"]["value"] == pytest.approx(1)
        # 100 errors in 1,000 bins, of 20 each; the model is sure, so nothing is checked.
        assert kind["savings"]["saved"]["value"] == pytest.approx(2000, rel=0.01)
        assert kind["calibration"]["expected_calibration_error"] < 0.01


@pytest.mark.slow
def test_intervals_hold_the_value_and_shrink_with_more_groups() -> None:
    widths = []
    for num_bins in (200, 1800):
        found = evaluate_audit(judged_bins(0.7, num_bins), ErrorModel(), None, lambda: None)
        at_20_percent = found["kinds"]["real_pairs"]["budgets"][BUDGETS.index(0.2)]
        figure = at_20_percent["times_random"]
        assert figure["low"] < figure["value"] < figure["high"]
        widths.append(figure["high"] - figure["low"])
        assert found["kinds"]["real_pairs"]["savings"] is None
    assert widths[1] < widths[0] / 2


def test_too_few_photos_are_refused() -> None:
    with pytest.raises(ValueError, match="only 8 test photos can get a record of real_pairs"):
        evaluate_audit(judged_bins(1.0, 8), ErrorModel(), None, lambda: None)
