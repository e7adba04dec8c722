"""Measure what learning of the items costs or brings to counts, and what they say of wrong records.

    python benchmarks/items_over_seeds.py --dataset_dir data/bins --output_dir runs/items \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

Trains with --learn_items and without it, once a seed, and reads the test split: how well single
photos are counted under both, how well sizes of items are told, and what an audit of real pairs
finds with what their records say of the items (scripts/audit.py --evaluate), beside the photo
alone. Figures are means over the seeds, with 95 % bootstrap intervals over bin groups; of the audit
each seed's own. A run that is finished is not repeated, one that was killed goes on. Other words on
the command line are train.py's.
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
    print(audit_table(audits))


def audited(run_dir: Path) -> Mapping[str, Any]:
    """Return what an audit of a run's real pairs finds with what records say of the items."""
    command = [sys.executable, str(TRAIN.parent / "audit.py"), "--evaluate", str(run_dir)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    evaluation = json.loads((run_dir / "audit_evaluation.json").read_text())
    return evaluation["kinds"]["real_pairs_with_items"]


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
    """Return what each seed's audit of real pairs finds, with the records' items and without."""
    rows = []
    for seed, kind in audits.items():
        error = kind["calibration_error_if_told"]["0.1"]
        judges = {
            "photo and items": {**kind, "calibration_error_if_told": error},
            "photo alone": kind["rivals"]["photo alone"],
        }
        for judge, found in judges.items():
            (budget,) = (row for row in found["budgets"] if row["budget"] == AT_BUDGET)
            rows.append(
                [
                    str(seed),
                    judge,
                    _with_interval(budget["times_random"], ".2f"),
                    _with_interval(found["area_under_curve"], ".3f"),
                    f"{100 * found['calibration_error_if_told']:.1f}",
                ]
            )
    header = ["seed", "judged by", f"times random at {AT_BUDGET:.0%} of the checks", "area"]
    return markdown([*header, "calibration error % if told"], rows)


def _with_interval(figure: Mapping[str, float], form: str) -> str:
    value, low, high = (format(figure[name], form) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
