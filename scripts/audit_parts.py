"""What a model makes of every bin, in files that are complete or not there.

A part holds PART_SIZE bins. A killed run goes on with the first part that is missing, memory stays
that of one part, and other costs or another budget need no photo to be looked at again.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageClassification, PreTrainedModel, ViTImageProcessor

from audit_bins import AuditBin, BinSource, UnusablePhotoError, open_photo
from count_distribution import counts_of_labels

PART_SIZE = 500
BATCH_SIZE = 50
AUDIT = "audit.json"


@dataclass(frozen=True)
class BinModel:
    """A model folder that counts, ready to be asked.

    Args:
        counts: (num_counts,), what its labels stand for, items.
        fingerprint: a digest of weights, labels and image processor.
    """

    model: PreTrainedModel
    image_processor: ViTImageProcessor
    counts: tuple[int, ...]
    fingerprint: str

    def probabilities(self, photos: Sequence[Image.Image]) -> np.ndarray:
        """Return the distribution over counts of some photos, float64 (num_photos, num_counts)."""
        return self._ask(photos).logits.double().softmax(dim=1).cpu().numpy()

    def features(self, photos: Sequence[Image.Image]) -> np.ndarray:
        """Return what the classifier sees of some photos, float32 (num_photos, num_features)."""
        last = self._ask(photos, output_hidden_states=True).hidden_states[-1].float()
        # Of a transformer the first token and the mean of all, of a convolution the mean.
        if last.ndim == 3:
            return torch.cat([last[:, 0], last.mean(dim=1)], dim=1).cpu().numpy()
        return last.mean(dim=(2, 3)).cpu().numpy()

    @torch.inference_mode()
    def _ask(self, photos: Sequence[Image.Image], **kwargs: Any) -> Any:
        inputs = self.image_processor(images=list(photos), return_tensors="pt")
        return self.model(**inputs.to(self.model.device), **kwargs)


def load_bin_model(model_dir: Path, must_count: bool = True) -> BinModel:
    """Load a model folder as train.py writes it.

    Args:
        must_count: False where only its features are asked for, so that its labels may be others.

    Raises: ValueError: no model, a damaged one, or one whose labels are not counts.
    """
    weights = sorted(model_dir.glob("*.safetensors"))
    if not (model_dir / "config.json").is_file() or not weights:
        raise ValueError(
            f"--model {model_dir} holds no model (config.json, *.safetensors): name RUN/model."
        )
    digest = hashlib.sha256()
    for path in [*weights, model_dir / "config.json", model_dir / "preprocessor_config.json"]:
        if not path.is_file():
            raise ValueError(f"--model {model_dir} has no {path.name}: name RUN/model.")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    try:
        model = AutoModelForImageClassification.from_pretrained(model_dir, dtype=torch.float32)
        # By its name: with torchvision AutoImageProcessor takes one that resizes differently.
        image_processor = ViTImageProcessor.from_pretrained(model_dir)
        labels = [model.config.id2label[label] for label in range(model.config.num_labels)]
        counts = counts_of_labels(labels) if must_count else ()
    except ValueError as error:
        raise ValueError(f"--model {model_dir}: {error}") from error
    except Exception as error:  # a damaged folder makes transformers raise nearly anything
        raise ValueError(f"--model {model_dir} cannot be loaded: {error}") from error
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return BinModel(model.eval().to(device), image_processor, counts, digest.hexdigest())


@dataclass(frozen=True)
class Part:
    """PART_SIZE bins and what the photos say; probabilities are NaN where there is a problem.

    Args:
        first: the row of the first bin in the source.
        recorded: the record as written; expected: as a number, -1 where it is none.
        problem, note: as in AuditBin, empty where there is none.
        probabilities: float64 (num_bins, num_counts).
    """

    first: int
    ids: list[str]
    recorded: list[str]
    expected: np.ndarray
    problem: list[str]
    note: list[str]
    items: list[list[dict[str, Any]]]
    probabilities: np.ndarray


def claim_output(output_dir: Path, identity: dict[str, Any]) -> None:
    """Make sure that the parts in a folder, now and later, are of one model and the same bins.

    Raises: ValueError: they are others'.
    """
    path = output_dir / AUDIT
    if path.exists():
        if json.loads(path.read_text()) != identity:
            raise ValueError(
                f"{output_dir} holds the audit of another model or other bins: choose another "
                "--output_dir."
            )
        return
    own = {"parts", f"{AUDIT}.part"}  # of a run that was killed just here
    if output_dir.exists() and {entry.name for entry in output_dir.iterdir()} - own:
        raise ValueError(f"{output_dir} is not empty, and no audit: choose another --output_dir.")
    (output_dir / "parts").mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(identity, indent=2) + "\n")


def write_parts(source: BinSource, model: BinModel, output_dir: Path) -> None:
    """Ask the model about every bin that no part holds yet."""
    num_parts = -(-source.num_bins // PART_SIZE)
    done = next(
        (part for part in range(num_parts) if not _part_path(output_dir, part).exists()), num_parts
    )
    remaining = source.bins(first=done * PART_SIZE)
    start = min(done * PART_SIZE, source.num_bins)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=source.num_bins, initial=start, unit="bins", desc="photos") as progress,
    ):
        for part in range(done, num_parts):
            batches = []
            bins = islice(remaining, PART_SIZE)
            while batch := list(islice(bins, BATCH_SIZE)):
                batches.append(_judge(batch, model, pool))
                progress.update(len(batch))
            path = _part_path(output_dir, part)
            pq.write_table(pa.concat_tables(batches), f"{path}.part")
            os.replace(f"{path}.part", path)


def _judge(batch: Sequence[AuditBin], model: BinModel, pool: ThreadPoolExecutor) -> pa.Table:
    opened = list(pool.map(_open, batch))
    photos = [photo for photo in opened if isinstance(photo, Image.Image)]
    probabilities = np.full((len(batch), len(model.counts)), np.nan)
    if photos:
        has_photo = [isinstance(photo, Image.Image) for photo in opened]
        probabilities[has_photo] = model.probabilities(photos)
    quantities = [a_bin.expected_quantity for a_bin in batch]
    return pa.table(
        {
            "id": [a_bin.id for a_bin in batch],
            "recorded": [a_bin.recorded for a_bin in batch],
            "expected": pa.array([-1 if q is None else q for q in quantities], pa.int64()),
            "problem": ["" if isinstance(o, Image.Image) else o for o in opened],
            "note": [a_bin.note or "" for a_bin in batch],
            "items": [json.dumps([asdict(item) for item in a_bin.items]) for a_bin in batch],
            **{
                f"probability_{count}": probabilities[:, column]
                for column, count in enumerate(model.counts)
            },
        }
    )


def _open(a_bin: AuditBin) -> Image.Image | str:
    if a_bin.problem is not None:
        return a_bin.problem
    assert a_bin.photo is not None
    try:
        return open_photo(a_bin.photo)
    except UnusablePhotoError as error:
        return str(error)


def read_parts(output_dir: Path, num_bins: int, counts: Sequence[int]) -> Iterator[Part]:
    """Yield what write_parts wrote, in order."""
    for part in range(-(-num_bins // PART_SIZE)):
        table = pq.read_table(_part_path(output_dir, part))
        yield Part(
            first=part * PART_SIZE,
            ids=table["id"].to_pylist(),
            recorded=table["recorded"].to_pylist(),
            expected=table["expected"].to_numpy(),
            problem=table["problem"].to_pylist(),
            note=table["note"].to_pylist(),
            items=[json.loads(items) for items in table["items"].to_pylist()],
            probabilities=np.column_stack(
                [table[f"probability_{count}"].to_numpy() for count in counts]
            ),
        )


def _part_path(output_dir: Path, part: int) -> Path:
    return output_dir / "parts" / f"{part:06d}.parquet"


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)
