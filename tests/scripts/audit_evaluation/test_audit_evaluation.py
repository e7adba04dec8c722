from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from audit_evaluation import evaluation
from audit_evaluation.cases import (
    BY_ERROR_MODEL,
    PHOTO,
    RECORDS,
    SINGLE_COUNTS,
    WRONG_SHARE,
    JudgedBins,
)
from audit_evaluation.evaluation import evaluate_audit
from audit_evaluation.figures import BUDGETS, COSTS, RIVALS
from audit_evaluation.kinds import cases_of
from auditing.decisions import Costs
from auditing.wrong_rate import WrongRate
from drawn_visits import drawn_visits
from visits.error_model import ErrorModel
from visits.settings import VisitModel

COUNTS = (1, 2, 3, 4, 5)
KNOWS_NOTHING = VisitModel(ErrorModel())
WITHOUT_VISITS = ("real_pairs", "symmetric_errors")


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


def evaluated(
    bins: JudgedBins,
    costs: Sequence[Costs],
    num_draws: int,
    names: Sequence[str] = WITHOUT_VISITS,
    model: VisitModel = KNOWS_NOTHING,
) -> dict[str, Any]:
    kinds = [cases for cases in cases_of(bins, model) if cases.name in names]
    assert len(kinds) == len(names)
    return evaluate_audit(bins, kinds, costs, lambda: None, num_draws)


def ways_of(savings: dict[str, Any], figure: str = "saved") -> dict[str, float]:
    return {way["name"]: way[figure]["value"] for way in savings["ways"]}


def test_a_model_that_knows_nothing_finds_as_much_as_chance_and_saves_no_more_than_without_it() -> (
    None
):
    calls: list[int] = []
    bins = judged_bins(0)
    kinds = cases_of(bins, KNOWS_NOTHING)[:2]
    found = evaluate_audit(bins, kinds, COSTS, lambda: calls.append(1), num_draws=20)
    assert len(calls) == 2 * 20
    kind = found["kinds"]["symmetric_errors"]
    # The record alone says a little: 1 and 5 have one neighbour.
    assert 0.4 < kind["area_under_curve"]["value"] < 0.6
    assert kind["rule_area_under_curve"]["value"] == pytest.approx(0.5, abs=0.08)
    for savings in kind["savings"]:
        audit, alone = (ways_of(savings)[name] for name in ("audit", "records alone"))
        assert audit == pytest.approx(alone, abs=60)


def test_what_is_saved_without_the_audit_is_plain_arithmetic() -> None:
    found = evaluated(judged_bins(1.0), COSTS, 3, (*WITHOUT_VISITS, "real_changes"))
    for kind in found["kinds"].values():
        num_wrong = round(WRONG_SHARE * kind["num_cases"])
        by_price = {of["cost_missed_error"]: of for of in kind["savings"]}
        assert set(by_price) == {20, 10, 5}
        for price, of in by_price.items():
            expected = 1000 * (price * num_wrong / kind["num_cases"] - 1)
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
        found = evaluated(bins, [Costs(20, 1)], 5)
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


def at_20_percent(judge: dict[str, Any]) -> dict[str, Any]:
    (row,) = (row for row in judge["budgets"] if row["budget"] == 0.2)
    return row


def test_who_sees_more_of_a_change_finds_more_wrong_records() -> None:
    bins, model = drawn_visits(1.5, 0.7, num_pairs=400)
    found = evaluated(bins, [Costs(20, 1)], 10, ("real_changes",), model)
    kind = found["kinds"]["real_changes"]
    assert (kind["num_cases"], kind["num_photos"], kind["num_groups"]) == (800, 800, 400)
    areas = {name: rival["area_under_curve"]["value"] for name, rival in kind["rivals"].items()}
    area = kind["area_under_curve"]["value"]
    assert area > areas[SINGLE_COUNTS] + 0.02 > areas[RECORDS] + 0.04
    assert area > areas[PHOTO] + 0.04
    # Who takes wrong records to come about otherwise than they do is told less by them.
    assert area > areas[BY_ERROR_MODEL] + 0.005
    # Few tell by the records alone, which are changes that occur.
    assert areas[RECORDS] < 0.7
    for name, rival in kind["rivals"].items():
        more = at_20_percent(rival)["audit_times_random_more"]
        ours, theirs = (at_20_percent(of)["times_random"]["value"] for of in (kind, rival))
        assert more["value"] == pytest.approx(ours - theirs)
        assert more["low"] <= more["value"] <= more["high"]
        assert rival["audit_area_more"]["value"] == pytest.approx(area - areas[name])


def test_what_is_known_of_a_change_is_worth_what_it_says() -> None:
    bins, model = drawn_visits(1.5, 0.7, num_pairs=800)
    kind = evaluated(bins, [Costs(20, 1)], 8, ("real_changes",), model)["kinds"]["real_changes"]
    assert kind["calibration_error_if_told"]["0.1"] < 0.01
    assert kind["calibration_error_if_told"]["0.2"] > 0.02
    assert kind["rivals"][SINGLE_COUNTS]["calibration_error_if_told"] < 0.01


@pytest.mark.slow
def test_a_model_that_knows_all_finds_all_and_saves_all() -> None:
    found = evaluated(judged_bins(30), [Costs(20, 1)], 50)
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
        found = evaluated(bins, COSTS, 50, ("real_pairs",))
        at_20_percent = found["kinds"]["real_pairs"]["budgets"][BUDGETS.index(0.2)]
        figure = at_20_percent["times_random"]
        assert figure["low"] < figure["value"] < figure["high"]
        widths.append(figure["high"] - figure["low"])
    assert widths[1] < widths[0] / 2
