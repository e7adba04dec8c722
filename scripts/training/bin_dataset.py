"""Read a dataset folder: check it, and hand its photos over as uint8 batches."""

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, DatasetDict, Image
from filelock import FileLock
from PIL import Image as PillowImage
from tqdm import tqdm

from dataset_folder import (
    AGAIN,
    BUILD,
    CHECKED,
    COLUMNS,
    ITEM_COLUMNS,
    DatasetFolder,
    check_contents,
    open_dataset,
)
from items.evidence import RecordedItems, recorded_items
from items.sizes import SIZES, item_targets
from one_line_parser import reason_of
from output_files import whole_file
from visits.batches import run_layout
from visits.neighbours import visit_steps

# What a photo is decoded from; and what the targets of the item heads are made of.
SHOWN = ("image", "label", "bin_group")
ITEMS = ("quantities", *ITEM_COLUMNS)

try:
    import simplejpeg
except ImportError:  # Pillow gives the same pixels, at half the rate
    simplejpeg = None


def load_bins(dataset_dir: str, needed_splits: Sequence[str]) -> DatasetDict:
    """Load and check a dataset folder of data_prep/build_dataset.py.

    Raises: ValueError: no such dataset, an unfinished one, a missing split or shard, labels that
        are not counts, or a cache that cannot be written.
    """
    folder = open_dataset(Path(dataset_dir))
    for split in needed_splits:
        if split not in folder.shards:
            raise ValueError(
                f"No '{split}' split in {dataset_dir}, only {', '.join(folder.shards)}: {BUILD} "
                "with other --validation_fraction and --test_fraction, or leave out the flag that "
                "needs it (training without validation: --eval_strategy no)."
            )
    dataset = DatasetDict(
        {split: Dataset.from_file(str(_mapped_file(folder, split))) for split in folder.shards}
    )
    return dataset.cast_column("image", Image(decode=False))


def _mapped_file(folder: DatasetFolder, split: str) -> Path:
    """Return a split as one Arrow file, which is mapped into memory instead of read.

    It is made once, in the cache of `datasets`, under a name that its columns and its shards'
    places, sizes and times give: load_dataset would do the same, but it takes a folder's name for a
    pattern.

    Raises: ValueError: a shard is damaged, or the cache cannot be written.
    """
    stats = [(str(path.resolve()), path.stat()) for path in folder.shards[split]]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    # Those of a folder without sizes of items are where earlier versions put them.
    key = repr(files) + " ".join(folder.columns[len(COLUMNS) :])
    name = f"{split}-{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    path = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "bins" / name
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with whole_file(path) as temporary:
                    _write_arrow(folder, split, temporary)
    except OSError as error:
        raise ValueError(
            f"The cache {path.parent} cannot be written ({reason_of(error)}): make room there, or "
            "set HF_DATASETS_CACHE to a folder that has some."
        ) from error
    return path


def _write_arrow(folder: DatasetFolder, split: str, path: Path) -> None:
    for shard in folder.shards[split]:
        check_contents(folder.path, shard)
    tables = folder.tables(split)
    first = next(tables)
    bar = tqdm(total=folder.num_bins[split], unit="bins", desc=f"reading {split}", disable=None)
    with path.open("wb") as file, pa.ipc.new_stream(file, first.schema) as writer, bar:
        for table in chain([first], tables):
            writer.write_table(table)
            bar.update(len(table))


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
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({reason_of(error)}): {AGAIN}.") from error


def dataset_fingerprint(dataset: DatasetDict) -> str:
    """Return a digest of which photos, with which labels, checked or not, are in which split.

    It depends on the bins alone, not on where the folder lies.
    """
    digest = hashlib.sha256()
    for split in sorted(dataset):
        columns = dataset[split].select_columns(["id", "label"])[:]
        digest.update(repr((split, columns["id"], columns["label"])).encode())
        if CHECKED in dataset[split].column_names:
            digest.update(repr(dataset[split][CHECKED][:]).encode())
        jpegs = pc.struct_field(dataset[split].data.column("image"), "bytes")
        # Lengths stand for contents: to hash gigabytes of photos would take minutes.
        digest.update(pc.binary_length(jpegs).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def first_bins(dataset: Dataset, max_samples: int | None) -> Dataset:
    """Return the photos of a split's first bins, all of them where no number is given.

    The build mixed the bins' order, so the first ones are a fair sample. All visits of a bin are in
    it, but for the last bin's, so that as large a share of them has another visit.
    """
    if max_samples is None or max_samples >= len(dataset):
        return dataset
    first: dict[object, int] = {}
    groups = dataset.with_format(None)["bin_group"]
    places = [
        first.setdefault((row,) if group is None else group, row)
        for row, group in enumerate(groups)
    ]
    rows = np.argsort(places, kind="stable")[:max_samples]
    return dataset.select(np.sort(rows))


def decoded_photos(dataset: Dataset, max_samples: int | None) -> Dataset:
    """Return the photos of a split's first bins, decoded when they are taken."""
    return first_bins(dataset, max_samples).with_transform(_decode, columns=list(SHOWN))


def with_more(photos: Dataset, items: bool = False, checks: bool = False) -> Dataset:
    """Return decoded photos whose batches have more than photos and labels.

    Args:
        photos: of decoded_photos.
        items: what their records say of the items; of a dataset with has_items.
        checks: whether a person has checked them; of a dataset that was built with marks.
    """
    columns = [*SHOWN, *(ITEMS if items else ()), *([CHECKED] if checks else ())]
    return photos.with_transform(_decode, columns=columns)


def _decode(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    photos = [torch.from_numpy(rgb_pixels(image["bytes"])) for image in rows["image"]]
    decoded = {"pixel_values": photos, "labels": rows["label"], "bin_group": rows["bin_group"]}
    if "volumes" in rows:
        decoded["items"] = _item_targets(rows)
    if CHECKED in rows:
        decoded["is_checked"] = [found is not None for found in rows[CHECKED]]
    return decoded


def share_checked(dataset: Dataset) -> float:
    """Return the share of a split's bins that a person has checked."""
    if CHECKED not in dataset.column_names:
        return 0.0
    # Without the photos, which are most of a row.
    found = dataset.with_format("arrow").select_columns([CHECKED])[:]
    return 1 - found.column(CHECKED).null_count / len(dataset)


def has_items(dataset: Dataset) -> bool:
    """Return whether the records of a split tell how large and heavy their items are."""
    return {*ITEMS} <= {*dataset.column_names}


def items_of(dataset: Dataset) -> np.ndarray:
    """Return items.sizes.item_targets of the records, float (num_photos, len(SIZES) + 1).

    Args:
        dataset: with has_items.
    """
    rows = dataset.with_format(None).select_columns(list(ITEMS))[:]
    return np.array(_item_targets(rows)).reshape(len(dataset), len(SIZES) + 1)


def recorded_items_of(dataset: Dataset) -> list[RecordedItems]:
    """Return the items that the records of a split name, (num_photos,). Args: as in items_of."""
    names = ["expected_quantity", *ITEMS]
    rows = dataset.with_format(None).select_columns(names)[:]
    return [recorded_items(*record) for record in zip(*(rows[n] for n in names), strict=True)]


def _item_targets(rows: Mapping[str, Sequence[Any]]) -> list[list[float]]:
    return [item_targets(*record) for record in zip(*(rows[n] for n in ITEMS), strict=True)]


def steps_of(dataset: Dataset) -> np.ndarray:
    """Return each two visits of a bin among the photos of a split: visits.neighbours.visit_steps.

    Args:
        dataset: of decoded_photos.
    """
    return visit_steps(*visits_of(dataset))


def has_changes(dataset: Dataset) -> bool:
    """Return whether any two of these visits that follow each other differ in their counts."""
    before, after = np.asarray(dataset.with_format(None)["label"])[steps_of(dataset)].T
    return bool((before != after).any())


def visits_of(dataset: Dataset) -> tuple[list[str], list[str | None]]:
    """Return ids and bin groups of the photos of a split, in its order."""
    columns = dataset.with_format(None)
    return list(columns["id"]), list(columns["bin_group"])


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


def collate(rows: Sequence[dict[str, Any]], keeps_visits: bool = False) -> dict[str, torch.Tensor]:
    """Return one batch of photos, or of pairs of them.

    Args:
        keeps_visits: whether visits of a bin that stand side by side are told to be such.

    Returns: pixel_values uint8 (batch, 3, height, width), labels int64 (batch,); for pairs of
        visits.batches.VisitPairs the same of the earlier photos and counts beside them; for others
        which belong together: visits.batches.run_layout; of photos of with_more also `items`,
        float32 (batch, len(SIZES) + 1), as in items_of, and `is_checked`, bool (batch,).
    """

    def photos(name: str) -> torch.Tensor:
        return torch.stack([row[name] for row in rows]).permute(0, 3, 1, 2)

    def labels(name: str) -> torch.Tensor:
        return torch.tensor([row[name] for row in rows])

    batch = {"pixel_values": photos("pixel_values"), "labels": labels("labels")}
    if "earlier_pixel_values" in rows[0]:
        return batch | {
            "earlier_pixel_values": photos("earlier_pixel_values"),
            "earlier_labels": labels("earlier_labels"),
        }
    if "items" in rows[0]:
        batch["items"] = torch.tensor([row["items"] for row in rows])
    if "is_checked" in rows[0]:
        batch["is_checked"] = torch.tensor([row["is_checked"] for row in rows])
    return batch | run_layout([row["bin_group"] if keeps_visits else None for row in rows])


def photos(dataset: DatasetDict, split: str, max_samples: int | None) -> Dataset | None:
    """Return a split as uint8 batches, None where the dataset has no such split."""
    return decoded_photos(dataset[split], max_samples) if split in dataset else None
