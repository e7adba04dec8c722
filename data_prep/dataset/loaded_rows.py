"""The rows of any dataset that `load_dataset` takes: what tells them apart, photos as hashes.

`datasets` takes two seconds to import: import this where it is needed, not before.
"""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from tqdm import tqdm

from command_line import InputError
from dataset.equal_photos import photo_hash
from dataset.photos import as_rgb

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Rows:
    """The rows of all splits, one after the other.

    `splits` and `indices` (num_rows,) say which split a row is in, and where; `digests` holds the
    hashes of the photos' bytes, `looks` those of photo_hash, or nothing without --perceptual.
    """

    names: list[str]
    splits: np.ndarray
    indices: np.ndarray
    digests: list[bytes]
    looks: list[bytes]
    num_unreadable: int
    columns: dict[str, pa.Array]

    def name_of(self, row: int) -> str:
        """Return how a row is called: by its id, where there is one."""
        place = f"{self.names[self.splits[row]]}[{self.indices[row]}]"
        return f"{self.columns['id'][row].as_py()} ({place})" if "id" in self.columns else place


def load(name: str, config: str | None) -> datasets.DatasetDict:
    """Return all splits of a dataset. Raises: InputError: it cannot be had, or has one split."""
    if "://" not in name and not Path(name).exists() and name.count("/") > 1:
        raise InputError(f"{name}: there is no such folder, and a Hub id is USER/NAME.")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(name, config)
    except Exception as error:  # whatever the loaders of a stranger's dataset raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{name} cannot be loaded ({type(error).__name__}: {reason})") from error
    if len(found) < 2:
        raise InputError(f"{name} has one split, {', '.join(found)}: nothing to compare.")
    return found


def column_of(
    found: datasets.DatasetDict, flag: str, given: str | None, default: str
) -> str | None:
    """Return the column that a flag names, or the default's where that is there.

    Raises: InputError: there is no such column.
    """
    names = next(iter(found.values())).column_names
    if given is not None and given not in names:
        raise InputError(f"--{flag} {given}: the columns are {', '.join(names)}.")
    return given if given is not None else default if default in names else None


def image_column(found: datasets.DatasetDict, given: str | None) -> str:
    """Return the column of images. Raises: InputError: there is none, or several."""
    features = next(iter(found.values())).features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if given is not None and given in images:
        return given
    if given is None and len(images) == 1:
        return images[0]
    raise InputError(
        f"--image_column: name one; the columns of images are {', '.join(images) or 'none'}."
    )


def read_rows(
    found: datasets.DatasetDict, image: str, columns: dict[str, str], with_looks: bool
) -> Rows:
    """Read all splits, batch by batch; photos are hashed and let go.

    Args:
        columns: our name (id, group) -> the dataset's.
    """
    digests: list[bytes] = []
    looks: list[bytes] = []
    values: dict[str, list[pa.Array]] = {name: [] for name in columns}
    num_rows = sum(split.num_rows for split in found.values())
    num_unreadable = 0
    with ThreadPoolExecutor() as pool, tqdm(total=num_rows, unit="photo", disable=None) as bar:
        for split in found.values():
            kept = split.select_columns([*dict.fromkeys([image, *columns.values()])])
            kept = kept.cast_column(image, datasets.Image(decode=False))
            for batch in kept.with_format("arrow").iter(ROWS_AT_ONCE):
                photos = [content_of(photo) for photo in batch[image].to_pylist()]
                digests += [hashlib.sha256(photo).digest() if photo else b"" for photo in photos]
                for name, column in columns.items():
                    values[name].append(as_text(batch[column], column))
                if with_looks:
                    new = list(pool.map(look_of, photos))
                    num_unreadable += sum(look is None for look in new)
                    looks += [look or b"" for look in new]
                bar.update(batch.num_rows)
    sizes = [split.num_rows for split in found.values()]
    return Rows(
        names=list(found),
        splits=np.repeat(np.arange(len(sizes)), sizes),
        indices=np.concatenate([np.arange(size) for size in sizes]),
        digests=digests,
        looks=looks,
        num_unreadable=num_unreadable,
        columns={name: pa.concat_arrays(arrays) for name, arrays in values.items()},
    )


def content_of(photo: dict[str, Any] | None) -> bytes:
    """Return the bytes of a photo as `datasets` holds it; none without a photo, or its file."""
    try:
        if photo is None or (photo["bytes"] is None and photo["path"] is None):
            return b""
        return photo["bytes"] if photo["bytes"] is not None else Path(photo["path"]).read_bytes()
    except OSError:
        return b""


def look_of(photo: bytes) -> bytes | None:
    """Return the hash of how a photo looks, none for a flat one; None for what is no photo."""
    try:
        with Image.open(io.BytesIO(photo)) as image:
            return photo_hash(as_rgb(ImageOps.exif_transpose(image)))
    except Exception:  # a damaged photo makes Pillow raise nearly anything
        return None


def as_text(values: pa.ChunkedArray, name: str) -> pa.Array:
    """Return a column's values as text. Raises: InputError: they have none."""
    try:
        return values.combine_chunks().cast(pa.string())
    except pa.ArrowException as error:
        raise InputError(f"{name} holds {values.type}, no single values: name another.") from error
