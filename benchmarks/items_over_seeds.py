"""Measure what learning of the items costs or brings to counts, and what they say of wrong records.

    python benchmarks/items_over_seeds.py --dataset_dir data/bins --output_dir runs/items \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

Trains with --learn_items and without it, once a seed, and reads the test split: how well single
photos are counted under both, how well sizes of items are told, and what an audit finds with what
records say of the items (scripts/audit.py --evaluate), beside those who know less. Figures are
means over the seeds, with 95 % bootstrap intervals over bin groups; of the audit each seed's own,
and by size the mean, between the lowest and the highest end of a seed's interval. A run that is
finished is not repeated, one that was killed goes on. Other words on the command line are
train.py's.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training_recipe import TRAIN, bootstrap_means, interval, markdown, run_training
from visits_over_seeds import count_outcomes, count_rows

LEARNED = {"items": "true", "counts": "false"}  # a run's name, and its --learn_items
SIZES = ("volume", "largest", "smallest", "weight")
NINETY_PERCENT = 1.6449  # of a normal distribution: within so many standard deviations
AT_BUDGET = 0.2
KINDS = ("real_pairs_with_items", "real_pairs_with_visits_and_items", "real_changes_with_items")


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="gets a folder for each run")
    parser.add_argument("--dataset_dir", required=True, help="of data_prep/build_dataset.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    arguments, more = parser.parse_known_args()
    tables: dict[str, list[pa.Table]] = {name: [] for name in LEARNED}
    audits: dict[int, Mapping[str, Any]] = {}
    for seed in arguments.seeds:
        for name, learned in LEARNED.items():
            run_dir = arguments.output_dir / f"{name}-seed{seed}"
            flags = ["--dataset_dir", arguments.dataset_dir, "--learn_items", learned]
            flags += ["--seed", str(seed), "--do_train", "--do_eval", "--do_predict", *more]
            run_training(run_dir, flags, "test_accuracy")
            tables[name].append(pq.read_table(run_dir / "predictions_test.parquet"))
        audits[seed] = audited(arguments.output_dir / f"items-seed{seed}")
    print(single_table(tables["items"], tables["counts"]), end="\n\n")
    print(size_table(tables["items"]), end="\n\n")
    print(audit_table(audits), end="\n\n")
    print(error_table(audits))


def audited(run_dir: Path) -> Mapping[str, Any]:
    """Return what an audit finds with a run's model, of scripts/audit.py --evaluate."""
    command = [sys.executable, str(TRAIN.parent / "audit.py"), "--evaluate", str(run_dir)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((run_dir / "audit_evaluation.json").read_text())


def single_table(with_items: Sequence[pa.Table], without: Sequence[pa.Table]) -> str:
    """Return how well single photos are counted where items were learned of, and where not."""
    figures = {
        "items learned": [count_outcomes(table, "probability_") for table in with_items],
        "not learned": [count_outcomes(table, "probability_") for table in without],
    }
    groups = np.array(with_items[0]["bin_group"].to_pylist())
    return markdown(["all photos, each alone", *figures, "difference"], count_rows(groups, figures))


def size_table(tables: Sequence[pa.Table]) -> str:
    """Return how well sizes are told: the share of the variance, and how honest the spreads are.

    Args:
        tables: predictions_test.parquet of each seed's run; bins in the same order.
    """
    rows = []
    for name in SIZES:
        recorded, *told = (
            np.column_stack([table[column].to_numpy() for table in tables])
            for column in (f"items_{name}_recorded", f"items_{name}", f"items_{name}_spread")
        )
        is_known = ~np.isnan(recorded[:, 0])
        groups = np.array(tables[0]["bin_group"].to_pylist())[is_known]
        size, off = recorded[is_known, :1], (recorded - told[0])[is_known]
        is_covered = np.abs(off) < NINETY_PERCENT * told[1][is_known]
        values = np.column_stack([size, size**2, off**2, is_covered])
        drawn = np.vstack([values.mean(axis=0), bootstrap_means(groups, values)])
        variance = drawn[:, 1] - drawn[:, 0] ** 2
        squared_error, covered = (part.mean(axis=1) for part in np.hsplit(drawn[:, 2:], 2))
        rows.append(
            [
                name,
                interval(1 - squared_error / variance, ".3f"),
                interval(100 * covered, ".1f"),
            ]
        )
    return markdown(["size of the items", "R2", "within what should hold 90 %, %"], rows)


def audit_table(audits: Mapping[int, Mapping[str, Any]]) -> str:
    """Return what each seed's audit finds, beside those who know less of the same records."""
    rows = []
    for kind in KINDS:
        of_seeds = [evaluation["kinds"][kind] for evaluation in audits.values()]
        for judge in ("the audit", *of_seeds[0]["rivals"]):
            judged = [of if judge == "the audit" else of["rivals"][judge] for of in of_seeds]
            rows.append([kind.replace("_", " "), judge, *map(_found, judged)])
        errors = [
            f"{100 * of['calibration']['expected_calibration_error']:.1f}; "
            f"{100 * of['calibration_error_if_told']['0.1']:.1f}"
            for of in of_seeds
        ]
        rows.append([kind.replace("_", " "), "calibration error, %; if told", *errors])
    head = f"times random at {AT_BUDGET:.0%} of the checks; area"
    return markdown(["wrong records", head, *(f"seed {seed}" for seed in audits)], rows)


def error_table(audits: Mapping[int, Mapping[str, Any]]) -> str:
    """Return how well each kind of error is found, by the size of the item."""
    rows = []
    judges: list[str] = []
    for errors in zip(*(evaluation["item_errors"] for evaluation in audits.values()), strict=True):
        judges = list(errors[0]["judges"])
        parts = [("all", errors)]
        for place, size in enumerate(errors[0]["sizes"]):
            name = f"{size['low']:,.0f} to {size['high']:,.0f}"
            parts.insert(place, (name, tuple(error["sizes"][place] for error in errors)))
        for name, of_seeds in parts:
            found = [[of["judges"][judge]["found"] for of in of_seeds] for judge in judges]
            cells = [_over_seeds(figures) for figures in found]
            rows.append([errors[0]["name"], name, f"{of_seeds[0]['num_records']:,}", *cells])
    header = ["item", "volume, cubic inches", "wrong records"]
    return markdown([*header, *(f"{judge}, %" for judge in judges)], rows)


def _found(judged: Mapping[str, Any]) -> str:
    """Return what somebody finds who judges a kind of records."""
    (budget,) = (row for row in judged["budgets"] if row["budget"] == AT_BUDGET)
    times = _with_interval(budget["times_random"], ".2f")
    return f"{times}; {_with_interval(judged['area_under_curve'], '.3f')}"


def _over_seeds(figures: Sequence[Mapping[str, float]]) -> str:
    """Return the mean of a share, %, between the lowest and the highest end of an interval."""
    value = sum(figure["value"] for figure in figures) / len(figures)
    low, high = min(f["low"] for f in figures), max(f["high"] for f in figures)
    return f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def _with_interval(figure: Mapping[str, float], form: str) -> str:
    value, low, high = (format(figure[name], form) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
