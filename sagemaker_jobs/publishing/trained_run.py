"""A finished run of scripts/train.py: find its files, check that its model answers as recorded."""

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq
from PIL import Image

from publishing.model_archive import fetch, unpack

RECORD, PREDICTIONS, CHECK = "arguments.json", "predictions_test.parquet", "check.json"
# What the card has of visits comes from these; older runs lack the second.
RESULTS, CHANGES = "all_results.json", "changes_test.parquet"
WEIGHTS = "model*.safetensors"
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# Logits that were computed on a GPU differ from a CPU's by some thousandths; those of another
# epoch's weights by tenths.
LOGIT_TOLERANCE = 0.02
PROBABILITY_TOLERANCE = 0.01
SMALLEST = 1e-6  # of a probability whose logarithm is compared
CHANGE_ANSWER = "change_probabilities"
# What heads beside the model may say of the photos of a check, and how that is called.
HEAD_ANSWERS = {
    CHANGE_ANSWER: "the change between two drawn photos",
    "volume_change": "the change of volume between them",
    "item_answers": "the sizes of items in one",
}
NUM_CHECKED_BINS = 8


@dataclass(frozen=True)
class TrainedRun:
    """Where the files of a run are, and what it recorded."""

    folder: Path
    model_dir: Path
    arguments: dict[str, Any]
    label_names: list[str]

    def model_files(self) -> list[Path]:
        """Return the files that make the model, without code and without pickles."""
        return sorted(
            [*self.model_dir.glob("[!.]*.json"), *self.model_dir.glob("[!.]*.safetensors")]
        )


def find_run(name: str, scratch: Path) -> TrainedRun:
    """Return the run in a folder, or in a job's model.tar.gz with output.tar.gz beside it.

    Args:
        name: folder, path or S3 URI; a folder of docker_debugging/debug.py is one too.
        scratch: an empty folder for what has to be fetched and unpacked.

    Raises: ValueError: no run, an unfinished one, or archives that are damaged or refused.
    """
    if (Path(name) / "output" / "data" / RECORD).is_file():  # laid out as /opt/ml
        return read_run(Path(name) / "output" / "data", Path(name) / "model", name)
    if Path(name).is_dir():
        return read_run(Path(name), Path(name) / "model", name)
    if not name.endswith("model.tar.gz"):
        raise ValueError(f"{name}: name a run folder, or a finished job's model.tar.gz.")
    beside = name.removesuffix("model.tar.gz") + "output.tar.gz"
    run_dir, model_dir = scratch / "run", scratch / "run" / "model"
    unpack(
        fetch(name, scratch),
        model_dir,
        lambda path: len(path.parts) == 1 and path.suffix in (".json", ".safetensors"),
    )
    unpack(
        fetch(beside, scratch),
        run_dir,
        lambda path: str(path) in (RECORD, PREDICTIONS, CHECK, RESULTS, CHANGES),
    )
    return read_run(run_dir, model_dir, name)


def read_run(folder: Path, model_dir: Path, name: str) -> TrainedRun:
    """Return a run whose files are all there.

    Args:
        name: what the user calls it.

    Raises: ValueError: a file is missing, or cannot be read.
    """
    if not (folder / RECORD).is_file():
        raise ValueError(f"{name} is no run of scripts/train.py: it has no {RECORD}.")
    if not (model_dir / "config.json").is_file() or not list(model_dir.glob(WEIGHTS)):
        raise ValueError(
            f"{name} holds no model (config.json and {WEIGHTS}): the run is not finished, or "
            "trained none; the same train.py command goes on with it."
        )
    if not (folder / PREDICTIONS).is_file():
        raise ValueError(
            f"{name} is not finished (no {PREDICTIONS}): a model card needs test figures; run "
            "scripts/train.py with --do_predict."
        )
    try:
        arguments = json.loads((folder / RECORD).read_text())
        config = json.loads((model_dir / "config.json").read_text())
        columns = pq.read_schema(folder / PREDICTIONS).names
        labels = {int(label): name for label, name in config["id2label"].items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{name} cannot be read: {error!r}") from error
    if "auto_map" in config:
        raise ValueError(f"{name}: the model brings code of its own (auto_map), which is refused.")
    label_names = [labels[label] for label in sorted(labels)]
    predicted = [c.removeprefix("probability_") for c in columns if c.startswith("probability_")]
    if label_names != predicted:
        raise ValueError(
            f"{name}: the model's labels {label_names[:9]} are not those of its predictions "
            f"{predicted[:9]}: model and results belong to different runs."
        )
    return TrainedRun(folder, model_dir, arguments, label_names)


def check_answers(run: TrainedRun, dataset: Path | None) -> str:
    """Check that the model loads and answers as it did at the end of its training.

    With the photo that train.py keeps in check.json, and with some test photos where the dataset is
    at hand.

    Returns: what was compared, in words.
    Raises: ValueError: it answers otherwise, or nothing is there to compare with.
    """
    recorded = run.folder / CHECK
    if dataset is None and not recorded.is_file():
        raise ValueError(
            f"the run has no {CHECK} (an older train.py wrote it): give --dataset with the dataset "
            "that it was tested on, so that the model's answers can be checked."
        )
    compared = []
    if recorded.is_file():
        check = _read_check(recorded)
        difference = np.abs(answers(run, [check.photo])[0] - check.logits).max()
        _refuse_if_different(difference, LOGIT_TOLERANCE, f"a logit for the photo in {CHECK}")
        compared.append(f"the drawn photo of {CHECK} (logits differ by {difference:.1g} at most)")
        compared += _compared_heads(run, recorded, check) if check.of_heads else []
    if dataset is not None:
        photos, probabilities = _read_test_photos(run, dataset)
        logits = answers(run, photos)
        difference = np.abs(_softmax(logits) - probabilities).max()
        _refuse_if_different(difference, PROBABILITY_TOLERANCE, f"a probability in {PREDICTIONS}")
        compared.append(
            f"{len(photos)} test photos (probabilities differ by {difference:.1g} at most)"
        )
    return " and ".join(filter(None, [", ".join(compared[:-1]), compared[-1]]))


def answers(run: TrainedRun, photos: Sequence[Image.Image]) -> np.ndarray:
    """Return the model's logits for photos of any size, float (num_photos, num_counts).

    Raises: ValueError: the model cannot be loaded, or weights are missing in it.
    """
    # Seconds to import: not for --help, nor for an error in the command.
    import torch
    import transformers
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    transformers.utils.logging.disable_progress_bar()
    try:
        model, loading = AutoModelForImageClassification.from_pretrained(
            run.model_dir,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        image_processor = AutoImageProcessor.from_pretrained(run.model_dir, local_files_only=True)
        absent = sorted({*loading["missing_keys"], *map(str, loading["mismatched_keys"])})
        if absent:
            raise ValueError(f"weights are missing, such as {absent[0]}")
        with torch.no_grad():
            inputs = image_processor(images=list(photos), return_tensors="pt")
            return model.eval()(**inputs).logits.float().numpy()
    except Exception as error:  # the libraries raise nearly anything for files that are damaged
        raise ValueError(f"the model cannot be loaded: {error}") from error
    finally:
        transformers.utils.logging.enable_progress_bar()  # which an upload has, too


def _compared_heads(run: TrainedRun, recorded: Path, check: "_Check") -> list[str]:
    """Return what was compared of the heads beside the model, in words.

    Raises: ValueError: they answer otherwise.
    """
    compared = []
    found = head_answers(run, recorded)
    for name, expected in check.of_heads.items():
        answer = found.get(name, np.empty(0))
        is_whole = answer.shape == expected.shape
        difference = np.abs(answer - expected).max() if is_whole else np.nan
        _refuse_if_different(difference, LOGIT_TOLERANCE, f"{HEAD_ANSWERS[name]} in {CHECK}")
        compared.append(f"{HEAD_ANSWERS[name]} (by {difference:.1g})")
    return compared


def head_answers(run: TrainedRun, recorded: Path) -> dict[str, np.ndarray]:
    """Return the answers of the heads beside the model to the photos of a check, by HEAD_ANSWERS.

    Their own code asks them, in scripts/: transformers does not know them.

    Returns: for change_probabilities their logarithms, those below SMALLEST left out of account.
    Raises: ValueError: there is no head, or it cannot be loaded.
    """
    command = [sys.executable, "-m", "serving.check_answers"]
    command += [str(path.resolve()) for path in (run.model_dir, recorded)]
    result = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["it gave no reason"]
        reason = re.sub(r"^\w+\.py: error: ", "", lines[-1])
        raise ValueError(f"the heads beside the model cannot be asked: {reason}")
    found = {n: np.array(values, dtype=float) for n, values in json.loads(result.stdout).items()}
    if CHANGE_ANSWER in found:
        found[CHANGE_ANSWER] = _logarithms(found[CHANGE_ANSWER])
    return found


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, SMALLEST))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _refuse_if_different(difference: float, tolerance: float, what: str) -> None:
    # Not `>`: nan is different too.
    if not difference <= tolerance:
        raise ValueError(
            f"the model does not answer as it did when it was trained: {what} is off by "
            f"{difference:.3g}; model and results belong to different runs, or one is damaged."
        )


@dataclass(frozen=True)
class _Check:
    """What check.json holds: a photo, the model's logits for it, and what its other heads say.

    Args:
        of_heads: as head_answers returns them.
    """

    photo: Image.Image
    logits: np.ndarray
    of_heads: dict[str, np.ndarray]


def _read_check(path: Path) -> _Check:
    try:
        content = json.loads(path.read_text())
        png = base64.b64decode(content["photo_png_base64"])
        photo = Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB")
        of_heads = {n: np.array(content[n], float) for n in HEAD_ANSWERS if n in content}
        if "change_logits" in content:
            logits = np.array(content["change_logits"], dtype=float)
            of_heads[CHANGE_ANSWER] = _logarithms(_softmax(logits))
        return _Check(photo, np.array(content["logits"], dtype=float), of_heads)
    except (ValueError, KeyError, TypeError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _read_test_photos(run: TrainedRun, dataset: Path) -> tuple[list[Image.Image], np.ndarray]:
    """Return the first test photos and their recorded probabilities (num_photos, num_counts).

    Raises: ValueError: the dataset has none of the predicted bins.
    """
    shards = sorted(str(path) for path in dataset.glob("data/test-*.parquet"))
    predictions = pq.read_table(run.folder / PREDICTIONS).slice(0, NUM_CHECKED_BINS).to_pylist()
    wanted = [row["id"] for row in predictions]
    jpeg_of = {}
    if shards:
        rows = arrow_dataset.dataset(shards).to_table(
            columns=["id", "image"], filter=arrow_dataset.field("id").isin(wanted)
        )
        jpeg_of = {row["id"]: row["image"]["bytes"] for row in rows.to_pylist()}
    if missing := [bin_id for bin_id in wanted if bin_id not in jpeg_of]:
        raise ValueError(
            f"--dataset {dataset} has no test bin {missing[0]}, which the run predicted: give the "
            "dataset that it was tested on."
        )
    photos = [Image.open(io.BytesIO(jpeg_of[bin_id])).convert("RGB") for bin_id in wanted]
    names = [f"probability_{name}" for name in run.label_names]
    return photos, np.array([[row[name] for name in names] for row in predictions])
