"""Print a table of finished runs: how well each counts on its test split, and how sure that is.

    python metrics/compare_runs.py runs/vit_tiny runs/resnet34
    python metrics/compare_runs.py runs/vit_tiny runs/resnet34 --output runs.png --price_per_hour 1
    python metrics/compare_runs.py runs/vit_tiny runs/resnet34 --markdown

Reads predictions_test.parquet, arguments.json and all_results.json of each run folder. The
intervals are 95 % percentile bootstrap over bin groups: photos of one bin are not independent of
one another. --output draws accuracy and RMSE beside what others published. The time is that of the
training, evaluations between its epochs included; the cost is that time's price, which leaves out
what starting a machine takes. Below it, for runs that tell changes between the visits of a bin:
how well, beside what records alone and counts of single photos tell (changes_test.parquet); and for
runs that tell sizes of items, how well. --markdown prints a table to choose a model by instead: how
large, how fast (where scripts/export_model.py has measured it), how good, trained by which command.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finished_models.size_and_speed import Speed, size_of, speed_of
from group_bootstrap import bootstrap_means
from item_figures import ABOUT_ITEMS, OF_ITEMS, item_rows, items_of_run
from run_picture import MAJORITY, OURS, PictureRow, draw_rows
from strict_parser import StrictParser
from visit_figures import (
    ABOUT_CHANGES,
    ABOUT_VISITS,
    OF_CHANGES,
    OF_VISITS,
    rows_by_way,
    visits_of_run,
)

PREDICTED = {"id", "bin_group", "expected_quantity", "count"}  # columns, beside probabilities
WRITES = {"test": "--do_predict", "validation": "--do_eval"}  # the predictions of each split
HEADER = (
    *("run", "model", "test photos", "epochs", "seed"),
    *("accuracy %", "over majority", "within one %", "MAE", "RMSE"),
    *("split", "training photos", "time"),
)
MODELS_HEADER = (
    *("model", "parameters, millions", "MB", "photo, pixels", "ms a photo on a CPU"),
    *("accuracy %", "RMSE", "training photos", "test photos", "seed", "command"),
)
ABOUT_MODELS = (
    "Accuracy and RMSE with 95 % intervals by bin group. Parameters and MB are of all weights, "
    "with the heads of changes and items. Milliseconds are those of one photo at a time, as "
    "safetensors and in the form that scripts/export_model.py kept."
)
NOT_NAMED = (
    "On which machine {} was measured is not recorded, so that its milliseconds cannot be "
    "compared: run scripts/export_model.py again."
)
NOT_MEASURED = (
    "No milliseconds yet for {}: python scripts/export_model.py --model MODEL --dataset_dir DATASET"
)
NOT_COMPARABLE = "These runs have different test splits: their figures cannot be compared."
# As build_dataset.py names them.
SPLITS = {"bin_group": "by bin group", "random": "photo by photo", "official": "the challenge's"}


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
        group=known_groups(table),
        expected=expected,
        count=table["count"].to_numpy(),
        absolute_error=np.abs(median - expected),
        squared_error=(probabilities @ counts - expected) ** 2,
    )


def known_groups(table: pa.Table) -> np.ndarray:
    """Return each bin's group, (num_bins,); where none is known the bin is one by itself."""
    groups = table["bin_group"].cast(pa.string())  # a column without any is of no type
    return np.array(pc.coalesce(groups, table["id"]).to_pylist())


def majority_predictions(predictions: Predictions) -> Predictions:
    """Return the answer that needs no photo: always the count that is most frequent here.

    It is read off the test split itself, so no constant answer can do better.
    """
    values, frequencies = np.unique(predictions.expected, return_counts=True)
    count = np.full_like(predictions.expected, values[frequencies.argmax()])
    error = count - predictions.expected
    return Predictions(predictions.group, predictions.expected, count, np.abs(error), error**2)


@dataclass(frozen=True)
class Comparison:
    """One run, or the majority class, on one test split."""

    name: str
    predictions: Predictions
    details: dict[str, Any]  # arguments.json; empty for the majority class
    results: dict[str, Any]  # all_results.json; empty where there is none
    figures: np.ndarray  # accuracy, gain over the majority, within one, in %; MAE, RMSE
    low: np.ndarray  # 2.5 % of what the bootstrap drew
    high: np.ndarray  # 97.5 %
    visits: dict[str, Any] | None = None  # of visits_of_run
    items: dict[str, Any] | None = None  # of items_of_run

    @property
    def cells(self) -> list[str]:
        """Return the row of the table: intervals where a conclusion hangs on them."""
        mean, low, high, trained = self.figures, self.low, self.high, self.details.get("do_train")
        return [
            self.name,
            model_name(self.details),
            f"{len(self.predictions.expected):,}",
            f"{self.details['num_train_epochs']:g}" if trained else "",
            str(self.details["seed"]) if trained else "",
            self.accuracy,
            f"{mean[1]:+.1f} [{low[1]:+.1f}, {high[1]:+.1f}]" if self.details else "",
            f"{mean[2]:.1f}",
            f"{mean[3]:.3f}",
            self.rmse,
            split_of(self.details),
            self.training_photos,
            duration(self.hours),
        ]

    @property
    def accuracy(self) -> str:
        """Return the accuracy with its interval, %."""
        return f"{self.figures[0]:.1f} [{self.low[0]:.1f}, {self.high[0]:.1f}]"

    @property
    def rmse(self) -> str:
        """Return the RMSE with its interval, items."""
        return f"{self.figures[4]:.3f} [{self.low[4]:.3f}, {self.high[4]:.3f}]"

    @property
    def training_photos(self) -> str:
        """Return the number of training photos, empty where it is not known."""
        num_photos = self.results.get("train_samples")
        return f"{num_photos:,}" if num_photos else ""

    @property
    def hours(self) -> float | None:
        """Return how long the training took; None where it is not known in full."""
        # A run that went on from a checkpoint knows the time since then alone.
        is_whole = "train_samples_per_second" in self.results
        return self.results["train_runtime"] / 3600 if is_whole else None


def compared(
    name: str, run: Predictions, details: dict[str, Any], results: dict[str, Any]
) -> Comparison:
    """Return a run's figures with their intervals."""
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
    figures = np.vstack([mean, *np.percentile(drawn, [2.5, 97.5], axis=0)])
    figures[:, 4] **= 0.5  # the root of the mean squared error
    return Comparison(name, run, details, results, *figures)


def split_of(details: dict[str, Any]) -> str:
    """Return how the dataset of a run was split, empty where the dataset is not at hand."""
    settings = Path(details.get("dataset_dir") or "") / "settings.json"
    if not details or not settings.is_file():
        return ""
    return SPLITS.get(read_json(settings).get("split_by", ""), "")


def duration(hours: float | None) -> str:
    """Return a time such as 1 h 05 min, empty where it is not known."""
    if hours is None:
        return ""
    minutes = round(60 * hours)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{60 * hours:.1f} min"


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


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of a run folder says.

    Raises: ValueError: it is missing or damaged, with its path and the reason.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: run scripts/train.py with --do_predict first."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: no JSON object")
    return found


def read_predictions_file(run_dir: Path, split: str = "test") -> pa.Table:
    """Return what a run says of its test or validation split, a row a bin.

    Raises: ValueError: it is missing, damaged or empty, with its path and the reason.
    """
    path = run_dir / f"predictions_{split}.parquet"
    if not path.exists():  # pyarrow's own error names no file
        raise ValueError(f"{path} is missing: run scripts/train.py with {WRITES[split]} first.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    missing = PREDICTED - set(table.column_names)
    if not any(name.startswith("probability_") for name in table.column_names):
        missing |= {"probability_*"}
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}.")
    if not table.num_rows:
        raise ValueError(f"{path} holds no predictions: its dataset has an empty {split} split.")
    return table


def read_run(run_dir: Path) -> tuple[Comparison, tuple[str, ...]]:
    """Return a run and the ids of its test split.

    Raises: ValueError: it has no predictions on the test split, or a file is damaged.
    """
    details = read_json(run_dir / "arguments.json")
    table = read_predictions_file(run_dir)
    path = run_dir / "all_results.json"
    results = read_json(path) if path.exists() else {}
    run = compared(run_dir.name, read_predictions(table), details, results)
    run = replace(
        run,
        visits=visits_of_run(run_dir, results, table),
        items=items_of_run(table, run.predictions.group),
    )
    return run, tuple(table["id"].to_pylist())


def compare(run_dirs: Sequence[Path]) -> list[Comparison]:
    """Return the runs, and last the majority class of each of their test splits.

    Raises: ValueError: a run has no predictions on the test split, or a file is damaged.
    """
    runs: list[Comparison] = []
    runs_of_split: dict[tuple[str, ...], list[Comparison]] = {}
    for run_dir in run_dirs:
        run, test_split = read_run(run_dir)
        runs.append(run)
        runs_of_split.setdefault(test_split, []).append(run)
    for of_split in runs_of_split.values():
        majority = majority_predictions(of_split[0].predictions)
        names = ", ".join(run.name for run in of_split)
        of_runs = f" for {names}" if len(runs_of_split) > 1 else ""
        name = f"always {majority.count[0]} (majority class{of_runs})"
        runs.append(compared(name, majority, {}, {}))
    return runs


def comparison_table(runs: Sequence[Comparison], price_per_hour: float | None) -> str:
    """Return the table of `compare`'s runs, and a warning where they cannot be compared."""
    header, rows = [*HEADER], [run.cells for run in runs]
    if price_per_hour is not None:
        header.append("cost")
        for run, row in zip(runs, rows, strict=True):
            row.append("" if run.hours is None else f"{run.hours * price_per_hour:.2f}")
    table = markdown(header, rows)
    if num_test_splits(runs) > 1:
        table += f"\n\n{NOT_COMPARABLE}"
    return table


def models_table(runs: Sequence[Comparison], run_dirs: Sequence[Path]) -> str:
    """Return what a model is chosen by, a row a run, and what the columns mean.

    Args:
        runs: those of `compare`.
        run_dirs: their folders, in the same order.

    Raises: ValueError: a model is damaged.
    """
    rows, speeds = [], []
    for run, run_dir in zip(runs, run_dirs, strict=False):  # not the majority class
        model_dir = model_dir_of(run_dir, run.details)
        size = size_of(model_dir)
        speed = speed_of(model_dir)
        speeds.append((str(run_dir), speed))
        forms = speed.milliseconds.items() if speed else ()
        command = run.details.get("command", "").replace("|", "\\|")
        rows.append(
            [
                model_name(run.details),
                f"{size.num_parameters / 1e6:.2f}" if size else "",
                f"{size.num_bytes / 1e6:.1f}" if size else "",
                str(size.photo_edge) if size and size.photo_edge else "",
                ", ".join(f"{form} {value:.1f}" for form, value in forms),
                run.accuracy,
                run.rmse,
                run.training_photos,
                f"{len(run.predictions.expected):,}",
                str(run.details["seed"]) if run.details.get("do_train") else "",
                f"`{command}`" if command else "",
            ]
        )
    below = [ABOUT_MODELS, *about_speeds(speeds)]
    if num_test_splits(runs) > 1:
        below.append(NOT_COMPARABLE)
    return "\n\n".join([markdown(MODELS_HEADER, rows), *below])


def about_speeds(speeds: Sequence[tuple[str, Speed | None]]) -> list[str]:
    """Return on which machines models were measured, and which ones were not.

    Args:
        speeds: each with the folder of its run.
    """
    lines = []
    measured = [(run, speed.machine) for run, speed in speeds if speed]
    if len({machine for _, machine in measured if machine}) > 1:
        on = "; ".join(f"{run} on {machine}" for run, machine in measured if machine)
        lines.append(f"Measured on different machines, and so not to be compared: {on}.")
    elif all(machine for _, machine in measured) and measured:
        lines.append(f"Measured on {measured[0][1]}.")
    if unnamed := [run for run, machine in measured if not machine]:
        lines.append(NOT_NAMED.format(", ".join(unnamed)))
    if unmeasured := [run for run, speed in speeds if speed is None]:
        lines.append(NOT_MEASURED.format(", ".join(unmeasured)))
    return lines


def model_dir_of(run_dir: Path, details: dict[str, Any]) -> Path:
    """Return the folder of the model that a run trained, or else evaluated."""
    if not details.get("do_train"):
        return Path(details.get("model_name_or_path") or "")
    beside = run_dir / "model"
    return beside if beside.is_dir() else Path(details.get("model_dir") or "")


def visits_tables(runs: Sequence[Comparison]) -> str:
    """Return what the runs say of visits, beside their rivals; empty where none says anything."""
    tables = []
    for about, part, way, headings in (
        (ABOUT_CHANGES, "changes", "told by", OF_CHANGES),
        (ABOUT_VISITS, "visits", "counted from", OF_VISITS),
    ):
        rows = [
            [run.name, *row]
            for run in runs
            if run.visits is not None
            for row in rows_by_way(run.visits[part], headings)
        ]
        if rows:
            tables.append(f"{about}\n\n{markdown(['run', way, *headings.values()], rows)}")
    return "\n\n".join(tables)


def items_table(runs: Sequence[Comparison]) -> str:
    """Return what the runs say of items beside their number; empty where none says anything."""
    rows = [
        [run.name, *row] for run in runs if run.items is not None for row in item_rows(run.items)
    ]
    if not rows:
        return ""
    return f"{ABOUT_ITEMS}\n\n{markdown(['run', 'told of a photo', *OF_ITEMS.values()], rows)}"


def draw_runs(runs: Sequence[Comparison], price_per_hour: float | None, path: Path) -> None:
    """Draw `compare`'s runs beside what others published."""
    rows = []
    for run in runs:
        cost = None if price_per_hour is None or run.hours is None else price_per_hour * run.hours
        facts = [
            split_of(run.details),
            f"{len(run.predictions.expected):,} test photos",
            f"epochs: {run.details['num_train_epochs']:g}" if run.details.get("do_train") else "",
            duration(run.hours),
            "" if cost is None else f"cost {cost:.2f}",
        ]
        accuracy, rmse = (
            (float(run.figures[column]), float(run.low[column]), float(run.high[column]))
            for column in (0, 4)
        )
        name = ": ".join(filter(None, [run.name, model_name(run.details)]))
        label = f"{name}\n{', '.join(filter(None, facts))}"
        rows.append(PictureRow(label, accuracy, rmse, OURS if run.details else MAJORITY))
    draw_rows(rows, NOT_COMPARABLE if num_test_splits(runs) > 1 else "", path)


def num_test_splits(runs: Sequence[Comparison]) -> int:
    """Return on how many test splits `compare`'s runs are: each has one majority class."""
    return sum(not run.details for run in runs)


def price(text: str) -> float:
    """Return an amount of money. Raises: ValueError: it is negative or no number."""
    amount = float(text)
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(text)
    return amount


price.__name__ = "price of 0 or more"  # what argparse names in "invalid ... value"


def main(argv: list[str] | None = None) -> None:
    """Print the table of the runs named on the command line, and draw it if asked to."""
    parser = StrictParser(__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--output", type=Path, metavar="PNG", help="draw the runs into this file")
    parser.add_argument(
        "--price_per_hour", type=price, help="of the instance that trained them: adds the cost"
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print a table to choose a model by instead: size, milliseconds, accuracy, command",
    )
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        runs = compare(arguments.run_dirs)
        if arguments.markdown:
            print(models_table(runs, arguments.run_dirs))
        else:
            print(comparison_table(runs, arguments.price_per_hour))
            for more in filter(None, (visits_tables(runs), items_table(runs))):
                print(f"\n{more}")
        if arguments.output:
            draw_runs(runs, arguments.price_per_hour, arguments.output)
            print(f"\nPicture: {arguments.output}")


if __name__ == "__main__":
    main()
