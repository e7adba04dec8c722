import re

import numpy as np
import pyarrow as pa

from visits_over_seeds import change_table, single_table, visit_table

GROUPS = ["a", "a", "b", "b", "c", "d"]
EXPECTED = np.array([1, 2, 2, 3, 1, 3])


def predictions(counted: list[int], together: list[int | None]) -> pa.Table:
    """Return predictions that are sure, of a photo alone and of all photos of its bin."""
    columns: dict[str, list[float | None]] = {}
    for count in (1, 2, 3):
        columns[f"probability_{count}"] = [float(of == count) for of in counted]
        columns[f"visits_probability_{count}"] = [
            None if of is None else float(of == count) for of in together
        ]
    return pa.table({"bin_group": GROUPS, "expected_quantity": EXPECTED, **columns})


def changes(**outcomes: list[float]) -> pa.Table:
    ways = ("", "_by_single_counts", "_by_records")
    names = ("direction", "count_accuracy", "count_squared_error", "count_loss")
    columns = {f"{name}{way}": [0.5] * 3 for name in names for way in ways}
    return pa.table({"bin_group": ["a", "b", "b"], **columns, **outcomes})


def values(table: str, row: int) -> list[float]:
    """Return a row's figures without their intervals."""
    cells = table.splitlines()[2 + row].split("|")[2:-1]
    return [float(re.findall(r"[-+]?\d+\.\d+", cell)[0]) for cell in cells]


def test_figures_are_means_over_the_seeds_and_an_rmse_is_each_seeds_own() -> None:
    alone = [1, 2, 2, 3, 1, 1]  # the last is two items off
    together: list[int | None] = [1, 2, 2, 3, None, None]
    right, wrong = predictions(alone, together), predictions([3] * 6, [2] * 4 + [None] * 2)
    table = single_table([right, wrong], [wrong, wrong])
    assert values(table, 0) == [round(100 * (5 / 6 + 2 / 6) / 2, 1), 33.3, 25.0]
    of_right, of_wrong = np.sqrt(4 / 6), np.sqrt((4 + 1 + 1 + 0 + 4 + 0) / 6)
    assert np.allclose(values(table, 1)[:2], [(of_right + of_wrong) / 2, of_wrong], atol=6e-4)


def test_photos_without_another_visit_are_left_out_of_what_visits_say() -> None:
    table = visit_table([predictions([1, 2, 2, 3, 3, 1], [1, 2, 2, 2, None, None])])
    assert values(table, 0) == [75.0, 100.0, -25.0]


def test_visits_that_found_the_same_have_no_direction_and_a_count() -> None:
    known = changes(
        direction=[1.0, np.nan, 1.0],
        direction_by_single_counts=[1.0, np.nan, 0.0],
        direction_by_records=[0.5, np.nan, 0.5],
        count_accuracy=[1.0, 0.0, 0.0],
    )
    table = change_table([known])
    assert values(table, 0) == [100.0, 50.0, 50.0, 50.0]
    assert values(table, 1)[0] == 33.3


def test_an_interval_is_of_whole_bin_groups() -> None:
    one_group_right = changes(count_accuracy=[0.0, 1.0, 1.0])
    cell = change_table([one_group_right]).splitlines()[3].split("|")[2]
    # Of two groups drawn both may be the same one.
    assert cell.split() == ["66.7", "[0.0,", "100.0]"]
