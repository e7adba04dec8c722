"""Read a dataset folder: check it, and hand its photos over as uint8 batches."""

import contextlib
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, load_dataset
from PIL import Image as PillowImage

from count_distribution import counts_of_labels

try:
    import simplejpeg
except ImportError:  # Pillow gives the same pixels, at half the rate
    simplejpeg = None

COLUMNS = ("image", "label", "id", "bin_group", "expected_quantity")
BUILD = "run data_prep/build_dataset.py"


def load_bins(dataset_dir: str, needed_splits: Sequence[str]) -> DatasetDict:
    """Load and check a dataset folder of data_prep/build_dataset.py.

    Raises: ValueError: no such dataset, an unfinished one, a missing split or shard, labels that
        are not counts.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise ValueError(f"No dataset folder {dataset_dir}: {BUILD} first.")
    if not (folder / "README.md").exists():
        raise ValueError(
            f"{dataset_dir} is not a finished dataset (no README.md): {BUILD}; a build that was "
            "cut off goes on with the same command."
        )
    try:
        dataset = load_dataset(str(folder))
    except Exception as error:  # datasets raises nearly anything for a folder that is no dataset
        raise ValueError(
            f"{dataset_dir} cannot be read as a dataset, or a part of it is missing ({error}): "
            f"{BUILD} or copy it again."
        ) from error
    # A split whose photos were all set aside is there, and empty.
    dataset = DatasetDict({split: rows for split, rows in dataset.items() if len(rows) > 0})
    for split in needed_splits:
        if split not in dataset:
            raise ValueError(
                f"No '{split}' split in {dataset_dir}, only {', '.join(dataset)}: {BUILD} with "
                "other --validation_fraction and --test_fraction, or leave out the flag that "
                "needs it (training without validation: --eval_strategy no)."
            )
    for split in dataset:
        _check_split(dataset_dir, split, dataset[split])
    return dataset.cast_column("image", Image(decode=False))


def _check_split(dataset_dir: str, split: str, dataset: Dataset) -> None:
    missing = [column for column in COLUMNS if column not in dataset.column_names]
    if missing:
        raise ValueError(f"No column {', '.join(missing)} in {dataset_dir}, {split}: {BUILD}.")
    label = dataset.features["label"]
    if not isinstance(label, ClassLabel):
        raise ValueError(
            f"The labels of {dataset_dir} are not counts but {label.dtype} without names: {BUILD}."
        )
    counts = np.array(counts_of_labels(label.names))
    columns = dataset.select_columns(["label", "expected_quantity"]).with_format("numpy")[:]
    if not np.array_equal(counts[columns["label"]], columns["expected_quantity"]):
        raise ValueError(f"Labels of {dataset_dir}, {split} differ from the quantities: {BUILD}.")


def photo_size(dataset: DatasetDict) -> int:
    """Return the edge of the photos, pixels, as the first of each split shows it.

    Raises: ValueError: they differ, or are not square.
    """
    sizes: set[int] = set()
    for split in dataset.values():
        with PillowImage.open(io.BytesIO(split[0]["image"]["bytes"])) as photo:
            sizes.update(photo.size)
    if len(sizes) != 1:
        raise ValueError(f"The photos are not squares of one size but {sorted(sizes)}: {BUILD}.")
    return sizes.pop()


def dataset_settings(dataset_dir: str) -> dict[str, Any] | None:
    """Return what the dataset was built from and how; None where its folder does not say.

    Raises: ValueError: the file cannot be read.
    """
    path = Path(dataset_dir) / "settings.json"
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {BUILD} or copy it again.") from error


def dataset_fingerprint(dataset: DatasetDict) -> str:
    """Return a digest of which photos, with which labels, are in which split.

    It depends on the bins alone, not on where the folder lies.
    """
    digest = hashlib.sha256()
    for split in sorted(dataset):
        columns = dataset[split].select_columns(["id", "label"])[:]
        digest.update(repr((split, columns["id"], columns["label"])).encode())
        jpegs = pc.struct_field(dataset[split].data.column("image"), "bytes")
        # Lengths stand for contents: to hash gigabytes of photos would take minutes.
        digest.update(pc.binary_length(jpegs).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def decoded_photos(dataset: Dataset, max_samples: int | None) -> Dataset:
    """Return the first photos of a split, decoded when they are taken.

    The build mixed the bins' order, so the first ones are a fair sample.
    """
    if max_samples is not None:
        dataset = dataset.select(range(min(max_samples, len(dataset))))
    return dataset.with_transform(_decode, columns=["image", "label"])


def _decode(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    photos = [torch.from_numpy(rgb_pixels(image["bytes"])) for image in rows["image"]]
    return {"pixel_values": photos, "labels": rows["label"]}


def rgb_pixels(encoded: bytes) -> np.ndarray:
    """Return the pixels of an encoded photo, uint8 (height, width, 3).

    Raises: OSError: it is damaged.
    """
    if simplejpeg is not None:
        # What it refuses, such as other formats and harmless flaws, is for Pillow to judge, which
        # the data prep has done already.
        with contextlib.suppress(ValueError):
            return simplejpeg.decode_jpeg(encoded)
    with PillowImage.open(io.BytesIO(encoded)) as photo:
        return np.array(photo.convert("RGB"))


def collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return one batch: pixel_values uint8 (batch, 3, height, width), labels int64 (batch,)."""
    pixel_values = torch.stack([row["pixel_values"] for row in rows])
    return {
        "pixel_values": pixel_values.permute(0, 3, 1, 2),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def photos(dataset: DatasetDict, split: str, max_samples: int | None) -> Dataset | None:
    """Return a split as uint8 batches, None where the dataset has no such split."""
    return decoded_photos(dataset[split], max_samples) if split in dataset else None
