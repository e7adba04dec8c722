"""The bins to audit, one after another: from a dataset folder, or from a csv.

What is wrong with a bin goes along with it (`problem`), so that no row is lost on the way.
"""

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from auditing.bin_table import BadTableError, read_table, whole_number
from auditing.visits_of_bins import VisitColumns, VisitOrder, order_of_visits
from dataset_folder import check_contents, open_dataset, open_shard
from items.measured import measured
from serving import photo_checks
from serving.request_errors import RequestError

MAX_BYTES = 50_000_000
QUANTITY = "expected_quantity"
AT_ONCE = 10_000  # rows of a csv that are held as text
NUM_FAULTS = 3  # in a row's items, that are named


class UnusablePhotoError(Exception):
    """The photo cannot be used; the message is the reason."""


@dataclass(frozen=True)
class Item:
    """What should lie in a bin, so many times; the name is a stranger's.

    Args:
        volume: of one, cubic inches; weight: pounds; None: nobody knows.
    """

    name: str
    quantity: int | None
    volume: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class AuditBin:
    """A bin as the source has it: its record as written, its photo's bytes if they were asked for.

    Args:
        problem: why it cannot be judged; None if it can.
        note: what else is wrong with it.
    """

    id: str
    recorded: str
    items: tuple[Item, ...]
    photo: bytes | None
    problem: str | None
    note: str | None

    @property
    def expected_quantity(self) -> int | None:
        """What the inventory expects, items; None if the record says no such number."""
        return whole_number(self.recorded)


class BinSource(Protocol):
    """Where bins come from; rows are numbered from 0, in an order that stays.

    Args:
        expected: int (num_bins,), the expected quantity; -1 where the record says no such number.
        visits: which rows show one bin.
        visit_faults: row -> why it is none of a bin's visits, where that is somebody's mistake.
    """

    num_bins: int
    fingerprint: str
    expected: np.ndarray
    visits: VisitOrder
    visit_faults: dict[int, str]

    def bins(self, first: int = 0, photos_of: Collection[int] | None = None) -> Iterator[AuditBin]:
        """Yield the bins from row `first` on; only those rows' photos, if `photos_of` is given."""
        ...

    def photos(self, rows: Sequence[int]) -> Iterator[bytes | None]:
        """Yield the photos of some rows, given in increasing order; None where there is none."""
        ...


def open_bins(
    path: Path,
    splits: Collection[str] | None,
    photos: Path | None,
    metadata: Path | None,
    *,
    with_visits: bool = True,
) -> BinSource:
    """Return the bins of a dataset folder or a csv.

    Args:
        splits: of a dataset folder, in this order; None takes all.
        photos: where the photos of a csv lie; None: beside it.
        metadata: folder with the bucket's <id>.json, to name a dataset's items; None: ASINs.
        with_visits: whether to ask which of them show one bin.

    Raises: ValueError: there is no such source, or it has not the right form.
    """
    if path.is_dir():
        if photos is not None:
            raise ValueError("--photos belongs to a csv: a dataset folder holds its photos.")
        return DatasetBins(path, splits, metadata, with_visits)
    if splits is not None or metadata is not None:
        raise ValueError("--split and --metadata belong to a dataset folder.")
    return CsvBins(path, photos, with_visits)


class CsvBins:
    """The rows of a csv: expected_quantity, and photo (a path), id, or both; items if known.

    A photo's path starts at `photos`; without the column it is `photos`/<id>.jpg. Without id a bin
    is called as its photo. items is JSON: [{"name": "Oil filter", "quantity": 2}], with length,
    width, height and weight as items.measured reads them. Rows with the same text in `bin` show one
    bin, in the order of the numbers in `visit`.

    Raises: ValueError: not a csv with these columns.
    """

    def __init__(self, path: Path, photos: Path | None, with_visits: bool = True) -> None:
        self.path, self.folder = path, photos or path.parent
        if not path.is_file():
            raise ValueError(f"--bins {path}: there is no such file or folder.")
        if not self.folder.is_dir():
            raise ValueError(f"--photos {self.folder}: there is no such folder.")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.fingerprint = f"csv {digest} {self.folder.resolve()}"
        with self._table() as (names, rows):
            if QUANTITY not in names or not {"photo", "id"} & set(names):
                raise ValueError(
                    f"--bins {path}: the first line must name the columns {QUANTITY} and photo (or "
                    f"id), separated by commas; it names {', '.join(names)[:80]!r}."
                )
            self.has_photo_column = "photo" in names
            self._read_rows(names, rows, with_visits and "bin" in names)
        self.num_bins = len(self.expected)

    def _read_rows(
        self, names: Sequence[str], rows: Iterator[dict[str, str]], with_visits: bool
    ) -> None:
        """Keep what is needed of all rows at once: numbers, and where their photos lie."""
        expected, located = [np.empty(0, dtype=np.int64)], []
        columns = VisitColumns("visit" in names)
        while some := list(islice(rows, AT_ONCE)):
            quantities = [whole_number(row[QUANTITY]) for row in some]
            expected.append(np.array([-1 if q is None else q for q in quantities]))
            if with_visits:
                for row in some:
                    columns.add(row["bin"], row.get("visit", ""))
                located.append(
                    pa.table(
                        {
                            name: pa.array([row.get(name, "") for row in some], pa.large_string())
                            for name in ("photo", "id")
                        }
                    )
                )
        self.expected = np.concatenate(expected)
        self.located = pa.concat_tables(located) if located else None
        try:
            self.visits, self.visit_faults = columns.order()
        except ValueError as error:
            raise ValueError(f"--bins {self.path}: {error}") from error

    def photos(self, rows: Sequence[int]) -> Iterator[bytes | None]:
        assert self.located is not None, "only bins with visits are asked for"
        for row in self.located.take(pa.array(rows, pa.int64())).to_pylist():
            try:
                yield self._read(row["photo"], row["id"])
            except UnusablePhotoError:
                yield None

    @contextmanager
    def _table(self) -> Iterator[tuple[list[str], Iterator[dict[str, str]]]]:
        # Whatever its encoding, a row is not lost: what is not UTF-8 becomes a replacement mark.
        with self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            try:
                yield read_table(file)
            except BadTableError as error:
                raise ValueError(f"--bins {self.path}: {error}") from error

    def bins(self, first: int = 0, photos_of: Collection[int] | None = None) -> Iterator[AuditBin]:
        with self._table() as (_, rows):
            for number, row in enumerate(rows):
                if number >= first:
                    yield self._bin(number, row, photos_of is None or number in photos_of)

    def _bin(self, number: int, row: Mapping[str, str], has_photo: bool) -> AuditBin:
        photo, bin_id = row.get("photo", ""), row.get("id", "")
        content, problem = None, None
        if has_photo:
            try:
                content = self._read(photo, bin_id)
            except UnusablePhotoError as error:
                problem = str(error)
        items, items_note = parse_items(row.get("items", ""))
        return AuditBin(
            bin_id or Path(photo).stem or f"row {number + 1}",
            row[QUANTITY],
            items,
            content,
            problem or _quantity_problem(row[QUANTITY]),
            items_note,
        )

    def _read(self, photo: str, bin_id: str) -> bytes:
        if not photo and (self.has_photo_column or not bin_id):
            raise UnusablePhotoError("the row names no photo")
        path = self.folder / (photo or f"{bin_id}.jpg")
        try:
            # Not a folder, and not a pipe that would never end.
            if not path.is_file():
                raise UnusablePhotoError(
                    f"no photo {photo}" if photo else f"unknown id: no photo {path.name}"
                )
            if path.stat().st_size > MAX_BYTES:
                raise UnusablePhotoError(f"photo of more than {MAX_BYTES // 1_000_000} MB")
            return path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise UnusablePhotoError(f"photo cannot be read: {error}") from error


class DatasetBins:
    """The bins of a dataset folder of data_prep/build_dataset.py, a row group at a time.

    Raises: ValueError: not such a folder, or no such split.
    """

    COLUMNS = ("id", QUANTITY, "asins", "quantities")
    SIZES = ("volumes", "weights")  # which a dataset of before they were known lacks

    def __init__(
        self,
        folder: Path,
        splits: Collection[str] | None,
        metadata: Path | None,
        with_visits: bool = True,
    ) -> None:
        self.metadata = metadata
        if metadata is not None and not metadata.is_dir():
            raise ValueError(f"--metadata {metadata}: there is no such folder.")
        self.dataset = open_dataset(folder)
        there = self.dataset.shards
        for split in splits or ():
            if split not in there:
                raise ValueError(f"--bins {folder} has no split {split}, only {', '.join(there)}.")
        wanted = list(dict.fromkeys(splits or there))
        self.num_bins = sum(self.dataset.num_bins[split] for split in wanted)
        self.paths = [path for split in wanted for path in there[split]]
        digest = hashlib.sha256()
        ids: list[str] = []
        groups: list[str | None] = []
        expected = [np.empty(0, dtype=np.int64)]
        self.row_groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for path in self.paths:
            check_contents(folder, path)
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with open_shard(path) as parquet:
                records = parquet.read(["id", QUANTITY]).to_pydict()
                digest.update(repr(records).encode())
                expected.append(np.array([-1 if q is None else q for q in records[QUANTITY]]))
                if with_visits:
                    ids += records["id"]
                    groups += parquet.read(["bin_group"])["bin_group"].to_pylist()
                for place in range(parquet.num_row_groups):
                    self.row_groups.append((path, place))
                    sizes.append(parquet.metadata.row_group(place).num_rows)
        self.fingerprint = f"dataset {digest.hexdigest()} {metadata and metadata.resolve()}"
        self.expected = np.concatenate(expected)
        self.starts = np.cumsum([0, *sizes])[:-1]
        self.visits = order_of_visits(ids, groups)
        self.visit_faults: dict[int, str] = {}

    def bins(self, first: int = 0, photos_of: Collection[int] | None = None) -> Iterator[AuditBin]:
        start = 0
        for path in self.paths:
            with open_shard(path) as parquet:
                for group in range(parquet.num_row_groups):
                    rows = range(start, start + parquet.metadata.row_group(group).num_rows)
                    start = rows.stop
                    if rows.stop <= first:
                        continue
                    has_photos = photos_of is None or not set(rows).isdisjoint(photos_of)
                    sizes = [name for name in self.SIZES if name in parquet.schema_arrow.names]
                    columns = [*self.COLUMNS, *sizes, *(["image"] if has_photos else [])]
                    content = parquet.read_row_group(group, columns=columns).to_pylist()
                    for number, row in zip(rows, content, strict=True):
                        if number >= first:
                            yield self._bin(row, photos_of is None or number in photos_of)

    def photos(self, rows: Sequence[int]) -> Iterator[bytes | None]:
        groups = (np.searchsorted(self.starts, rows, side="right") - 1).tolist()
        for group, some in groupby(zip(groups, rows, strict=True), key=itemgetter(0)):
            path, place = self.row_groups[group]
            with open_shard(path) as parquet:
                images = parquet.read_row_group(place, columns=["image"])["image"]
            for _, row in some:
                yield (images[row - int(self.starts[group])].as_py() or {}).get("bytes")

    def _bin(self, row: dict[str, Any], has_photo: bool) -> AuditBin:
        photo = (row["image"] or {}).get("bytes") if has_photo else None
        recorded = "" if row[QUANTITY] is None else str(row[QUANTITY])
        problem = "no photo" if has_photo and photo is None else _quantity_problem(recorded)
        asins = row["asins"] or []
        names, note = self._names(row["id"]) if self.metadata else ({}, None)
        nothing = [None] * len(asins)
        columns = (row.get(name) or nothing for name in ("quantities", *self.SIZES))
        items = tuple(
            Item(names.get(asin, asin), *of_item)
            for asin, *of_item in zip(asins, *columns, strict=True)
        )
        return AuditBin(row["id"], recorded, items, photo, problem, note)

    def _names(self, bin_id: str) -> tuple[dict[str, str], str | None]:
        try:
            content = json.loads((Path(str(self.metadata)) / f"{bin_id}.json").read_bytes())
            listed = content["BIN_FCSKU_DATA"].values()
            return {item["asin"]: str(item.get("name") or item["asin"]) for item in listed}, None
        except FileNotFoundError:
            return {}, f"unknown id: no metadata {bin_id}.json"
        except OSError as error:
            return {}, f"metadata {bin_id}.json cannot be read: {error.strerror}"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}, f"metadata {bin_id}.json is damaged"


def _quantity_problem(recorded: str) -> str | None:
    if whole_number(recorded) is not None:
        return None
    return f"expected quantity {recorded[:40]!r} is not a whole number from 0 on"


def parse_items(text: str) -> tuple[tuple[Item, ...], str | None]:
    """Return a bin's items from JSON, and what is wrong with it; sizes as items.measured has them.

    >>> parse_items('[{"name": "Oil filter", "quantity": 2}]')
    ((Item(name='Oil filter', quantity=2, volume=None, weight=None),), None)
    """
    if not text.strip():
        return (), None
    items: list[Item] = []
    faults: dict[str, None] = {}
    try:
        for item in json.loads(text):
            quantity, size = item.get("quantity"), measured(item)
            quantity = None if quantity is None else int(quantity)
            items.append(Item(str(item["name"]), quantity, size.volume, size.weight))
            faults |= dict.fromkeys(size.faults)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return (), 'items is not JSON such as [{"name": "Oil filter", "quantity": 2}]'
    named = [*list(faults)[:NUM_FAULTS], *(["..."] if len(faults) > NUM_FAULTS else [])]
    return tuple(items), f"of the items' sizes {', '.join(named)}" if named else None


def decode_photo(content: bytes, size: tuple[int, int], resample: int) -> np.ndarray:
    """Return a photo as the model takes it, by the endpoint's own rules and limits.

    Args and returns: as in serving.photo_checks.decode_photo.

    Raises: UnusablePhotoError: not a JPEG or PNG, damaged, truncated, or too large.
    """
    try:
        return photo_checks.decode_photo(content, size, resample)
    except RequestError as error:
        raise UnusablePhotoError(error.reason) from error


def thumbnail(content: bytes, longest_edge: int) -> bytes:
    """Return a photo as a small JPEG, for a page that holds thousands.

    Raises: UnusablePhotoError: as in decode_photo.
    """

    def small(photo: Image.Image) -> bytes:
        photo.thumbnail((longest_edge, longest_edge), Image.Resampling.BILINEAR)
        encoded = io.BytesIO()
        photo.save(encoded, format="JPEG", quality=70, optimize=True)
        return encoded.getvalue()

    try:
        return photo_checks.use_photo(content, small)
    except RequestError as error:
        raise UnusablePhotoError(error.reason) from error
