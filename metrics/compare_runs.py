"""Print a table of finished runs: how well each counts on its test split, and how sure that is.

    python metrics/compare_runs.py runs/vit_tiny runs/resnet34

Reads predictions_test.parquet and arguments.json of each run folder. The intervals are 95 %
percentile bootstrap over bin groups: photos of one bin are not independent of one another.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from strict_parser import StrictParser

NUM_RESAMPLES = 10_000
SEED = 0
HEADER = (
    *("run", "model", "test photos", "epochs", "seed"),
    *("accuracy %", "over majority", "within one %", "MAE", "RMSE"),
)


@dataclass(frozen=True)
class Predictions:
    """What one way of counting says of the test bins; all arrays are (num_bins,).

    `count` is the single most likely one, in items; `absolute_error` and `squared_error` are those
    of the answers that are best for each, the median and the mean.
    """

    group: np.ndarray
    expected: np.ndarray
    count: np.ndarray
    absolute_error: np.ndarray
    squared_error: np.ndarray


def read_predictions(table: pa.Table) -> Predictions:
    """Turn a predictions_test.parquet into what the table needs."""
    names = [name for name in table.column_names if name.startswith("probability_")]
    counts = np.array([int(name.removeprefix("probability_")) for name in names])
    probabilities = np.column_stack([table[name].to_numpy() for name in names])
    expected = table["expected_quantity"].to_numpy()
    # As scripts/count_distribution.py has it: folders share files, not code, and a test compares.
    cumulative = probabilities.cumsum(axis=1)
    median = counts[(cumulative >= cumulative[:, -1:] / 2).argmax(axis=1)]
    return Predictions(
        group=np.array(table["bin_group"].to_pylist()),
        expected=expected,
        count=table["count"].to_numpy(),
        absolute_error=np.abs(median - expected),
        squared_error=(probabilities @ counts - expected) ** 2,
    )


def majority_predictions(predictions: Predictions) -> Predictions:
    """Return the answer that needs no photo: always the count that is most frequent here.

    It is read off the test split itself, so no constant answer can do better.
    """
    values, frequencies = np.unique(predictions.expected, return_counts=True)
    count = np.full_like(predictions.expected, values[frequencies.argmax()])
    error = count - predictions.expected
    return Predictions(predictions.group, predictions.expected, count, np.abs(error), error**2)


def bootstrap_means(group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of some values and their bootstrap distribution over whole groups.

    Args:
        group: (num_bins,), the name of each bin's group.
        values: float (num_bins, num_values).

    Returns: (num_values,) and (NUM_RESAMPLES, num_values).
    """
    names, index = np.unique(group, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1] + 1))
    np.add.at(sums, index, np.column_stack([values, np.ones(len(values))]))
    generator = np.random.default_rng(SEED)
    drawn = np.empty((NUM_RESAMPLES, sums.shape[1]))
    for row in range(NUM_RESAMPLES):  # one at a time: all at once would take gigabytes
        drawn[row] = (
            np.bincount(generator.integers(len(names), size=len(names)), minlength=len(names))
            @ sums
        )
    return values.mean(axis=0), drawn[:, :-1] / drawn[:, -1:]


def table_row(name: str, run: Predictions, details: dict[str, Any]) -> list[str]:
    """Return one row of the table: the figures, with intervals where a conclusion hangs on them."""
    is_right = run.count == run.expected
    majority = majority_predictions(run)
    values = np.column_stack(
        [
            100 * is_right,
            100.0 * is_right - 100.0 * (majority.count == run.expected),
            100 * (np.abs(run.count - run.expected) <= 1),
            run.absolute_error,
            run.squared_error,
        ]
    )
    mean, drawn = bootstrap_means(run.group, values)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return [
        name,
        model_name(details),
        f"{len(run.expected):,}",
        f"{details['num_train_epochs']:g}" if details.get("do_train") else "",
        str(details["seed"]) if details.get("do_train") else "",
        f"{mean[0]:.1f} [{low[0]:.1f}, {high[0]:.1f}]",
        f"{mean[1]:+.1f} [{low[1]:+.1f}, {high[1]:+.1f}]" if details else "",
        f"{mean[2]:.1f}",
        f"{mean[3]:.3f}",
        f"{mean[4] ** 0.5:.3f} [{low[4] ** 0.5:.3f}, {high[4] ** 0.5:.3f}]",
    ]


def model_name(details: dict[str, Any]) -> str:
    """Return the last part of the model's name, and whether it started from nothing."""
    if details.get("config_name"):
        return f"{Path(details['config_name']).name}, from scratch"
    path = Path(details.get("model_name_or_path") or "")
    return f"{path.parent.name}/model" if path.name == "model" else path.name


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned markdown table."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def compare(run_dirs: Sequence[Path]) -> str:
    """Return the table of the runs, with a row of the majority class for each test split.

    Raises: FileNotFoundError: a run has no predictions on the test split.
    """
    rows = []
    runs_of_split: dict[tuple[str, ...], list[str]] = {}
    majorities: dict[tuple[str, ...], Predictions] = {}
    for run_dir in run_dirs:
        details = json.loads((run_dir / "arguments.json").read_text())
        table = pq.read_table(run_dir / "predictions_test.parquet")
        run = read_predictions(table)
        test_split = tuple(table["id"].to_pylist())
        runs_of_split.setdefault(test_split, []).append(run_dir.name)
        majorities[test_split] = majority_predictions(run)
        rows.append(table_row(run_dir.name, run, details))
    for test_split, majority in majorities.items():
        of_runs = f" for {', '.join(runs_of_split[test_split])}" if len(majorities) > 1 else ""
        name = f"always {majority.count[0]} (majority class{of_runs})"
        rows.append(table_row(name, majority, {}))
    table = markdown(HEADER, rows)
    if len(majorities) > 1:
        table += "\n\nThese runs have different test splits: their figures cannot be compared."
    return table


def main(argv: list[str] | None = None) -> None:
    """Print the table of the runs named on the command line."""
    parser = StrictParser(__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    arguments = parser.parse_args(argv)
    try:
        print(compare(arguments.run_dirs))
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is missing: run scripts/train.py with --do_predict first.")
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        parser.error(f"a run cannot be read: {error}")


if __name__ == "__main__":
    main()
