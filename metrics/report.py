"""Turn a run's predictions on its test split into a report: one HTML page, PNGs and JSON.

    python metrics/report.py runs/vit_tiny --dataset data/bins

OUTPUT_DIR (default: RUN/report) gets index.html, which holds everything, the PNGs in it, and
report.json with the figures: those of changes between visits of a bin and of its items' sizes too,
if the run tells any, and those of scripts/audit.py --evaluate, if it measured some. With the
dataset it also shows errors by the number of distinct items, and a gallery of the worst errors:
those photos are Amazon's (CC BY-NC-SA 3.0 US), share the page accordingly. Of an audit of the same
model, made with scripts/audit.py --heat_maps, it takes where in them the model sees what it counts.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from compare_runs import model_dir_of, read_json, read_predictions_file
from dataset_rows import rows_of_split
from evaluation import Evaluation, figures, read_evaluation, worst_errors
from finished_audits.heat_map_overlays import read_overlays
from item_figures import items_of_run
from report_page import GalleryPhoto, report_page
from report_plots import MISSING, write_plots
from strict_parser import StrictParser
from visit_figures import visits_of_run
from whole_outputs import whole_file

GALLERY_SIZE = 24
AUDIT_EVALUATION = "audit_evaluation.json"


def main(argv: list[str] | None = None) -> None:
    """Write the report of the run named on the command line."""
    parser = StrictParser(__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--dataset", type=Path, metavar="FOLDER", help="the dataset that the run was tested on"
    )
    parser.add_argument(
        "--heat_maps",
        type=Path,
        metavar="AUDIT",
        help="show over the photos of --dataset the maps of an audit of its test split: the folder "
        "that audit.py --heat_maps wrote",
    )
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER", help="default: RUN/report")
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        if arguments.heat_maps and not arguments.dataset:
            parser.error("--heat_maps lie over the photos: give their --dataset, too.")
        run_dir: Path = arguments.run_dir
        output_dir = arguments.output_dir or run_dir / "report"
        page = write_report(run_dir, arguments.dataset, arguments.heat_maps, output_dir)
        print(f"Report: {page}")


def write_report(
    run_dir: Path, dataset: Path | None, audit_dir: Path | None, output_dir: Path
) -> Path:
    """Write a run's report and return the path of its page.

    Args:
        audit_dir: of an audit whose heat maps lie over the photos of the dataset; None shows none.

    Raises: ValueError: the run has no predictions, or they belong to another dataset, or the audit
        to another model.
    """
    predictions = read_predictions_file(run_dir)
    try:
        evaluation = read_evaluation(predictions)
    except ValueError as error:
        raise ValueError(f"{run_dir}: {error}") from error
    arguments = read_json(run_dir / "arguments.json")
    bins = None
    if dataset is not None:
        bins = rows_of_split(dataset, evaluation.ids.tolist(), ["asins", "image"])
    distinct = None
    if bins is not None and not bins["asins"].null_count:  # an official split may know no items
        distinct = [len(set(asins)) for asins in bins["asins"].to_pylist()]
    found = figures(evaluation, distinct)
    path = run_dir / "all_results.json"
    results = read_json(path) if path.exists() else {}
    visits = visits_of_run(run_dir, results, predictions)
    found |= {"visits": visits, "items": items_of_run(predictions, evaluation.group)}
    audit = audit_figures(run_dir)
    errors = [] if audit is None else audit.get("item_errors", [])
    of_missing = any(error["name"] == MISSING for error in errors)
    found |= {"audit": audit, "item_errors": errors if of_missing else None}
    gallery = [] if bins is None else gallery_photos(evaluation, bins)
    if audit_dir is not None:
        gallery = with_heat_maps(gallery, audit_dir, model_dir_of(run_dir, arguments))
    plots = write_plots(found, output_dir)
    with whole_file(output_dir / "report.json") as temporary:
        temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    with whole_file(output_dir / "index.html") as temporary:
        page = report_page(run_dir.resolve().name, arguments, found, plots, gallery)
        temporary.write_text(page, encoding="utf-8")
    return output_dir / "index.html"


def audit_figures(run_dir: Path) -> dict[str, Any] | None:
    """Return what scripts/audit.py --evaluate measured on these predictions, None where it did not.

    Raises: ValueError: the file is damaged.
    """
    path = run_dir / AUDIT_EVALUATION
    if not path.exists():
        return None
    try:
        measured = json.loads(path.read_text())
        digest = measured["predictions_sha256"]
        is_of_now = all("estimated_rate" in kind for kind in measured["kinds"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): python scripts/audit.py --evaluate {run_dir} measures "
            "again."
        ) from error
    predictions = (run_dir / "predictions_test.parquet").read_bytes()
    if is_of_now and digest == hashlib.sha256(predictions).hexdigest():
        return measured
    print(
        f"{path} is of {'other predictions' if is_of_now else 'an older audit'} and left out: "
        f"scripts/audit.py --evaluate {run_dir}",
        file=sys.stderr,
    )
    return None


def gallery_photos(evaluation: Evaluation, bins: pa.Table) -> list[GalleryPhoto]:
    """Return the photos where the model was surest of a wrong count."""
    rows = worst_errors(evaluation, GALLERY_SIZE)
    images = bins["image"].take(rows).to_pylist()
    return [
        GalleryPhoto(
            bin_id=str(evaluation.ids[row]),
            expected=int(evaluation.expected[row]),
            counted=int(evaluation.most_likely[row]),
            confidence=float(evaluation.confidence[row]),
            items=tuple(sorted(set(bins["asins"][int(row)].as_py() or ()))),
            jpeg=image["bytes"],
        )
        for row, image in zip(rows, images, strict=True)
    ]


def with_heat_maps(
    gallery: Sequence[GalleryPhoto], audit_dir: Path, model_dir: Path
) -> list[GalleryPhoto]:
    """Return the photos with the maps that an audit drew of them, and tell of those without.

    Raises: ValueError: as read_overlays.
    """
    overlays = read_overlays(audit_dir, model_dir, [photo.bin_id for photo in gallery])
    without = [photo.bin_id for photo in gallery if photo.bin_id not in overlays]
    if without:
        print(
            f"{len(without)} of the {len(gallery)} photos shown, such as bin {without[0]}, have no "
            f"heat map in {audit_dir}: it has those of the bins that its page shows.",
            file=sys.stderr,
        )
    return [replace(photo, heat=overlays.get(photo.bin_id)) for photo in gallery]


if __name__ == "__main__":
    main()
