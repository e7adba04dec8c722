from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from auditing import evaluation
from auditing.decisions import Costs
from auditing.error_model import ErrorModel
from auditing.evaluation import (
    BUDGETS,
    COSTS,
    RIVALS,
    WRONG_SHARE,
    JudgedBins,
    evaluate_audit,
    ranking_figures,
    real_pairs,
    symmetric_errors,
)
from auditing.wrong_rate import WrongRate

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


def ways_of(savings: dict[str, Any], figure: str = "saved") -> dict[str, float]:
    return {way["name"]: way[figure]["value"] for way in savings["ways"]}


def test_a_model_that_knows_nothing_finds_as_much_as_chance_and_saves_no_more_than_without_it() -> (
    None
):
    calls: list[int] = []
    bins = judged_bins(0)
    found = evaluate_audit(bins, ErrorModel(), COSTS, lambda: calls.append(1), num_draws=20)
    assert len(calls) == 2 * 20
    kind = found["kinds"]["symmetric_errors"]
    # The record alone says a little: 1 and 5 have one neighbour.
    assert 0.4 < kind["area_under_curve"]["value"] < 0.6
    assert kind["rule_area_under_curve"]["value"] == pytest.approx(0.5, abs=0.08)
    for savings in kind["savings"]:
        audit, alone = (ways_of(savings)[name] for name in ("audit", "records alone"))
        assert audit == pytest.approx(alone, abs=60)


def test_what_is_saved_without_the_audit_is_plain_arithmetic() -> None:
    found = evaluate_audit(judged_bins(1.0), ErrorModel(), COSTS, lambda: None, num_draws=3)
    for kind in found["kinds"].values():
        num_wrong = round(WRONG_SHARE * kind["num_photos"])
        by_price = {of["cost_missed_error"]: of for of in kind["savings"]}
        assert set(by_price) == {20, 10, 5}
        for price, of in by_price.items():
            expected = 1000 * (price * num_wrong / kind["num_photos"] - 1)
            assert ways_of(of)["check all"] == pytest.approx(expected)
            assert ways_of(of)["check none"] == 0
            checked = ways_of(of, "checked")
            assert (checked["check all"], checked["check none"]) == (1, 0)
            rivals = max(ways_of(of)[name] for name in RIVALS)
            more = of["more_than_best_rival"]
            assert more["value"] == pytest.approx(ways_of(of)["audit"] - rivals)
            assert more["low"] <= more["value"] <= more["high"]
            assert ways_of(of)[of["best_rival"]] == rivals


def test_the_audit_is_not_told_how_many_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides by its own estimate, whatever share was made wrong."""
    bins = judged_bins(3, num_bins=600)
    decided = []
    for believed in (0.05, 0.2):
        monkeypatch.setattr(
            evaluation, "estimate_wrong_rate", lambda *_, value=believed: WrongRate(value, 0, 1)
        )
        found = evaluate_audit(bins, ErrorModel(), [Costs(20, 1)], lambda: None, num_draws=5)
        for kind in found["kinds"].values():
            assert kind["estimated_rate"]["value"] == pytest.approx(believed)
            assert set(kind["calibration_error_if_told"]) == {"0.1", "0.05", "0.2"}
            for figure in ("saved", "checked"):
                ways = ways_of(kind["savings"][0], figure)
                assert ways["audit"] == pytest.approx(ways[f"audit, told {believed:.0%}"])
            # Who believes in more errors checks more.
            checked = ways_of(kind["savings"][0], "checked")
            decided.append([checked[f"audit, told {rate}"] for rate in ("5%", "10%", "20%")])
    assert all(told == sorted(told) and told[0] < told[2] for told in decided)


@pytest.mark.slow
def test_a_model_that_knows_all_finds_all_and_saves_all() -> None:
    found = evaluate_audit(judged_bins(30), ErrorModel(), [Costs(20, 1)], lambda: None, 50)
    for kind in found["kinds"].values():
        by_budget = {row["budget"]: row for row in kind["budgets"]}
        assert by_budget[0.05]["precision"]["value"] == pytest.approx(1)
        assert by_budget[0.1]["found"]["value"] == pytest.approx(1)
        assert by_budget[0.2]["times_random"]["value"] == pytest.approx(5)
        assert kind["area_under_curve"]["value"] == pytest.approx(1)
        # 100 errors in 1,000 bins, of 20 each; the model is sure, so nothing is checked.
        (savings,) = kind["savings"]
        assert ways_of(savings)["audit"] == pytest.approx(2000, rel=0.01)
        assert ways_of(savings, "right_records_written_over")["audit"] == 0
        assert kind["calibration"]["expected_calibration_error"] < 0.01


@pytest.mark.slow
def test_intervals_hold_the_value_and_shrink_with_more_groups() -> None:
    widths = []
    for num_bins in (200, 1800):
        bins = judged_bins(0.7, num_bins)
        found = evaluate_audit(bins, ErrorModel(), COSTS, lambda: None, num_draws=50)
        at_20_percent = found["kinds"]["real_pairs"]["budgets"][BUDGETS.index(0.2)]
        figure = at_20_percent["times_random"]
        assert figure["low"] < figure["value"] < figure["high"]
        widths.append(figure["high"] - figure["low"])
    assert widths[1] < widths[0] / 2


def test_too_few_photos_are_refused() -> None:
    with pytest.raises(ValueError, match="only 8 test photos can get a record of real_pairs"):
        evaluate_audit(judged_bins(1.0, 8), ErrorModel(), COSTS, lambda: None)
