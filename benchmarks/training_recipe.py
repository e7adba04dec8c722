"""Measure what each part of the training recipe is worth, and the recipe against plain training.

    python benchmarks/training_recipe.py screen --dataset_dir data/bins --output_dir runs/recipe \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224
    python benchmarks/training_recipe.py compare --dataset_dir data/bins --output_dir runs/recipe \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

`screen` trains with the switches that it is given, and with each set that differs from it in one
of them, once a seed, and reads validation alone: figures are means over the seeds, differences
those of the same seed, with the lowest and the highest.
`compare` trains with the switches that it is given and as the published projects do, once a seed,
and reads the test split: the same photos, paired, with 95 % bootstrap intervals over bin groups.
A run that is finished is not repeated, one that was killed goes on; another rate, or another number
of epochs, wants another --output_dir. Other words on the command line are train.py's, such as
--bf16 false.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TRAIN = Path(__file__).resolve().parent.parent / "scripts/train.py"
# Flag, value when on, value when off; None: what the command line says.
SWITCHES: dict[str, tuple[str, str, str | None]] = {
    "loss": ("--loss", "soft_labels", "cross_entropy"),
    "smoothing": ("--label_smoothing_factor", "0.1", "0"),
    "geometry": ("--augment_geometry", "true", "false"),
    "colour": ("--augment_colour", "true", "false"),
    "mixup": ("--mixup", "true", "false"),
    "regularize": ("--regularize", "true", "false"),
    "average": ("--average_weights", "true", "false"),
    "drop_path": ("--drop_path", "0.1", "0"),
    "changes": ("--learn_changes", "true", "false"),
    "items": ("--learn_items", "true", "false"),
    "long": ("--num_train_epochs", "16", None),
    "large_batch": ("--per_device_train_batch_size", "128", None),
}
# What train.py does by default, with EVERY_RECIPE.
CHOSEN = ["geometry", "mixup", "regularize", "average", "drop_path", "changes", "items"]
EVERY_RECIPE = ["--lr_scheduler_type", "cosine", "--warmup_steps", "0.1", "--weight_decay", "0.05"]
EVERY_RECIPE += ["--calibrate", "true"]
# How others train on these photos: Trainer's defaults; the warm-up is a share of the run.
PUBLISHED = ["--lr_scheduler_type", "linear", "--warmup_steps", "0.1", "--weight_decay", "0"]
PUBLISHED += ["--calibrate", "false"]
NUM_RESAMPLES = 10_000


def flags_of(switches: Sequence[str]) -> list[str]:
    """Return the flags that turn on these switches, and off all others."""
    flags: list[str] = []
    for name, (flag, on, off) in SWITCHES.items():
        value = on if name in switches else off
        flags += [] if value is None else [flag, value]
    return flags


def name_of(switches: Sequence[str]) -> str:
    """Return what a setting's runs are called: default, without_mixup, with_loss_without_items."""
    more = [name for name in SWITCHES if name in switches and name not in CHOSEN]
    less = [name for name in CHOSEN if name not in switches]
    if not switches:
        return "plain"
    parts = [*(["with", *more] if more else []), *(["without", *less] if less else [])]
    return "_".join(parts) or "default"


def has_figure(run_dir: Path, needed: str) -> bool:
    """Say whether a run is there, and has come as far as this figure."""
    results = run_dir / "all_results.json"
    return results.exists() and needed in json.loads(results.read_text())


def run_training(run_dir: Path, flags: Sequence[str], needed: str) -> None:
    """Run train.py unless the run has the needed figure already; its log goes beside the run."""
    if has_figure(run_dir, needed):
        return
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN), "--output_dir", str(run_dir), *flags]
    print(f"training {run_dir.name}", file=sys.stderr, flush=True)
    log_path = run_dir.parent / f"{run_dir.name}.log"
    with log_path.open("a") as log:
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    if status != 0:
        sys.exit(f"{run_dir.name} failed with exit code {status}: see {log_path}.")


def best_epoch(run_dir: Path) -> float:
    """Return the epoch whose weights the run kept."""
    states = sorted(
        run_dir.glob("checkpoint-*/trainer_state.json"),
        key=lambda path: int(re.sub(r"\D", "", path.parent.name)),
    )
    state = json.loads(states[-1].read_text())
    best_step = state["best_global_step"]
    return next(entry["epoch"] for entry in state["log_history"] if entry["step"] == best_step)


def validation_figures(run_dir: Path) -> dict[str, float]:
    """Return all_results.json of a run, with its best_epoch."""
    results = json.loads((run_dir / "all_results.json").read_text())
    return results | {"best_epoch": best_epoch(run_dir)}


def settings_beside(base: Sequence[str], toggled: Sequence[str]) -> list[list[str]]:
    """Return a setting, and those that differ from it in one of the toggled switches."""
    settings = [{*base}, *({*base} ^ {name} for name in toggled)]
    return [[name for name in SWITCHES if name in setting] for setting in settings]


@dataclass(frozen=True)
class Trainings:
    """What all runs of a call have in common.

    Args:
        flags: of train.py.
        rate: learning rate.
        predicts: whether they are asked about the test split, too.
    """

    output_dir: Path
    flags: Sequence[str]
    rate: str
    seeds: Sequence[int]
    predicts: bool

    def run(self, switches: Sequence[str], seed: int) -> Path:
        """Return the folder of a setting's run, trained unless it is there."""
        flags = [*flags_of(switches), *EVERY_RECIPE, "--learning_rate", self.rate]
        return self.run_flags(name_of(switches), flags, seed)

    def run_flags(self, name: str, flags: Sequence[str], seed: int) -> Path:
        """Return the folder of a run with these flags."""
        run_dir = self.output_dir / f"{name}-seed{seed}"
        flags = [*self.flags, *flags, "--seed", str(seed), "--do_train", "--do_eval"]
        if self.predicts:
            run_training(run_dir, [*flags, "--do_predict"], "test_accuracy")
        else:
            run_training(run_dir, flags, "eval_accuracy")
        return run_dir


def screen(trainings: Trainings, settings: Sequence[Sequence[str]]) -> None:
    """Train every setting once a seed, and print the table of validation figures as it grows."""
    found: dict[str, list[dict[str, float]]] = {}
    for switches in settings:
        for seed in trainings.seeds:
            of_seed = validation_figures(trainings.run(switches, seed))
            found.setdefault(name_of(switches), []).append(of_seed)
        print(screening_table(found), end="\n\n", flush=True)


def screening_table(found: dict[str, list[dict[str, float]]]) -> str:
    """Return validation figures as means over the seeds, and how far each is from the first.

    Args:
        found: validation_figures of each seed's run, by setting; seeds in the same order.
    """
    base = next(iter(found.values()))
    rows = []
    for name, runs in found.items():
        cells = [name, ", ".join(f"{run['best_epoch']:g}" for run in runs)]
        for figure, factor, form in (
            ("eval_loss", 1, ".3f"),
            ("eval_accuracy", 100, ".1f"),
            ("eval_rmse", 1, ".3f"),
        ):
            values = np.array([factor * run[figure] for run in runs])
            ahead = values - np.array([factor * run[figure] for run in base])
            sign = form.replace(".", "+.")
            said = f"{ahead.mean():{sign}} [{ahead.min():{sign}}, {ahead.max():{sign}}]"
            cells += [f"{values.mean():{form}}", "" if runs is base else said]
        rows.append(cells)
    header = ["setting", "best epochs", "nats", "difference"]
    header += ["accuracy %", "difference", "RMSE", "difference"]
    return markdown(header, rows)


def compare(trainings: Trainings, switches: Sequence[str], published_rate: str) -> None:
    """Train both recipes once a seed, each at its rate, and print the table of test figures."""
    published = [*flags_of([]), *PUBLISHED, "--learning_rate", published_rate]
    tables: dict[str, list[pa.Table]] = {name_of(switches): [], "published": []}
    for seed in trainings.seeds:
        run_dirs = (
            trainings.run(switches, seed),
            trainings.run_flags("published", published, seed),
        )
        for of_recipe, run_dir in zip(tables.values(), run_dirs, strict=True):
            of_recipe.append(pq.read_table(run_dir / "predictions_test.parquet"))
    print(paired_table(tables))


def paired_table(tables: dict[str, list[pa.Table]]) -> str:
    """Return accuracy and RMSE of two recipes on the same bins, and how far the first is ahead.

    Figures are means over the seeds. The intervals say what other bins would have changed, not
    what other seeds would have.

    Args:
        tables: predictions_test.parquet of each run, by recipe; bins in the same order.
    """
    each = [table for of_recipe in tables.values() for table in of_recipe]
    is_right, squared_error, _ = np.stack([figures_of(table) for table in each]).transpose(2, 1, 0)
    values = np.concatenate([is_right, squared_error], axis=1)
    drawn = bootstrap_means(np.array(each[0]["bin_group"].to_pylist()), values)
    # The first row is what was measured. Then: figure, recipe, seed.
    drawn = np.vstack([values.mean(axis=0), drawn]).reshape(len(drawn) + 1, 2, len(tables), -1)
    accuracy, rmse = drawn[:, 0].mean(axis=2), np.sqrt(drawn[:, 1]).mean(axis=2)
    ahead = accuracy[:, 0] - accuracy[:, 1], 100 * (rmse[:, 0] / rmse[:, 1] - 1)
    rows = [
        ["accuracy %", *(interval(of, ".1f") for of in accuracy.T), interval(ahead[0], "+.1f")],
        ["RMSE", *(interval(of, ".3f") for of in rmse.T), interval(ahead[1], "+.1f") + " %"],
    ]
    return markdown(["test split", *tables, "difference"], rows)


def figures_of(predictions: pa.Table) -> np.ndarray:
    """Return whether each photo was counted rightly, in %, its squared error, and its nats.

    Args:
        predictions: predictions_test.parquet.

    Returns: (num_photos, 3).
    """
    expected = predictions["expected_quantity"].to_numpy()
    names = [name for name in predictions.column_names if name.startswith("probability_")]
    counts = np.array([int(name.removeprefix("probability_")) for name in names])
    probabilities = np.column_stack([predictions[name].to_numpy() for name in names])
    is_right = 100.0 * (predictions["count"].to_numpy() == expected)
    squared_error = (probabilities @ counts - expected) ** 2
    of_expected = probabilities[np.arange(len(expected)), np.searchsorted(counts, expected)]
    with np.errstate(divide="ignore"):  # infinitely many, where a sure answer is wrong
        return np.column_stack([is_right, squared_error, -np.log(of_expected)])


def bootstrap_means(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return means of values (num_bins, num_values) over whole groups drawn with replacement.

    Returns: (NUM_RESAMPLES, num_values).
    """
    names, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1] + 1))
    np.add.at(sums, index, np.column_stack([values, np.ones(len(values))]))
    generator = np.random.default_rng(0)
    chances = np.full(len(names), 1 / len(names))
    drawn = np.stack(
        [generator.multinomial(len(names), chances) @ sums for _ in range(NUM_RESAMPLES)]
    )
    return drawn[:, :-1] / drawn[:, -1:]


def interval(drawn: np.ndarray, form: str) -> str:
    """Return the first value, and the interval that holds 95 % of the others."""
    value, low, high = (
        format(number, form) for number in (drawn[0], *np.percentile(drawn[1:], [2.5, 97.5]))
    )
    return f"{value} [{low}, {high}]"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=("screen", "compare"))
    parser.add_argument("--output_dir", required=True, type=Path, help="gets a folder for each run")
    parser.add_argument("--dataset_dir", required=True, help="of data_prep/build_dataset.py")
    parser.add_argument("--learning_rate", default="1e-3", help="default: %(default)s")
    parser.add_argument(
        "--published_rate",
        default="2e-5",
        help="learning rate of the published recipe in compare; for a ResNet 1e-3; default: "
        "%(default)s",
    )
    parser.add_argument("--num_train_epochs", default="8", help="default: %(default)s")
    parser.add_argument(
        "--switches",
        nargs="*",
        choices=SWITCHES,
        default=CHOSEN,
        help=f"default: {' '.join(CHOSEN)}",
    )
    parser.add_argument(
        "--toggle",
        nargs="*",
        choices=SWITCHES,
        default=list(SWITCHES),
        help="of screen: the switches that are turned, one at a time; default: all",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    arguments, more = parser.parse_known_args()
    common = ["--dataset_dir", arguments.dataset_dir, "--disable_tqdm", "true", *more]
    common += ["--num_train_epochs", arguments.num_train_epochs]
    trainings = Trainings(
        arguments.output_dir,
        common,
        arguments.learning_rate,
        arguments.seeds,
        predicts=arguments.step == "compare",
    )
    if arguments.step == "screen":
        screen(trainings, settings_beside(arguments.switches, arguments.toggle))
    else:
        compare(trainings, arguments.switches, arguments.published_rate)


if __name__ == "__main__":
    main()
