"""What a run says of the visits of a bin: its figures beside those of rivals, and its changes.

The figures are those that scripts/train.py measured (test_change_*, test_visits_*); what they are
means of, for their intervals, lies beside its predictions. Runs without a change head have none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from group_bootstrap import bootstrap_means

CHANGES = "changes_test.parquet"
COLUMNS = {"earlier_id", "later_id", "bin_group", "earlier_quantity", "later_quantity"}
# What a change is told by, or a visit counted from; and how train.py names it.
TOLD_BY = {
    "both photos compared": "{}",
    "each photo counted alone": "{}_by_single_counts",
    "records alone": "{}_by_records",
}
COUNTED_FROM = {"all photos of its bin": "{}", "its own photo": "single_{}"}
# Each with its heading.
OF_CHANGES = {
    "direction": "direction %",
    "count_accuracy": "count %",
    "count_rmse": "RMSE",
    "count_loss": "nats",
    "calibration_error": "calibration error %",
}
OF_VISITS = {"accuracy": "accuracy %", "rmse": "RMSE", "loss": "nats"}
ABOUT_CHANGES = (
    "Which of two visits of a bin found more (direction), and what one of them found, given what "
    "the other did (count). Few of these pairs, or none, found the same: how well an unchanged bin "
    "is told is not measured."
)
ABOUT_VISITS = "Photos of bins with a visit before or after, counted without any record."


@dataclass(frozen=True)
class Changes:
    """What two photos say of each two visits that follow each other.

    Args:
        ids: (num_pairs, 2), str, the earlier visit first.
        group: (num_pairs,), the name of the bin's group.
        counts: int (num_pairs, 2), items, as recorded.
        changes: int (num_changes,), what the columns of `probabilities` stand for, items.
        probabilities: float (num_pairs, num_changes); rows sum to 1.
        outcomes: (num_pairs,) each: what the figures of changes are means of, under their names;
            the squared errors under those of the RMSE, NaN where there is no direction.
    """

    ids: np.ndarray
    group: np.ndarray
    counts: np.ndarray
    changes: np.ndarray
    probabilities: np.ndarray
    outcomes: Mapping[str, np.ndarray]

    @property
    def true_column(self) -> np.ndarray:
        """Which of `changes` is the recorded one, int (num_pairs,)."""
        return np.searchsorted(self.changes, self.counts[:, 1] - self.counts[:, 0])


def read_changes(run_dir: Path) -> Changes | None:
    """Return what a run says of the changes in its test split, None where it says nothing.

    Raises: ValueError: the file is damaged, with its path and the reason.
    """
    path = run_dir / CHANGES
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    names = [name for name in table.column_names if name.startswith("probability_")]
    if missing := COLUMNS - set(table.column_names):
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}.")
    probabilities = np.array([table[name].to_pylist() for name in names], dtype=float).T
    if not (table.num_rows and names and np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)):
        raise ValueError(f"{path} is damaged: it holds no distributions over changes")
    changes = Changes(
        ids=np.column_stack([table["earlier_id"].to_pylist(), table["later_id"].to_pylist()]),
        group=np.array(table["bin_group"].to_pylist(), dtype=str),
        counts=np.column_stack([table["earlier_quantity"], table["later_quantity"]]),
        changes=np.array([int(name.removeprefix("probability_")) for name in names]),
        probabilities=probabilities,
        outcomes={
            name.replace("squared_error", "rmse"): table[name].to_numpy()
            for name in table.column_names
            if name.startswith(("direction", "count_"))
        },
    )
    recorded = changes.counts[:, 1] - changes.counts[:, 0]
    if not (np.diff(changes.changes) > 0).all() or not np.isin(recorded, changes.changes).all():
        raise ValueError(f"{path} is damaged: a recorded change has no probability")
    return changes


def change_matrix(changes: Changes) -> np.ndarray:
    """Return how often each recorded change (rows) was taken for each change (columns)."""
    matrix = np.zeros((len(changes.changes),) * 2, dtype=int)
    np.add.at(matrix, (changes.true_column, changes.probabilities.argmax(axis=1)), 1)
    return matrix


def visits_of_run(
    run_dir: Path, results: Mapping[str, Any], predictions: pa.Table
) -> dict[str, Any] | None:
    """Return the figures of changes and visits, JSON-ready; None where a run has none.

    Args:
        results: all_results.json of the run.
        predictions: its predictions_test.parquet.

    Returns: `changes` and `visits`: for each of TOLD_BY or COUNTED_FROM that was measured its
        OF_CHANGES or OF_VISITS: the value and, where it is a mean, the ends of its 95 % interval
        over bin groups; the number of pairs and their groups, and the matrix of the changes.

    Raises: ValueError: a file is damaged.
    """
    changes = read_changes(run_dir)
    if changes is None:
        return None
    group, outcomes = visit_outcomes(predictions)
    return {
        "num_pairs": len(changes.ids),
        "num_groups": len(np.unique(changes.group)),
        "changes": _by_way(
            results,
            ("test_change_", TOLD_BY, OF_CHANGES),
            _intervals(changes.group, changes.outcomes),
        ),
        "visits": _by_way(
            results, ("test_visits_", COUNTED_FROM, OF_VISITS), _intervals(group, outcomes)
        ),
        "possible_changes": changes.changes.tolist(),
        "change_matrix": change_matrix(changes).tolist(),
    }


def visit_outcomes(predictions: pa.Table) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return what the figures of the photos with other visits are means of.

    Args:
        predictions: predictions_test.parquet, with columns visits_probability_* that are null for a
            photo without other visits.

    Returns: the bin group of each, (num_visits,); (num_visits,) each: accuracy, rmse (squared
        errors) and loss, and single_... of the photo alone. Nothing where there are no such photos.
    """
    prefix = "visits_probability_"
    names = [name for name in predictions.column_names if name.startswith(prefix)]
    if not names:
        return np.array([]), {}
    visits = predictions.filter(pc.is_valid(predictions[names[0]]))
    counts = np.array([int(name.removeprefix(prefix)) for name in names])
    expected = visits["expected_quantity"].to_numpy()
    columns = np.searchsorted(counts, expected)
    outcomes: dict[str, np.ndarray] = {}
    for form, kind in (("{}", prefix), ("single_{}", "probability_")):
        probabilities = np.column_stack([visits[f"{kind}{count}"].to_numpy() for count in counts])
        of_true = probabilities[np.arange(len(expected)), columns]
        outcomes |= {
            form.format("accuracy"): counts[probabilities.argmax(axis=1)] == expected,
            form.format("rmse"): (probabilities @ counts - expected) ** 2,
            form.format("loss"): -np.log(np.maximum(of_true, 1e-12)),
        }
    return np.array(visits["bin_group"].to_pylist(), dtype=str), outcomes


def _intervals(
    group: np.ndarray, outcomes: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """Return the ends of the 95 % interval of each mean, and of the root of each that is an RMSE.

    Args:
        outcomes: (num_rows,) each; rows that are NaN do not count.
    """
    ends = {}
    for is_partial in (False, True):
        chosen = {n: v for n, v in outcomes.items() if bool(np.isnan(v).any()) == is_partial}
        if not chosen:
            continue
        values = np.column_stack([np.asarray(v, dtype=float) for v in chosen.values()])
        is_known = ~np.isnan(values).any(axis=1)
        if not is_known.any():
            continue
        _, drawn = bootstrap_means(group[is_known], values[is_known])
        for column, name in enumerate(chosen):
            low, high = np.percentile(drawn[:, column], [2.5, 97.5])
            root = 0.5 if "rmse" in name else 1.0
            ends[name] = {"low": float(low**root), "high": float(high**root)}
    return ends


def _by_way(
    results: Mapping[str, Any],
    named: tuple[str, Mapping[str, str], Mapping[str, str]],
    ends: Mapping[str, dict[str, float]],
) -> dict[str, dict[str, dict[str, float]]]:
    prefix, ways, headings = named
    found = {}
    for way, form in ways.items():
        measured = {name: results.get(prefix + form.format(name)) for name in headings}
        # Where no pair differs, there is no direction to tell.
        known = {
            name: {"value": float(value)} | ends.get(form.format(name), {})
            for name, value in measured.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if known:
            found[way] = known
    return found


def rows_by_way(
    by_way: Mapping[str, Mapping[str, Mapping[str, float]]], headings: Mapping[str, str]
) -> list[list[str]]:
    """Return a row for each way to tell, its name first; a cell is empty where nothing is known.

    Args:
        by_way: `changes` or `visits` of visits_of_run.
        headings: OF_CHANGES or OF_VISITS.
    """
    return [
        [way, *(_cell(figures.get(name), heading) for name, heading in headings.items())]
        for way, figures in by_way.items()
    ]


def _cell(figure: Mapping[str, float] | None, heading: str) -> str:
    if figure is None:
        return ""
    factor, digits = (100, 1) if heading.endswith("%") else (1, 3)
    value, *ends = (f"{factor * number:.{digits}f}" for number in figure.values())
    return f"{value} [{', '.join(ends)}]" if ends else value
