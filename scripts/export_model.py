"""Write a faster form of a model for CPUs beside its safetensors, where the endpoint takes it.

    python scripts/export_model.py --model runs/vit_base/model --dataset_dir data/bins

OpenVINO in bf16, with the photo's normalizing and the softmax in the graph. Both forms answer the
dataset's test split first; the new one is kept only if it counts and doubts as the old one does.
Another training into the same folder makes it stale: the handler says so and takes the safetensors.
"""

import json
import logging
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from count_distribution import confidence_levels
from one_line_parser import OneLineErrorsParser, reason_of
from output_files import sync
from serving.bin_counter import (
    EXPORT_FOLDER,
    EXPORT_MODEL,
    EXPORT_RECORD,
    EXPORT_WEIGHTS,
    BinCounter,
    OpenVinoNetwork,
    Preparation,
    available_cores,
    import_openvino,
    photos_to_probabilities,
    sha256_of,
)
from serving.photo_checks import decode_photo
from serving.served_code import needed_by_export, write_served_code

PRECISIONS = ("bf16", "f32")
SPLIT = "test"
BATCH_SIZE = 32
# What the exported form may be off by, on the test split.
MAX_ACCURACY_LOST = 0.002
MAX_LOG_LIKELIHOOD_LOST = 0.005  # nats a photo: what wrong or blurred probabilities cost
MAX_CALIBRATION_LOST = 0.005
MAX_DIFFERENCE = {"bf16": 0.05, "f32": 1e-4}  # of any probability of any photo


def main(argv: list[str] | None = None) -> None:
    """Export, compare, and keep what is as good."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("--model", required=True, type=Path, help="model folder of a run")
    parser.add_argument("--dataset_dir", required=True, help="dataset that it was trained on")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of the arithmetic; the weights stay in f32, and a CPU without bf16 computes in f32 "
        "(default: %(default)s)",
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

    Returns: the figures of both forms, as export.json has them.
    Raises: ValueError: no model, no dataset, or the exported form is not as good.
    """
    num_threads = available_cores()
    counter = BinCounter(model_dir, num_threads, use_export=False)
    graph = converted(model_dir, counter.preparation)
    exported = OpenVinoNetwork(graph, precision, num_threads)
    photos, labels = read_test_photos(dataset_dir, counter)
    answers: dict[str, list[np.ndarray]] = {"safetensors": [], "exported": []}
    for start in tqdm(range(0, len(photos), BATCH_SIZE), desc=f"batches of {BATCH_SIZE}"):
        batch = np.stack([decode(photo, counter) for photo in photos[start : start + BATCH_SIZE]])
        answers["safetensors"].append(counter.network(batch))
        answers["exported"].append(exported(batch))
    probabilities = {form: np.concatenate(parts) for form, parts in answers.items()}
    record = {
        "version": counter.version,
        "precision": exported.precision,
        "num_photos": len(labels),
        "openvino": version("openvino"),
    }
    # One grouping for both: a photo that crosses an edge would take its whole error with it.
    levels = confidence_levels(probabilities["safetensors"].max(axis=1))
    record |= {form: figures(rows, labels, levels) for form, rows in probabilities.items()}
    difference = np.abs(probabilities["exported"] - probabilities["safetensors"])
    record["largest_difference"] = float(difference.max())
    record["mean_difference"] = float(difference.mean())
    print(table(record))
    check(record)
    write(model_dir, graph, record)
    return record


def converted(model_dir: Path, preparation: Preparation) -> Any:
    """Return the model as an OpenVINO graph: uint8 (batch, height, width, 3) to probabilities.

    Raises: ValueError: it cannot be one.
    """
    import torch

    openvino = import_openvino()
    height, width = preparation.size
    example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    module = photos_to_probabilities(model_dir, preparation)
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns of each size that it takes as fixed; all but the batch's are.
        warnings.simplefilter("ignore")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        module(example)  # LeViT keeps what it computes the first time, which a trace cannot
        try:
            return openvino.convert_model(
                module,
                example_input=example,
                input=[(openvino.PartialShape([-1, height, width, 3]), openvino.Type.u8)],
            )
        except Exception as error:  # some networks do what a trace or OpenVINO does not know
            raise ValueError(
                f"OpenVINO cannot take this network ({reason_of(error)}): nothing was written, "
                "and the safetensors serve as they are."
            ) from error


def read_test_photos(dataset_dir: str, counter: BinCounter) -> tuple[list[bytes], np.ndarray]:
    """Return the JPEGs of the test split, and their labels, int (num_photos,).

    Raises: ValueError: no such dataset or split, or it counts something else.
    """
    from count_distribution import counts_of_labels
    from training.bin_dataset import load_bins  # seconds to import: not for --help

    bins = load_bins(dataset_dir, [SPLIT])[SPLIT]
    if counts_of_labels(bins.features["label"].names) != counter.counts:
        raise ValueError(
            f"{counter.model_dir} counts {counter.counts}, and {dataset_dir} has other labels: "
            "name the dataset that the model was trained on."
        )
    return [image["bytes"] for image in bins["image"]], np.array(bins["label"])


def decode(photo: bytes, counter: BinCounter) -> np.ndarray:
    """Return a photo as the endpoint decodes it, uint8 (height, width, 3)."""
    return decode_photo(photo, counter.preparation.size, counter.preparation.resample)


def figures(probabilities: np.ndarray, labels: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """Return how well probabilities, (num_photos, num_counts), fit labels, (num_photos,).

    Args:
        levels: int (num_photos,), the groups in which confidence and accuracy are compared.
    """
    probabilities = probabilities.astype(np.float64)
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    of_label = probabilities[np.arange(len(labels)), labels]
    gaps = np.bincount(levels, confidence - is_right)
    return {
        "accuracy": float(is_right.mean()),
        "negative_log_likelihood": float(-np.log(np.maximum(of_label, 1e-300)).mean()),
        "expected_calibration_error": float(np.abs(gaps).sum() / len(labels)),
    }


def check(record: dict[str, Any]) -> None:
    """Check that the exported form may stand in. Raises: ValueError: it is worse by too much."""
    before, after = record["safetensors"], record["exported"]
    limits = {
        "accuracy": (before["accuracy"] - after["accuracy"], MAX_ACCURACY_LOST),
        "negative log likelihood": (
            after["negative_log_likelihood"] - before["negative_log_likelihood"],
            MAX_LOG_LIKELIHOOD_LOST,
        ),
        "expected calibration error": (
            after["expected_calibration_error"] - before["expected_calibration_error"],
            MAX_CALIBRATION_LOST,
        ),
        "a probability": (record["largest_difference"], MAX_DIFFERENCE[record["precision"]]),
    }
    for name, (lost, limit) in limits.items():
        # Not `>`: nan is too much, too.
        if not lost <= limit:
            raise ValueError(
                f"in {record['precision']} {name} is off by {lost:.4f}, more than {limit}: nothing "
                "was written; --precision f32 is exact, and slower."
            )


def write(model_dir: Path, graph: Any, record: dict[str, Any]) -> None:
    """Write the graph, its record and the handler's code; a killed run leaves no half of it."""
    folder, part = model_dir / EXPORT_FOLDER, model_dir / f"{EXPORT_FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    # In full: f16 weights would differ from those that were checked.
    import_openvino().save_model(graph, part / EXPORT_MODEL, compress_to_fp16=False)
    (part / EXPORT_MODEL).with_suffix(".bin").rename(part / EXPORT_WEIGHTS)
    checksums = {name: sha256_of(part / name) for name in (EXPORT_MODEL, EXPORT_WEIGHTS)}
    content = json.dumps(record | {"sha256": checksums}, indent=2) + "\n"
    (part / EXPORT_RECORD).write_text(content)
    for path in (*part.iterdir(), part):
        sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    sync(model_dir)
    write_served_code(model_dir, *needed_by_export(model_dir))


def table(record: dict[str, Any]) -> str:
    """Return the figures of both forms, a line each."""
    head = f"{record['num_photos']} test photos"
    lines = [f"{head:<28}safetensors   openvino {record['precision']}"]
    for name in ("accuracy", "negative_log_likelihood", "expected_calibration_error"):
        values = [record[form][name] for form in ("safetensors", "exported")]
        lines.append(f"{name.replace('_', ' '):<28}{values[0]:>11.4f}{values[1]:>16.4f}")
    largest, mean = record["largest_difference"], record["mean_difference"]
    lines.append(f"a probability differs by {largest:.4f} at most, by {mean:.5f} on average")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
