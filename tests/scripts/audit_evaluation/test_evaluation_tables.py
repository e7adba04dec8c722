from typing import Any

from audit_evaluation.tables import evaluation_text


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def savings(price: float, saved: float, checked: float) -> dict[str, Any]:
    ways = [("audit", saved, checked), ("check all", 1000.0, 1.0)]
    return {
        "cost_missed_error": price,
        "cost_manual_check": 1.0,
        "ways": [
            {"name": name, "saved": figure(saved), "checked": figure(checked)}
            for name, saved, checked in ways
        ],
        "best_rival": "check all",
        "more_than_best_rival": figure(saved - 1000),
    }


KIND: dict[str, Any] = {
    "num_cases": 1234,
    "num_photos": 1234,
    "num_groups": 500,
    "estimated_rate": {"value": 0.08, "low": 0.03, "high": 0.14, "is_learned": 0.4},
    "budgets": [
        {
            "budget": 0.2,
            "found": figure(0.4),
            "precision": figure(0.2),
            "times_random": figure(2.0),
            "rule_times_random": figure(1.2),
        }
    ],
    "area_under_curve": figure(0.7),
    "rule_area_under_curve": figure(0.6),
    "calibration": {"expected_calibration_error": 0.021},
    "calibration_error_if_told": {"0.1": 0.01, "0.05": 0.05},
    "rivals": {},
    "savings": [savings(20.0, 1056.0, 0.883), savings(5.0, 12.0, 0.05)],
}


def test_the_tables_say_what_is_saved_beside_what_is_checked_and_what_rivals_save() -> None:
    text = evaluation_text({"wrong_share": 0.1, "kinds": {"real_pairs": KIND}})
    for line in (
        "Real pairs: 1,234 photos in 500 bin groups, 10% of the records wrong",
        "| 20% | 40.0 [30.0, 50.0] | 20.0 [10.0, 30.0] | 2.00 [1.90, 2.10] | 1.20 [1.10, 1.30] |",
        "Wrong records, as the audit takes: 8.0 [3.0, 14.0] %, learned in 40% of the draws.",
        "to be wrong: 2.1 %; 1.0 % if told 10%, 5.0 % if told 5%.",
        "| decided by | 20 to 1 | 5 to 1 |",
        "| audit | 1,056 [1,056, 1,056] (88%) | 12 [12, 12] (5%) |",
        "| check all | 1,000 [1,000, 1,000] (100%) | 1,000 [1,000, 1,000] (100%) |",
        "at 20 to 1 56 [56, 56] (check all); at 5 to 1 -988 [-988, -988] (check all).",
    ):
        assert line in text, line


def test_those_who_know_less_stand_beside_the_audit() -> None:
    rival = {
        "budgets": [
            {
                "budget": budget,
                "found": figure(found),
                "times_random": figure(found / budget),
                "audit_times_random_more": figure((0.8 - found) / budget),
            }
            for budget, found in ((0.1, 0.2), (0.2, 0.34))
        ],
        "area_under_curve": figure(0.6),
        "calibration_error_if_told": 0.034,
    }
    kind = KIND | {"num_photos": 771, "rivals": {"photo alone": rival}}
    kinds = {"real_pairs": KIND, "real_changes": kind}
    alone, text = evaluation_text({"wrong_share": 0.1, "kinds": kinds}).split("\nReal changes: ")
    assert "photo alone" not in alone
    assert text.startswith("1,234 cases of 771 photos in 500 bin groups")
    for line in (
        "| audit | 40.0 [30.0, 50.0] | 2.00 [1.90, 2.10] |  | 0.700 [0.600, 0.800] | 1.0 |",
        "| photo alone | 34.0 [24.0, 44.0] | 1.70 [1.60, 1.80] | 2.30 [2.20, 2.40] "
        "| 0.600 [0.500, 0.700] | 3.4 |",
    ):
        assert line in text, line
