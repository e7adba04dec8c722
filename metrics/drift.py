"""Say whether what an endpoint sees has drifted away from what its model was validated on.

    python metrics/drift.py counts.csv --run runs/vit_tiny --dataset data/bins
    python metrics/drift.py captured --run runs/vit_tiny --dataset data/bins

ANSWERS is a csv of sagemaker_jobs/query.py, or what SageMaker's data capture has kept
(deploy.py --data_capture; aws s3 sync S3_FOLDER captured): a file, or the folder of all. Counts and
confidences are compared with those of the run's validation split, and with --dataset the photos'
brightness, contrast, sharpness and warmth, where photos are at hand.

OUTPUT_DIR (default: RUN/drift) gets drift.json and drift.png. The exit code is 1 if something has
drifted: by more than chance explains, and by no less than --smallest_difference. Records are not
asked: whether they are wrong is what scripts/audit.py finds out.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strict_parser import StrictParser

MIN_PHOTOS = 20  # fewer tell next to nothing
MIN_ALPHA = 0.001  # of six statistics the rarest chance that is drawn comes to 0.0006
WEIGHTS = "model/model.safetensors"
DIGITS = {"count": 2}  # of other means 3
HEADER = ("statistic", "validation", "now", "moved", "seen from", "p", "verdict")
AS_BEFORE, LITTLE, DRIFTED = "as before", "differs, but little", "drifted"


def main(argv: list[str] | None = None) -> None:
    """Compare what the command line names.

    Raises: SystemExit: code 1 if something has drifted, 2 after one line that says what is wrong.
    """
    parser = make_parser()
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        if arguments.alpha < MIN_ALPHA:
            parser.error(f"--alpha has to be {MIN_ALPHA} or more: chance is drawn 9,999 times")
        output_dir = arguments.output_dir or arguments.run / "drift"
        has_drifted = report_drift(arguments, output_dir)
    sys.exit(1 if has_drifted else 0)


def make_parser() -> StrictParser:
    """Return the parser of the flags."""
    parser = StrictParser(__doc__)
    parser.add_argument(
        "answers", type=Path, metavar="ANSWERS", help="query.py's csv, or captured *.jsonl"
    )
    parser.add_argument(
        "--run", type=Path, required=True, metavar="RUN", help="the run folder of the model"
    )
    parser.add_argument(
        "--dataset", type=Path, metavar="FOLDER", help="the dataset that the run was evaluated on"
    )
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER", help="default: RUN/drift")
    parser.add_argument(
        "--alpha",
        type=share,
        default=0.01,
        help="share of false alarms that is taken, of all statistics together (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--smallest_difference",
        type=share,
        default=0.1,
        metavar="SHARE",
        help="what matters: the share of photos that lie elsewhere (default: %(default)s)",
    )
    return parser


def share(text: str) -> float:
    """Return a share from 0 to below 1. Raises: ValueError: it is none."""
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError(text)
    return value


share.__name__ = "share from 0 to below 1"  # what argparse names in "invalid ... value"


@dataclass(frozen=True)
class Reference:
    """What the model was validated on.

    Args:
        counts: those that it knows, items.
        group: (num_photos,), the name of each bin's group.
        values: of each statistic, float (num_photos,).
        image_size: edge of the photos, pixels; None: they are not at hand.
    """

    counts: tuple[int, ...]
    group: np.ndarray
    values: dict[str, np.ndarray]
    image_size: int | None


def report_drift(arguments: argparse.Namespace, output_dir: Path) -> bool:
    """Compare, print the table, write JSON and picture, and return whether something has drifted.

    Raises: ValueError, OSError: a file is missing or damaged, or what there is cannot be compared.
    """
    from tqdm import tqdm

    from compare_runs import markdown
    from monitoring.answers import query_answers
    from monitoring.captured_data import captured_answers
    from monitoring.samples import sample_of

    source = arguments.answers
    if not source.exists():
        raise ValueError(f"there is no {source}: name query.py's csv, or what was captured.")
    reference = read_reference(arguments.run, arguments.dataset)
    read = query_answers if source.suffix.lower() == ".csv" else captured_answers
    sample = sample_of(
        tqdm(read(source), desc="answers", unit="photo", disable=None), reference.image_size
    )
    if not sample.versions:
        raise ValueError(f"{source} holds no answer.")
    check_model(arguments.run, reference.counts, sample.counts, sample.versions)
    found = compared(reference, sample.values, arguments.alpha, arguments.smallest_difference)
    if not found:
        raise ValueError(f"{source} holds fewer than {MIN_PHOTOS} photos: wait for more.")
    num_observed = max(row["num_observed"] for row in found)
    print(
        f"{num_observed:,} photos against the {len(reference.group):,} of the validation split.\n"
    )
    print(markdown(HEADER, [table_row(row) for row in found]))
    for row in found:
        if row["verdict"] == DRIFTED:
            print(f"\n{in_words(row)}")
    print()
    print(*left_out_lines(reference, sample.values, sample.left_out), sep="\n", end="")
    figures = {
        "answers": str(source),
        "alpha": arguments.alpha,
        "smallest_difference": arguments.smallest_difference,
        "num_reference": len(reference.group),
        "version": min(sample.versions),
        "left_out": dict(sample.left_out),
        "statistics": found,
    }
    write_outputs(figures, reference, sample.values, output_dir)
    drifted = [row["name"] for row in found if row["verdict"] == DRIFTED]
    print(f"Drifted: {', '.join(drifted)}." if drifted else "Nothing has drifted.")
    print(f"Figures: {output_dir / 'drift.json'}\nNext: open {output_dir / 'drift.png'}")
    return bool(drifted)


def read_reference(run_dir: Path, dataset: Path | None) -> Reference:
    """Return what a run says of its validation split, and what these photos look like.

    Raises: ValueError: a file is missing or damaged, there are too few photos, or they are of
        another dataset.
    """
    import io

    from PIL import Image
    from tqdm import tqdm

    from compare_runs import read_predictions_file
    from dataset_rows import rows_of_split
    from evaluation import read_evaluation
    from monitoring.photo_statistics import STATISTICS, photo_statistics
    from monitoring.samples import CONFIDENCE, COUNT, columns

    predictions = read_evaluation(read_predictions_file(run_dir, "validation"))
    num_photos = len(predictions.ids)
    if num_photos < MIN_PHOTOS:
        raise ValueError(
            f"{run_dir} was validated on {num_photos} photos: {MIN_PHOTOS} are needed."
        )
    values = {COUNT: predictions.most_likely.astype(float), CONFIDENCE: predictions.confidence}
    image_size = None
    if dataset is not None:
        rows = rows_of_split(dataset, predictions.ids.tolist(), ["image"], "validation")
        photos = [image["bytes"] for image in rows["image"].to_pylist()]
        image_size = Image.open(io.BytesIO(photos[0])).width
        progress = tqdm(photos, desc="validation", unit="photo", disable=None)
        values |= columns(STATISTICS, [photo_statistics(photo, image_size) for photo in progress])
    return Reference(tuple(predictions.counts.tolist()), predictions.group, values, image_size)


def check_model(
    run_dir: Path, counts: tuple[int, ...], answered: tuple[int, ...], versions: frozenset[str]
) -> None:
    """Check that it was this run's model that answered, as far as that can be known.

    Raises: ValueError: it was another one, or more than one.
    """
    if len(versions) > 1:
        raise ValueError(
            f"{len(versions)} models have answered ({', '.join(sorted(versions))}): give the "
            "answers of one, such as the captured folders of the days since it was deployed."
        )
    if counts != answered:
        raise ValueError(f"{run_dir} counts {counts}, and the model that answered {answered}.")
    weights = run_dir / WEIGHTS
    if not weights.is_file():  # of a job's results, whose model lies elsewhere
        return
    with weights.open("rb") as file:
        version = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    if {version} != versions:
        raise ValueError(
            f"{min(versions)} has answered, and the model of {run_dir} is {version}: give the run "
            "of the model that is deployed."
        )


def compared(
    reference: Reference, values: Mapping[str, np.ndarray], alpha: float, smallest: float
) -> list[dict[str, Any]]:
    """Return a row of figures for each statistic that both sides tell.

    Args:
        values: of each statistic, float (num_observed,).
        alpha: share of false alarms, of all statistics together.
        smallest: distance that matters, a share of photos.
    """
    from monitoring.group_test import difference, holm

    names = [name for name in reference.values if len(values.get(name, ())) >= MIN_PHOTOS]
    rows = [(reference.values[name], values[name]) for name in names]
    differences = [difference(before, reference.group, now) for before, now in rows]
    p_values = holm(np.array([found.p_value for found in differences]))
    figures = []
    for name, (before, now), found, p_value in zip(names, rows, differences, p_values, strict=True):
        is_chance = p_value > alpha
        # The distance at which this statistic alone would be more than chance.
        seen_from = float(np.quantile(found.by_chance, 1 - alpha / len(names)))
        figures.append(
            {
                "name": name,
                "num_observed": len(now),
                "validation_mean": float(before.mean()),
                "mean": float(now.mean()),
                "distance": found.distance,
                "at": found.at,
                "validation_share": found.shares[0],
                "share": found.shares[1],
                "seen_from": seen_from,
                "p_value": float(p_value),
                "verdict": (
                    AS_BEFORE if is_chance else LITTLE if found.distance < smallest else DRIFTED
                ),
            }
        )
    return figures


def table_row(row: Mapping[str, Any]) -> list[str]:
    """Return a line of the table."""
    digits = DIGITS.get(row["name"], 3)
    means = [f"{row[name]:.{digits}f}" for name in ("validation_mean", "mean")]
    points = [f"{100 * row[name]:.1f} %" for name in ("distance", "seen_from")]
    return [row["name"], *means, *points, f"{row['p_value']:.4f}", row["verdict"]]


def in_words(row: Mapping[str, Any]) -> str:
    """Return a drift as a sentence."""
    digits = 0 if row["name"] == "count" else 3
    return (
        f"A {row['name']} of at most {row['at']:.{digits}f}: {row['validation_share']:.0%} of the "
        f"validation photos, {row['share']:.0%} now."
    )


def left_out_lines(
    reference: Reference, values: Mapping[str, np.ndarray], left_out: Mapping[str, int]
) -> list[str]:
    """Return what was not compared, in words; each line ends the one before."""
    lines = [f"{number:,} {reason}." for reason, number in left_out.items()]
    if reference.image_size is None:
        lines.append("Photos are not compared: --dataset names those of the validation split.")
    few = [
        f"{name} ({len(values[name])})"
        for name in reference.values
        if len(values.get(name, ())) < MIN_PHOTOS
    ]
    if few:
        lines.append(f"Not compared, of fewer than {MIN_PHOTOS} photos: {', '.join(few)}.")
    return [*lines, ""]


def write_outputs(
    figures: dict[str, Any],
    reference: Reference,
    values: Mapping[str, np.ndarray],
    output_dir: Path,
) -> None:
    """Write drift.json and drift.png."""
    from monitoring.drift_picture import Panel, draw_drift
    from monitoring.samples import COUNT
    from whole_outputs import whole_file

    panels = []
    for row in figures["statistics"]:
        name = row["name"]
        digits = DIGITS.get(name, 3)
        panels.append(
            Panel(
                f"{name}: {row['validation_mean']:.{digits}f} → {row['mean']:.{digits}f}, "
                f"{row['verdict']}",
                reference.values[name],
                values[name],
                row["verdict"] == DRIFTED,
                reference.counts if name == COUNT else (),
            )
        )
    draw_drift(panels, ("validation", "now"), output_dir / "drift.png")
    with whole_file(output_dir / "drift.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
