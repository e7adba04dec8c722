import re
from typing import Any

import pyarrow as pa

from items_over_seeds import KINDS, SIZES, audit_table, error_table, size_table


def predictions(told: list[float], spread: float) -> pa.Table:
    """Return predictions of photos of sizes 1 to 4, six of each, and of six that are not known."""
    recorded = [1.0, 2.0, 3.0, 4.0, None] * 6
    columns: dict[str, Any] = {}
    for name in SIZES:
        columns[f"items_{name}_recorded"] = recorded
        columns[f"items_{name}"] = told * 6
        columns[f"items_{name}_spread"] = [spread] * 30
    return pa.table({"bin_group": [str(row) for row in range(30)], **columns})


def test_the_share_of_the_variance_is_that_of_the_mean_error_of_the_seeds() -> None:
    exact = predictions([1, 2, 3, 4, 9], spread=1.0)
    usual = predictions([2.5] * 5, spread=0.5)
    rows = size_table([exact, usual]).splitlines()[2:]
    assert len(rows) == len(SIZES)
    for row in rows:
        r2, covered = (float(re.findall(r"\d+\.\d+", cell)[0]) for cell in row.split("|")[2:4])
        assert r2 == 0.5
        # Of the second seed those that are off by 0.5 are within 0.82, those by 1.5 are not.
        assert covered == 75.0


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def test_each_seed_has_a_column_and_each_judge_a_row() -> None:
    def found(value: float) -> dict[str, object]:
        budgets = [{"budget": 0.1, "times_random": None}]
        budgets += [{"budget": 0.2, "times_random": interval(value)}]  # type: ignore[dict-item]
        return {"budgets": budgets, "area_under_curve": interval(value / 5)}

    kind = {
        **found(2.5),
        "calibration": {"expected_calibration_error": 0.02},
        "calibration_error_if_told": {"0.1": 0.013},
        "rivals": {"photo alone": found(2.0)},
    }
    rows = audit_table({seed: {"kinds": dict.fromkeys(KINDS, kind)} for seed in (42, 43)})
    audit, alone, errors, *others = rows.splitlines()[2:]
    assert len(others) == 6
    cell = "2.50 [2.40, 2.60]; 0.500 [0.400, 0.600]"
    assert audit == f"| real pairs with items | the audit | {cell} | {cell} |"
    assert alone.startswith("| real pairs with items | photo alone | 2.00")
    assert errors.endswith("| 2.0; 1.3 | 2.0; 1.3 |")


def test_by_size_there_is_the_mean_of_the_seeds_between_the_ends_of_their_intervals() -> None:
    def of_seed(value: float) -> dict[str, object]:
        judges = {"photo alone": {"found": interval(value)}}
        sizes = [
            {"low": low, "high": low + 9, "num_records": 3, "judges": judges} for low in (0, 10)
        ]
        return {"name": "missing", "num_records": 6, "judges": judges, "sizes": sizes}

    rows = error_table({s: {"item_errors": [of_seed(v)]} for s, v in ((42, 0.2), (43, 0.4))})
    assert rows.splitlines()[2:] == [
        "| missing | 0 to 9 | 3 | 30 [10, 50] |",
        "| missing | 10 to 19 | 3 | 30 [10, 50] |",
        "| missing | all | 6 | 30 [10, 50] |",
    ]
