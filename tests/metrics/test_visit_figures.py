import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visit_figures import (
    OF_CHANGES,
    OF_VISITS,
    change_matrix,
    read_changes,
    rows_by_way,
    visit_outcomes,
    visits_of_run,
)

RESULTS = {
    "test_accuracy": 0.4,
    "test_change_loss": 0.7,
    "test_change_direction": 0.75,
    "test_change_count_accuracy": 0.756,
    "test_change_count_rmse": 0.5,
    "test_change_count_loss": 0.7,
    "test_change_calibration_error": 0.03,
    "test_change_direction_by_single_counts": 0.85,
    "test_change_direction_by_records": float("nan"),
    "test_change_count_rmse_by_records": 1,
    "test_visits_accuracy": 0.5,
    "test_visits_rmse": 0.87,
    "test_visits_single_accuracy": 0.37,
}
NO_VISITS = pa.table({"id": ["1"]})


def changes_table(*rows: tuple[str, str, int, int, int]) -> pa.Table:
    """Return a changes_test.parquet: ids, counts and the change that is most likely, of 1 to 3."""
    earlier, later, before, after, told = zip(*rows, strict=True)
    return pa.table(
        {
            "earlier_id": earlier,
            "later_id": later,
            "bin_group": earlier,
            "earlier_quantity": before,
            "later_quantity": after,
            **{f"probability_{c:+d}": [0.6 if c == t else 0.1 for t in told] for c in range(-2, 3)},
        }
    )


THREE = changes_table(("1", "2", 3, 1, -2), ("2", "4", 1, 2, 2), ("7", "8", 2, 3, 1))


def test_rivals_stand_beside_one_another_and_what_is_not_known_is_empty(tmp_path: Path) -> None:
    assert visits_of_run(tmp_path, RESULTS, NO_VISITS) is None  # an older run
    pq.write_table(THREE, tmp_path / "changes_test.parquet")
    figures = visits_of_run(tmp_path, RESULTS, NO_VISITS)
    assert figures is not None
    assert rows_by_way(figures["changes"], OF_CHANGES) == [
        ["both photos compared", "75.0", "75.6", "0.500", "0.700", "3.0"],
        ["each photo counted alone", "85.0", "", "", "", ""],
        ["records alone", "", "", "1.000", "", ""],
    ]
    assert rows_by_way(figures["visits"], OF_VISITS) == [
        ["all photos of its bin", "50.0", "0.870", ""],
        ["its own photo", "37.0", "", ""],
    ]
    assert (figures["num_pairs"], figures["num_groups"]) == (3, 3)
    assert figures["possible_changes"] == [-2, -1, 0, 1, 2]


def test_intervals_are_those_of_what_the_figures_are_means_of(tmp_path: Path) -> None:
    generator, rows = np.random.default_rng(0), 400
    table = changes_table(*((f"{n}", f"{n}b", 1, 2, 1) for n in range(rows)))
    right = generator.random(rows) < 0.75
    direction = np.where(np.arange(rows) % 2, np.nan, right)
    for name, values in {"direction": direction, "count_squared_error": 0.25 * right}.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "changes_test.parquet")
    figures = visits_of_run(tmp_path, RESULTS, NO_VISITS)
    assert figures is not None
    found = figures["changes"]["both photos compared"]
    # Of the half that has a direction, 200 pairs: 1.96 standard errors.
    half = 1.96 * np.sqrt(0.75 * 0.25 / 200)
    mean = right[::2].mean()
    assert found["direction"]["value"] == 0.75
    assert found["direction"]["low"] == pytest.approx(mean - half, abs=0.01)
    assert found["direction"]["high"] == pytest.approx(mean + half, abs=0.01)
    assert found["count_rmse"]["low"] == pytest.approx(0.5 * np.sqrt(right.mean()), abs=0.02)
    assert found["count_rmse"]["low"] < 0.5 * np.sqrt(right.mean()) < found["count_rmse"]["high"]
    assert found["count_loss"] == {"value": 0.7}


def test_recorded_changes_are_counted_against_those_that_are_told(tmp_path: Path) -> None:
    pq.write_table(THREE, tmp_path / "changes_test.parquet")
    changes = read_changes(tmp_path)
    assert changes is not None
    assert changes.ids.tolist() == [["1", "2"], ["2", "4"], ["7", "8"]]
    expected = np.zeros((5, 5), dtype=int)
    expected[0, 0] = expected[3, 4] = expected[3, 3] = 1
    assert (change_matrix(changes) == expected).all()


def test_what_train_writes_is_read_and_its_means_are_the_figures(run_dir: Path) -> None:
    results = json.loads((run_dir / "all_results.json").read_text())
    predictions = pq.read_table(run_dir / "predictions_test.parquet")
    figures = visits_of_run(run_dir, results, predictions)
    assert figures is not None
    for rows, num_ways, headings in (
        (rows_by_way(figures["changes"], OF_CHANGES), 3, OF_CHANGES),
        (rows_by_way(figures["visits"], OF_VISITS), 2, OF_VISITS),
    ):
        assert [len(row) for row in rows] == [1 + len(headings)] * num_ways
        assert all("[" in cell for row in rows for cell in row[1:4])
    changes = read_changes(run_dir)
    assert changes is not None
    assert np.sum(figures["change_matrix"]) == len(changes.ids) > 10
    told = {f"test_change_{name}": values for name, values in changes.outcomes.items()}
    told |= {f"test_visits_{name}": v for name, v in visit_outcomes(predictions)[1].items()}
    assert len(told) == 3 * 4 + 2 * 3
    for name, values in told.items():
        mean = np.nanmean(values) ** (0.5 if "rmse" in name else 1)
        assert mean == pytest.approx(results[name]), name


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda table: table.drop_columns(["later_id"]), "has no column later_id"),
        (lambda table: table.slice(0, 0), "no distributions over changes"),
        (lambda table: table.drop_columns(["probability_+0"]), "no distributions over changes"),
        (
            lambda table: table.set_column(3, "earlier_quantity", [[9, 9]]),
            "a recorded change has no probability",
        ),
    ],
)
def test_a_damaged_file_is_named(
    damage: Callable[[pa.Table], pa.Table], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "changes_test.parquet"
    pq.write_table(damage(changes_table(("1", "2", 3, 1, -2), ("3", "4", 1, 2, 1))), path)
    with pytest.raises(ValueError, match=told) as error:
        read_changes(tmp_path)
    assert str(path) in str(error.value)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is damaged"):
        read_changes(tmp_path)
