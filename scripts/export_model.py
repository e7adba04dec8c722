"""Write a faster form of a model for CPUs beside its safetensors, where the endpoint takes it.

    python scripts/export_model.py --model runs/vit_base/model --dataset_dir data/bins

OpenVINO in bf16, with the photo's normalizing, the softmax and the item heads in the graph; a
change head is a second one. Both forms answer the dataset's test split first, its photos and the
changes between its visits; the new one is kept only if it counts and doubts as the old one does.
Another training into the same folder makes it stale: the handler says so and takes the safetensors.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from count_distribution import confidence_levels
from items.answers import told_items
from one_line_parser import OneLineErrorsParser, reason_of
from output_files import sync
from serving.bin_counter import (
    EXPORT_FOLDER,
    EXPORT_HEAD,
    EXPORT_MODEL,
    EXPORT_RECORD,
    BinCounter,
    Network,
    OpenVinoNetwork,
    Preparation,
    Seen,
    available_cores,
    import_openvino,
    photos_to_probabilities,
    sha256_of,
)
from serving.photo_checks import decode_photo
from serving.served_code import needed_by_export, write_served_code
from visits.chain import change_columns, possible_changes
from visits.neighbours import visit_runs

PRECISIONS = ("bf16", "f32")
SPLIT = "test"
BATCH_SIZE = 32
# What the exported form may be off by on the test split, in counts and in changes.
MAX_ACCURACY_LOST = 0.002
MAX_LOG_LIKELIHOOD_LOST = 0.005  # nats a photo: what wrong or blurred probabilities cost
MAX_CALIBRATION_LOST = 0.005
MAX_DIFFERENCE = {"bf16": 0.05, "f32": 1e-4}  # of any probability
# The change head makes much of small differences of two photos, those of rounding among them.
MAX_DIFFERENCE_OF_CHANGE = {"bf16": 0.05, "f32": 1e-3}
# Of the mean of any size, in what the safetensors say that it is off by, and of any spread's
# logarithm or probability of so many distinct items.
MAX_DIFFERENCE_OF_ITEMS = {"bf16": 0.2, "f32": 1e-3}
FORMS = ("safetensors", "exported")
OF_SIZES = {"items": "the size of items", "volume_changes": "the change of volume"}


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
    graphs = converted(model_dir, counter.preparation)
    exported = OpenVinoNetwork(graphs, precision, num_threads)
    split = read_test_photos(dataset_dir, counter)
    answers = dict(zip(FORMS, (Answers(counter.network), Answers(exported)), strict=True))
    for start in tqdm(range(0, len(split.photos), BATCH_SIZE), desc=f"batches of {BATCH_SIZE}"):
        rows = slice(start, start + BATCH_SIZE)
        batch = np.stack([decode(photo, counter) for photo in split.photos[rows]])
        for form in answers.values():
            form.ask(batch, split.follows[rows] if counter.tells_changes else None)
    record = {
        "version": counter.version,
        "heads": counter.head_versions,
        "precision": exported.precision,
        "openvino": version("openvino"),
        **compared_counts(answers, split),
    }
    if counter.tells_changes:
        record |= {
            **compared_changes(answers, split, counter),
        }
    if counter.tells_items:
        record["items"] = compared_items(answers)
    print(table(record))
    check(record)
    write(model_dir, graphs, record)
    return record


def converted(model_dir: Path, preparation: Preparation) -> list[Any]:
    """Return the model as OpenVINO graphs, those that OpenVinoNetwork takes.

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
        # LeViT keeps what it computes the first time, which a trace cannot.
        views = module(example)[module.num_told :]
        try:
            graphs = [_traced(module, (example,), openvino.Type.u8)]
            for view in views:
                graphs.append(_traced(module.changes, (view, view), openvino.Type.f32))
            return graphs
        except Exception as error:  # some networks do what a trace or OpenVINO does not know
            raise ValueError(
                f"OpenVINO cannot take this network ({reason_of(error)}): nothing was written, "
                "and the safetensors serve as they are."
            ) from error


def _traced(module: Any, examples: tuple[Any, ...], kind: Any) -> Any:
    """Return a torch module as a graph for any number of rows."""
    openvino = import_openvino()
    shapes = [openvino.PartialShape([-1, *example.shape[1:]]) for example in examples]
    return openvino.convert_model(
        module,
        example_input=examples[0] if len(examples) == 1 else examples,
        input=[(shape, kind) for shape in shapes],
    )


@dataclass(frozen=True)
class VisitedPhotos:
    """The test split, the visits of a bin one after another.

    Args:
        photos: JPEGs.
        labels: int (num_photos,).
        follows: bool (num_photos,), whether a photo shows the bin of the one before it.
    """

    photos: list[bytes]
    labels: np.ndarray
    follows: np.ndarray


def read_test_photos(dataset_dir: str, counter: BinCounter) -> VisitedPhotos:
    """Return the test split of a dataset.

    Raises: ValueError: no such dataset or split, or it counts something else.
    """
    from count_distribution import counts_of_labels
    from training.bin_dataset import load_bins, visits_of  # seconds to import: not for --help

    bins = load_bins(dataset_dir, [SPLIT])[SPLIT]
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


@dataclass
class Answers:
    """What one form of the model answers to photos, batch after batch."""

    network: Network
    counts: list[np.ndarray] = field(default_factory=list)
    items: list[np.ndarray] = field(default_factory=list)
    changes: list[np.ndarray] = field(default_factory=list)
    last_view: np.ndarray | None = None

    def ask(self, batch: np.ndarray, follows: np.ndarray | None) -> None:
        """Ask about a batch, and about the change to each photo that follows another.

        Args:
            batch: uint8 (batch, height, width, 3).
            follows: bool (batch,), whether a photo shows the bin of the one before it, which may be
                the last of the batch before; None where there is no change head.
        """
        if follows is None:
            self._keep(self.network.look(batch))
            return
        seen, views = self.network.look_for_changes(batch)
        self._keep(seen)
        if follows.any():
            first = views[:1] if self.last_view is None else self.last_view
            before = np.concatenate([first, views[:-1]])
            self.changes.append(self.network.changes(before[follows], views[follows]))
        self.last_view = views[-1:]

    def _keep(self, seen: Seen) -> None:
        self.counts.append(seen.probabilities)
        if seen.items is not None:
            self.items.append(seen.items)


def decode(photo: bytes, counter: BinCounter) -> np.ndarray:
    """Return a photo as the endpoint decodes it, uint8 (height, width, 3)."""
    return decode_photo(photo, counter.preparation.size, counter.preparation.resample)


def compared_counts(answers: Mapping[str, Answers], split: VisitedPhotos) -> dict[str, Any]:
    """Return what export.json says of the counts."""
    probabilities = {form: np.concatenate(given.counts) for form, given in answers.items()}
    return {"num_photos": len(split.labels), **comparison(probabilities, split.labels)}


def compared_changes(
    answers: Mapping[str, Answers], split: VisitedPhotos, counter: BinCounter
) -> dict[str, Any]:
    """Return what export.json says of the changes, as they are given to users."""
    later = np.flatnonzero(split.follows)
    if len(later) == 0:
        return {"num_pairs": 0}
    said = {form: np.concatenate(given.changes) for form, given in answers.items()}
    changes = {form: counter.visit_model.changes(each) for form, each in said.items()}
    true = change_columns(counter.counts)[split.labels[later - 1], split.labels[later]]
    compared = {"num_pairs": len(later), "changes": comparison(changes, true)}
    volumes = [said[form][:, len(possible_changes(counter.counts)) :] for form in FORMS]
    if volumes[0].size:
        off = off_by(*(each[:, :1] for each in volumes), *(each[:, 1:] for each in volumes))
        compared["volume_changes"] = differences(off)
    return compared


def compared_items(answers: Mapping[str, Answers]) -> dict[str, float]:
    """Return what export.json says of the items: how far both forms are apart."""
    plain, fast = (told_items(np.concatenate(answers[form].items)) for form in FORMS)
    sizes = off_by(plain.means, fast.means, np.log(plain.spreads), np.log(fast.spreads))
    return differences(np.concatenate([sizes, fast.distinct - plain.distinct], axis=1))


def off_by(
    means: np.ndarray, fast_means: np.ndarray, log_spreads: np.ndarray, fast_spreads: np.ndarray
) -> np.ndarray:
    """Return how far both forms are apart in what they say of sizes, of one shape.

    Returns: for the means in what the safetensors say that they are off by, then for the
        logarithms of spreads.
    """
    of_means = (fast_means - means) / np.exp(log_spreads)
    return np.concatenate([of_means, fast_spreads - log_spreads], axis=1)


def differences(off: np.ndarray) -> dict[str, float]:
    """Return the largest and the mean difference, as export.json has them."""
    return {
        "largest_difference": float(np.abs(off).max()),
        "mean_difference": float(np.abs(off).mean()),
    }


def comparison(of_form: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Return the figures of each form, and how far they are apart.

    Args:
        of_form: what each of FORMS answers, float (num_rows, num_classes).
        labels: int (num_rows,).
    """
    # One grouping for both: a photo that crosses an edge would take its whole error with it.
    levels = confidence_levels(of_form["safetensors"].max(axis=1))
    difference = of_form["exported"] - of_form["safetensors"]
    return {
        **{form: figures(rows, labels, levels) for form, rows in of_form.items()},
        **differences(difference),
    }


def figures(probabilities: np.ndarray, labels: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """Return how well probabilities, (num_rows, num_classes), fit labels, (num_rows,).

    Args:
        levels: int (num_rows,), the groups in which confidence and accuracy are compared.
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
    precision = record["precision"]
    check_answers(record, record["num_photos"], MAX_DIFFERENCE[precision], precision)
    if "changes" in record:
        most = MAX_DIFFERENCE_OF_CHANGE[precision]
        check_answers(record["changes"], record["num_pairs"], most, precision, " of changes")
    for name, what in OF_SIZES.items():
        if name in record:
            limit = MAX_DIFFERENCE_OF_ITEMS[precision]
            check_limits({what: (record[name]["largest_difference"], limit)}, precision)


def check_answers(
    compared: dict[str, Any], num_rows: int, max_difference: float, precision: str, what: str = ""
) -> None:
    """Check one kind of answers, of `comparison`. Raises: ValueError: they are worse by too much.

    Args:
        max_difference: that any probability may be off by.
        what: is told of them in a message.
    """
    before, after = compared["safetensors"], compared["exported"]
    one = 1.5 / num_rows  # of a few answers one may tip over by any rounding
    limits = {
        f"accuracy{what}": (
            before["accuracy"] - after["accuracy"],
            max(MAX_ACCURACY_LOST, one),
        ),
        f"negative log likelihood{what}": (
            after["negative_log_likelihood"] - before["negative_log_likelihood"],
            MAX_LOG_LIKELIHOOD_LOST,
        ),
        f"expected calibration error{what}": (
            after["expected_calibration_error"] - before["expected_calibration_error"],
            max(MAX_CALIBRATION_LOST, one),
        ),
        f"a probability{what}": (compared["largest_difference"], max_difference),
    }
    check_limits(limits, precision)


def check_limits(limits: Mapping[str, tuple[float, float]], precision: str) -> None:
    """Check what was lost, by its name, against its limit. Raises: ValueError: one is passed."""
    for name, (lost, limit) in limits.items():
        # Not `>`: nan is too much, too.
        if not lost <= limit:
            raise ValueError(
                f"in {precision} {name} is off by {lost:.4f}, more than {limit:.4g}: nothing "
                "was written; --precision f32 is exact, and slower."
            )


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
