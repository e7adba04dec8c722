"""Measure what the visits of a bin say together beside one photo, and what learning changes costs.

    python benchmarks/visits_over_seeds.py --dataset_dir data/bins --output_dir runs/visits \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

Trains with --learn_changes and without it, once a seed, and reads the test split: changes and
visits beside their rivals, and the counts of single photos under both. Figures are means over the
seeds, with 95 % bootstrap intervals over bin groups: they say what other bins would have changed,
not what other seeds would have. A run that is finished is not repeated, one that was killed goes
on. Other words on the command line are train.py's.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from training_recipe import bootstrap_means, interval, markdown, run_training

# How train.py names who tells a change, and what a visit is counted from.
TOLD_BY = {
    "both photos compared": "",
    "two single counts": "_by_single_counts",
    "records alone": "_by_records",
}
OF_CHANGES = {
    "direction %": "direction",
    "count %": "count_accuracy",
    "count, RMSE": "count_squared_error",
    "count, nats": "count_loss",
}
COUNTED_FROM = {"all photos of the bin": "visits_probability_", "its own photo": "probability_"}
LEARNED = {"changes": "true", "single": "false"}  # a run's name, and its --learn_changes


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="gets a folder for each run")
    parser.add_argument("--dataset_dir", required=True, help="of data_prep/build_dataset.py")
    parser.add_argument(
        "--test_dataset_dir",
        help="its test split is read, which must hold no bin that DATASET_DIR holds, too; default: "
        "DATASET_DIR",
    )
    parser.add_argument(
        "--with_changes_alone",
        action="store_true",
        help="trains nothing without --learn_changes, and leaves out the last table",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    arguments, more = parser.parse_known_args()
    names = ["changes"] if arguments.with_changes_alone else list(LEARNED)
    runs: dict[str, list[Path]] = {name: [] for name in names}
    for seed in arguments.seeds:
        for name in names:
            run_dir = arguments.output_dir / f"{name}-seed{seed}"
            flags = ["--dataset_dir", arguments.dataset_dir, "--learn_changes", LEARNED[name]]
            flags += ["--seed", str(seed), "--do_train", "--do_eval", *more]
            if arguments.test_dataset_dir is None:
                run_training(run_dir, [*flags, "--do_predict"], "test_accuracy")
            else:
                run_training(run_dir, flags, "eval_accuracy")
                run_dir = predicted(run_dir, arguments.test_dataset_dir)
            runs[name].append(run_dir)
    changes = [pq.read_table(run / "changes_test.parquet") for run in runs["changes"]]
    counts = {
        name: [pq.read_table(run / "predictions_test.parquet") for run in of_name]
        for name, of_name in runs.items()
    }
    print(change_table(changes), end="\n\n")
    print(visit_table(counts["changes"]), end="\n\n")
    if not arguments.with_changes_alone:
        print(single_table(counts["changes"], counts["single"]))


def predicted(run_dir: Path, dataset_dir: str) -> Path:
    """Return the folder with what a run's model says of the test split of another dataset."""
    flags = ["--model_name_or_path", str(run_dir / "model"), "--dataset_dir", dataset_dir]
    folder = run_dir.parent / f"{run_dir.name}-test"
    run_training(folder, [*flags, "--do_predict"], "test_accuracy")
    return folder


def change_table(tables: Sequence[pa.Table]) -> str:
    """Return how well changes are told, and how far comparing is ahead of single counts.

    Args:
        tables: changes_test.parquet of each seed's run; pairs in the same order.
    """
    rows = []
    for heading, name in OF_CHANGES.items():
        ways = {
            way: np.column_stack([table[f"{name}{suffix}"].to_numpy() for table in tables])
            for way, suffix in TOLD_BY.items()
        }
        # Two visits that found the same have no direction.
        is_known = ~np.isnan(np.column_stack(list(ways.values()))).any(axis=1)
        groups = np.array(tables[0]["bin_group"].to_pylist())[is_known]
        rows.append(row_of(heading, groups, {way: of[is_known] for way, of in ways.items()}))
    return markdown(["pairs of visits", *TOLD_BY, "first two, difference"], rows)


def visit_table(tables: Sequence[pa.Table]) -> str:
    """Return how well photos with other visits are counted, by all photos of the bin and alone.

    Args:
        tables: predictions_test.parquet of each seed's run; bins in the same order.
    """
    visits = [
        table.filter(pc.is_valid(table[f"visits_probability_{counts_of(table)[0]}"]))
        for table in tables
    ]
    figures = {
        way: [count_outcomes(table, prefix) for table in visits]
        for way, prefix in COUNTED_FROM.items()
    }
    groups = np.array(visits[0]["bin_group"].to_pylist())
    return markdown(
        ["photos with other visits", *COUNTED_FROM, "difference"], count_rows(groups, figures)
    )


def single_table(with_changes: Sequence[pa.Table], without: Sequence[pa.Table]) -> str:
    """Return how well single photos are counted where changes were learned, and where not."""
    figures = {
        "changes learned": [count_outcomes(table, "probability_") for table in with_changes],
        "not learned": [count_outcomes(table, "probability_") for table in without],
    }
    groups = np.array(with_changes[0]["bin_group"].to_pylist())
    return markdown(["all photos, each alone", *figures, "difference"], count_rows(groups, figures))


def counts_of(table: pa.Table) -> list[int]:
    """Return the counts that predictions are distributions over."""
    prefix = "probability_"
    names = [name for name in table.column_names if name.startswith(prefix)]
    return [int(name.removeprefix(prefix)) for name in names]


def count_outcomes(table: pa.Table, prefix: str) -> dict[str, np.ndarray]:
    """Return what the figures of counts are means of, (num_bins,) each, by the figure's heading."""
    counts = np.array(counts_of(table))
    probabilities = np.column_stack([table[f"{prefix}{count}"].to_numpy() for count in counts])
    return outcomes_of(probabilities, counts, table["expected_quantity"].to_numpy())


def outcomes_of(
    probabilities: np.ndarray, counts: np.ndarray, expected: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the same of probabilities, (num_bins, num_counts)."""
    of_true = probabilities[np.arange(len(expected)), np.searchsorted(counts, expected)]
    return {
        "accuracy %": 1.0 * (counts[probabilities.argmax(axis=1)] == expected),
        "RMSE": (probabilities @ counts - expected) ** 2,
        "nats": -np.log(np.maximum(of_true, 1e-12)),
    }


def count_rows(
    groups: np.ndarray, figures: Mapping[str, Sequence[Mapping[str, np.ndarray]]]
) -> list[list[str]]:
    """Return a row for each figure: its value by each way to count, and the difference.

    Args:
        figures: of count_outcomes, one a seed for each way.
    """
    headings = next(iter(figures.values()))[0]
    return [
        row_of(
            heading,
            groups,
            {
                way: np.column_stack([seed[heading] for seed in seeds])
                for way, seeds in figures.items()
            },
        )
        for heading in headings
    ]


def row_of(heading: str, groups: np.ndarray, ways: Mapping[str, np.ndarray]) -> list[str]:
    """Return a figure by each way, and how far the first is from the second.

    Args:
        heading: one with % is a share, one with RMSE the root of a mean.
        groups: (num_rows,). ways: float (num_rows, num_seeds) each.
    """
    values = np.column_stack(list(ways.values()))
    drawn = np.vstack([values.mean(axis=0), bootstrap_means(groups, values)])
    if "RMSE" in heading:
        drawn = np.sqrt(drawn)
    factor, form = (100, ".1f") if heading.endswith("%") else (1, ".3f")
    means = factor * drawn.reshape(len(drawn), len(ways), -1).mean(axis=2)
    ahead = means[:, 0] - means[:, 1]
    return [heading, *(interval(of, form) for of in means.T), interval(ahead, f"+{form}")]


if __name__ == "__main__":
    main()
