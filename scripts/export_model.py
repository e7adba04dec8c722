"""Write a faster form of a model for CPUs beside its safetensors, where the endpoint takes it.

    python scripts/export_model.py --model runs/vit_base/model --dataset_dir data/bins

OpenVINO in int8 (NNCF, its ranges measured on validation photos) or in bf16, with the photo's
normalizing, the softmax and the item heads in the graph; a change head is a second one. All forms
answer the dataset's test split first, its photos and the changes between its visits; one that does
not count and doubt as the safetensors do is refused, and of the others the one is kept that answers
most photos a second on this machine.
Another training into the same folder makes it stale: the handler says so and takes the safetensors.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from exporting.comparison import (
    FORMS,
    OF_SIZES,
    Answers,
    VisitedPhotos,
    compared_changes,
    compared_counts,
    compared_items,
)
from exporting.graphs import converted, quantized
from exporting.limits import check
from exporting.speed import Speed, name_of_cpu, speeds
from one_line_parser import OneLineErrorsParser
from output_files import sync
from serving.bin_counter import (
    EXPORT_FOLDER,
    EXPORT_HEAD,
    EXPORT_MODEL,
    EXPORT_RECORD,
    BinCounter,
    OpenVinoNetwork,
    available_cores,
    import_openvino,
    multiplies_int8,
    sha256_of,
)
from serving.photo_checks import decode_photo
from serving.served_code import needed_by_export, write_served_code
from visits.neighbours import visit_runs

AUTO = "auto"
TRIED = ("int8", "bf16")  # by auto
PRECISIONS = (AUTO, *TRIED, "f32")
BATCH_SIZE = 32
NUM_CALIBRATION_PHOTOS = 300  # NNCF's own default


def main(argv: list[str] | None = None) -> None:
    """Export, compare, and keep what is as good."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="model folder of a run")
    parser.add_argument("--dataset_dir", required=True, help="dataset that it was trained on")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=AUTO,
        help="of the arithmetic: int8, of weights too; bf16, which a CPU without it computes in "
        "f32; f32. auto tries int8 and bf16, and of those that answer as the safetensors do keeps "
        "the one with most photos a second (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        export(arguments.model, arguments.dataset_dir, arguments.precision)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    print(f"\nWrote {arguments.model / EXPORT_FOLDER}")
    print(f"Next: python scripts/inference.py --model {arguments.model} --port 8080")


def export(model_dir: Path, dataset_dir: str, precision: str) -> dict[str, Any]:
    """Export a model folder's model, check it, and write it into the folder.

    Args:
        precision: one of PRECISIONS.

    Returns: the figures of both forms, as export.json has them.
    Raises: ValueError: no model, no dataset, or no exported form is as good.
    """
    num_threads = available_cores()
    counter = BinCounter(model_dir, num_threads, use_export=False)
    wanted = TRIED if precision == AUTO else (precision,)
    graphs, refused = graphs_in(wanted, model_dir, dataset_dir, counter)
    if not graphs:
        raise none_is_good(refused)
    networks = {name: OpenVinoNetwork(each, name, num_threads) for name, each in graphs.items()}
    split = read_photos(dataset_dir, "test", counter)
    records = records_of(split, counter, networks)
    for name, record in records.items():
        print(table(record), end="\n\n")
        try:
            check(record)
        except ValueError as error:
            refused[name] = str(error)
    good = [name for name in networks if name not in refused]
    if not good:
        raise none_is_good(refused)
    chosen = good[0]
    if precision == AUTO:
        photos = np.stack([decode(photo, counter) for photo in split.photos[:BATCH_SIZE]])
        of_forms = speeds({FORMS[0]: counter.network, **networks}, photos)
        chosen = max(good, key=lambda name: of_forms[name].photos_a_second)
        records[chosen]["tried"] = {
            name: dataclasses.asdict(speed) | {"refused": refused.get(name)}
            for name, speed in of_forms.items()
        }
        records[chosen]["tried_on"] = f"{name_of_cpu()}, {num_threads} threads"
        print(table_of_speeds(of_forms, refused, chosen))
    write(model_dir, graphs[chosen], records[chosen])
    return records[chosen]


def none_is_good(refused: Mapping[str, str]) -> ValueError:
    """Return the error that says why nothing was written, of the reasons by precision."""
    reasons = "; ".join(refused.values())
    return ValueError(f"{reasons}: nothing was written; --precision f32 is exact, and slower.")


def graphs_in(
    wanted: Sequence[str], model_dir: Path, dataset_dir: str, counter: BinCounter
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return a model's graphs by precision, and by precision why there are none.

    Raises: ValueError: OpenVINO cannot take the model. ImportError: a library is not installed.
    """
    in_full = converted(model_dir, counter.preparation)
    graphs, refused = dict.fromkeys(wanted, in_full), {}
    if "int8" in wanted and not multiplies_int8():
        del graphs["int8"]
        refused["int8"] = "in int8 this CPU would answer otherwise (it has no VNNI)"
    elif "int8" in wanted:
        try:
            photos = read_photos(dataset_dir, "validation", counter).photos[:NUM_CALIBRATION_PHOTOS]
            in_eight_bits = quantized(in_full[0], [decode(each, counter)[None] for each in photos])
            graphs["int8"] = [in_eight_bits, *in_full[1:]]  # a change head is little work
        # ImportError: there is no NNCF. ValueError: nor validation photos, or it cannot do it.
        except (ValueError, ImportError) as error:
            del graphs["int8"]
            refused["int8"] = str(error)
    return graphs, refused


def records_of(
    split: VisitedPhotos, counter: BinCounter, networks: dict[str, OpenVinoNetwork]
) -> dict[str, dict[str, Any]]:
    """Return what export.json says of each exported form, and of the safetensors beside it."""
    answers = {name: Answers(net) for name, net in {FORMS[0]: counter.network, **networks}.items()}
    for start in tqdm(range(0, len(split.photos), BATCH_SIZE), desc=f"batches of {BATCH_SIZE}"):
        rows = slice(start, start + BATCH_SIZE)
        batch = np.stack([decode(photo, counter) for photo in split.photos[rows]])
        for form in answers.values():
            form.ask(batch, split.follows[rows] if counter.tells_changes else None)
    records = {}
    for name, network in networks.items():
        of_forms = dict(zip(FORMS, (answers[FORMS[0]], answers[name]), strict=True))
        records[name] = {
            "version": counter.version,
            "heads": counter.head_versions,
            "precision": network.precision,
            "openvino": version("openvino"),
            **compared_counts(of_forms, split),
            **(compared_changes(of_forms, split, counter) if counter.tells_changes else {}),
            **({"items": compared_items(of_forms)} if counter.tells_items else {}),
        }
    return records


def read_photos(dataset_dir: str, split: str, counter: BinCounter) -> VisitedPhotos:
    """Return a split of a dataset.

    Raises: ValueError: no such dataset or split, or it counts something else.
    """
    from count_distribution import counts_of_labels
    from training.bin_dataset import load_bins, visits_of  # seconds to import: not for --help

    bins = load_bins(dataset_dir, [split])[split]
    if counts_of_labels(bins.features["label"].names) != counter.counts:
        raise ValueError(
            f"{counter.model_dir} counts {counter.counts}, and {dataset_dir} has other labels: "
            "name the dataset that the model was trained on."
        )
    runs = visit_runs(*visits_of(bins))
    ordered = bins.select([row for run in runs for row in run])
    follows = np.array([place > 0 for run in runs for place in range(len(run))])
    photos = [image["bytes"] for image in ordered["image"]]
    return VisitedPhotos(photos, np.array(ordered["label"]), follows)


def decode(photo: bytes, counter: BinCounter) -> np.ndarray:
    """Return a photo as the endpoint decodes it, uint8 (height, width, 3)."""
    return decode_photo(photo, counter.preparation.size, counter.preparation.resample)


def write(model_dir: Path, graphs: list[Any], record: dict[str, Any]) -> None:
    """Write the graphs, their record and the handler's code; a killed run leaves no half of it."""
    folder, part = model_dir / EXPORT_FOLDER, model_dir / f"{EXPORT_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    checksums: dict[str, str] = {}
    for graph, names in zip(graphs, (EXPORT_MODEL, EXPORT_HEAD), strict=False):
        path, weights = (part / name for name in names)
        # In full: f16 weights would differ from those that were checked.
        import_openvino().save_model(graph, path, compress_to_fp16=False)
        path.with_suffix(".bin").rename(weights)
        checksums |= {name: sha256_of(part / name) for name in names}
    content = json.dumps(record | {"sha256": checksums}, indent=2) + "\n"
    (part / EXPORT_RECORD).write_text(content)
    for path in (*part.iterdir(), part):
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    sync(model_dir)
    write_served_code(model_dir, *needed_by_export(model_dir))


def table_of_speeds(of_forms: dict[str, Speed], refused: dict[str, str], chosen: str) -> str:
    """Return how fast each form is here, a line each, and what became of it."""
    lines = [f"{'on this machine':<28}{'ms a photo':>11}{'photos a second':>18}"]
    verdicts = {chosen: "kept"} | {name: f"refused: {why}" for name, why in refused.items()}
    for name, speed in of_forms.items():
        figures = f"{speed.milliseconds:>11.1f}{speed.photos_a_second:>18.1f}"
        lines.append(f"{name:<28}{figures}   {verdicts.get(name, '')}".rstrip())
    lines += [f"{name:<28}{why}" for name, why in refused.items() if name not in of_forms]
    return "\n".join(lines)


def table(record: dict[str, Any]) -> str:
    """Return the figures of both forms, a line each."""
    lines = _lines(record, record["precision"], f"{record['num_photos']} test photos")
    if "changes" in record:
        head = f"{record['num_pairs']} pairs of visits"
        lines += ["", *_lines(record["changes"], record["precision"], head)]
    elif "num_pairs" in record:
        lines += ["", "no pairs of visits in the test split: changes were not compared"]
    for name, what in OF_SIZES.items():
        if name in record:
            largest, mean = record[name]["largest_difference"], record[name]["mean_difference"]
            lines.append(
                f"{what} is off by {largest:.4f} spreads at most, by {mean:.5f} on average"
            )
    return "\n".join(lines)


def _lines(compared: dict[str, Any], precision: str, head: str) -> list[str]:
    lines = [f"{head:<28}safetensors   openvino {precision}"]
    for name in ("accuracy", "negative_log_likelihood", "expected_calibration_error"):
        values = [compared[form][name] for form in FORMS]
        lines.append(f"{name.replace('_', ' '):<28}{values[0]:>11.4f}{values[1]:>16.4f}")
    largest, mean = compared["largest_difference"], compared["mean_difference"]
    lines.append(f"a probability differs by {largest:.4f} at most, by {mean:.5f} on average")
    return lines


if __name__ == "__main__":
    main()
