import re
from typing import Any

import pyarrow as pa

from items_over_seeds import SIZES, audit_table, size_table


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


def test_each_seed_has_a_row_with_items_and_one_without() -> None:
    def found(value: float) -> dict[str, object]:
        figure = dict.fromkeys(("value", "low", "high"), value)
        budgets = [{"budget": 0.1, "times_random": None}, {"budget": 0.2, "times_random": figure}]
        return {"budgets": budgets, "area_under_curve": figure}

    kind = {
        **found(2.5),
        "calibration_error_if_told": {"0.1": 0.013},
        "rivals": {"photo alone": {**found(2.0), "calibration_error_if_told": 0.009}},
    }
    rows = audit_table({42: kind}).splitlines()[2:]
    assert rows[0] == "| 42 | photo and items | 2.50 [2.50, 2.50] | 2.500 [2.500, 2.500] | 1.3 |"
    assert rows[1].startswith("| 42 | photo alone | 2.00")
    assert rows[1].endswith("| 0.9 |")
