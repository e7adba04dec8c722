"""Say whether the splits of an image dataset share photos or groups, of any dataset.

    python data_prep/check_leaks.py data/bins
    python data_prep/check_leaks.py USER/NAME --group_column patient --perceptual
    python data_prep/check_leaks.py photos/ --output leaks.json   # photos/train/, photos/test/

Compared are the bytes of the photos; with --perceptual their looks, which finds copies of another
size or quality; the values of --group_column, what must not be apart; and the ids before and after
each row's own, which is told and is no leak by itself. The exit code is 1 if a split has a photo or
a group of another one, so that it can stand in a pipeline.
"""

import hashlib
import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps
from tqdm import tqdm

from command_line import EntryParser, InputError, say
from dataset.equal_photos import photo_hash
from dataset.leaks import Leak, near_copies, neighbours, shared_values
from dataset.photos import as_rgb
from whole_files import whole_file

ROWS_AT_ONCE = 256
NUM_NAMED = 5  # twins that the terminal names; --output has all


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


def make_parser() -> EntryParser:
    """Return the parser of the flags."""
    parser = EntryParser(__doc__)
    parser.add_argument("dataset", metavar="FOLDER_OR_HUB_ID", help="what load_dataset takes")
    parser.add_argument("--config", help="of a dataset with several")
    parser.add_argument("--image_column", metavar="NAME", help="default: the only column of images")
    parser.add_argument(
        "--group_column",
        metavar="NAME",
        help="whose values each belong in one split (default: bin_group, where there is one)",
    )
    parser.add_argument(
        "--id_column", metavar="NAME", help="numbers in a row (default: id, where there is one)"
    )
    parser.add_argument(
        "--perceptual", action="store_true", help="compare how photos look too; decodes each"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="each row that was found, as JSON"
    )
    return parser


def load(name: str, config: str | None) -> datasets.DatasetDict:
    """Return all splits of a dataset. Raises: InputError: it cannot be had, or has one split."""
    if "://" not in name and not Path(name).exists() and name.count("/") > 1:
        raise InputError(f"{name}: there is no such folder, and a Hub id is USER/NAME.")
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


def find_leaks(rows: Rows, with_looks: bool) -> list[Leak]:
    """Return what each check found."""
    photos = pa.array([digest or None for digest in rows.digests], pa.binary())
    found = [shared_values("exact copies", rows.splits, photos)]
    if with_looks:
        found.append(near_copies(rows.splits, rows.looks))
    if "group" in rows.columns:
        found.append(shared_values("shared groups", rows.splits, rows.columns["group"]))
    if "id" in rows.columns:
        found.append(neighbours("neighbours by id", rows.splits, rows.columns["id"]))
    return found


def report_lines(rows: Rows, leaks: list[Leak]) -> list[str]:
    """Return a table, a line a check: of each split the rows that have a twin in another one."""
    sizes = np.bincount(rows.splits, minlength=len(rows.names))
    heads = [f"{name} ({size:,})" for name, size in zip(rows.names, sizes, strict=True)]
    table = [["in another split too:", *heads]]
    for leak in leaks:
        counts = np.bincount(rows.splits[leak.rows], minlength=len(rows.names))
        shares = [f"{n:,} ({n / max(size, 1):.1%})" for n, size in zip(counts, sizes, strict=True)]
        table.append([leak.name + ("" if leak.is_leak else " *"), *shares])
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in table
    ]
    if any(not leak.is_leak for leak in leaks):
        lines.append("* no leak by itself: what follows each other need not show one thing")
    for leak in leaks:
        if leak.is_leak and leak.rows.any():
            pairs = [
                f"{rows.name_of(row)} = {rows.name_of(leak.twins[row])}"
                for row in np.flatnonzero(leak.rows)[:NUM_NAMED].tolist()
            ]
            lines.append(f"{leak.name}, such as {'; '.join(pairs)}")
    lines += [
        f"{leak.name}: only {leak.num_checked:,} of {len(rows.splits):,} rows could be compared"
        for leak in leaks
        if leak.num_checked < len(rows.splits)
    ]
    if rows.num_unreadable:
        lines.append(f"{rows.num_unreadable:,} photos cannot be read: their looks are not compared")
    return lines


def as_json(rows: Rows, leaks: list[Leak]) -> dict[str, Any]:
    """Return what was found: of each check the rows, by split and index, with a twin of each."""

    def place(row: int) -> list[Any]:
        return [rows.names[rows.splits[row]], int(rows.indices[row])]

    return {
        "splits": {
            name: int((rows.splits == number).sum()) for number, name in enumerate(rows.names)
        },
        "num_unreadable": rows.num_unreadable,
        "checks": {
            leak.name: {
                "is_leak": leak.is_leak,
                "num_checked": leak.num_checked,
                "pairs": [
                    [place(row), place(leak.twins[row])]
                    for row in np.flatnonzero(leak.rows).tolist()
                ],
            }
            for leak in leaks
        },
    }


def main(argv: list[str] | None = None) -> int:
    """Check a dataset and return the exit code: 1 if it leaks."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    datasets.disable_progress_bars()
    try:
        found = load(arguments.dataset, arguments.config)
        image = image_column(found, arguments.image_column)
        chosen = {
            "group": column_of(found, "group_column", arguments.group_column, "bin_group"),
            "id": column_of(found, "id_column", arguments.id_column, "id"),
        }
        columns = {name: column for name, column in chosen.items() if column is not None}
        rows = read_rows(found, image, columns, arguments.perceptual)
    except InputError as error:
        parser.error(str(error))
    leaks = find_leaks(rows, arguments.perceptual)
    say(*report_lines(rows, leaks))
    if arguments.output:
        try:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(arguments.output) as temporary:
                temporary.write_text(json.dumps(as_json(rows, leaks)) + "\n")
        except OSError as error:
            parser.error(f"--output {arguments.output}: {error.strerror}.")
        say(f"Each row with a twin of it: {arguments.output}")
    leaking = [leak.name for leak in leaks if leak.is_leak and leak.rows.any()]
    say(f"It leaks: {', '.join(leaking)}." if leaking else "No leak was found.")
    return 1 if leaking else 0


if __name__ == "__main__":
    sys.exit(main())
