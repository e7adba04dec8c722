"""Write the dataset's parquet shards, each by one worker process.

A shard is done or it does not exist: it gets its name only when it is complete, and its statistics
last, so a killed run goes on with the shards that are missing.
"""

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import ObjectStore

from dataset.marks import MARK_COLUMNS
from dataset.photos import PreparedPhoto, UnusablePhotoError, prepare_photo
from object_store import UnansweredError, open_store, read_objects, remove_object, write_object
from worker_pool import map_in_workers

# The Hub's viewer and random access read whole row groups.
ROWS_PER_ROW_GROUP = 100
BYTES_PER_ROW_GROUP = 90_000_000
SHARD_COLUMNS = ["id", "count", "bin_group", "asins", "quantities", "volumes", "weights"]


@dataclass(frozen=True)
class Shard:
    """One parquet file to be, and the bins that go into it, in order: a table of SHARD_COLUMNS."""

    name: str
    split: str
    bins: pa.Table


@dataclass(frozen=True)
class ShardStatistics:
    """What became of a shard's bins; its JSON form is the sign that the shard is complete."""

    split: str
    kept: dict[str, int]  # count, as its label -> bins
    set_aside: list[dict[str, str]]  # [{"id": ..., "reason": ...}]
    histogram: np.ndarray  # int (3, 256), pixels
    num_bytes: int  # of the parquet file; 0 where no photo was usable: then there is none
    sha256: str | None
    photo_hashes: dict[str, str]  # bin -> photo_hash, hexadecimal; of all usable photos
    seconds: float
    # The SHA-256 that the file had before bins of it were set aside because another split has their
    # photos, which these entries of `set_aside` name as "same_as".
    cut_from: str | None = None

    @property
    def num_bins(self) -> int:
        return sum(self.kept.values()) + len(self.set_aside)

    def to_json(self) -> bytes:
        """Return the content of its file."""
        return json.dumps({**vars(self), "histogram": self.histogram.tolist()}).encode()

    @property
    def same_as(self) -> dict[str, str]:
        """Return the bins that were cut out, each with the one that has its photo."""
        return {e["id"]: e["same_as"] for e in self.set_aside if "same_as" in e}

    @property
    def kept_ids(self) -> set[str]:
        """Return the bins that are in the file."""
        return self.photo_hashes.keys() - self.same_as.keys()

    @classmethod
    def from_json(cls, content: bytes) -> "ShardStatistics":
        """Read its file. Raises: ValueError: damaged, or of another version."""
        fields = json.loads(content)
        try:
            return cls(**{**fields, "histogram": np.array(fields["histogram"], dtype=np.int64)})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class ShardWriter:
    """What a worker process needs to know to make any shard of one dataset."""

    source: str
    output: str
    image_size: int
    label_names: Sequence[str]

    # Opened once in a process: with a new store every connection is made anew.
    @cached_property
    def source_store(self) -> ObjectStore:
        return open_store(self.source)

    @cached_property
    def output_store(self) -> ObjectStore:
        return open_store(self.output, "--output_dir", create=True)

    def write(self, shard: Shard) -> ShardStatistics | UnansweredError:
        """Fetch, prepare and write one shard.

        A photo that is missing or cannot be used is set aside with its reason. Returns an
        UnansweredError, and writes nothing, where photos did not arrive: other shards may do.

        Raises: OSError, obstore.exceptions.BaseError: the shard cannot be written.
        """
        start = time.monotonic()
        try:
            photos, reasons = asyncio.run(self._prepare(shard))
        except UnansweredError as error:
            return error
        # In the order of the plan, not of arrival: the bytes depend on the inputs alone.
        ids = shard.bins["id"].to_pylist()
        kept = shard.bins.filter(pa.array([bin_id in photos for bin_id in ids]))
        content = self._parquet(kept, photos)
        write_data(self.output_store, shard.name, content)
        labels = Counter(str(count) for count in kept["count"].to_pylist())
        statistics = ShardStatistics(
            split=shard.split,
            kept=dict(sorted(labels.items())),
            set_aside=[
                {"id": bin_id, "reason": reasons[bin_id]} for bin_id in ids if bin_id in reasons
            ],
            histogram=sum_of_histograms(photo.histogram for photo in photos.values()),
            num_bytes=len(content),
            sha256=digest_of(content),
            photo_hashes={bin_id: photos[bin_id].hash.hex() for bin_id in kept["id"].to_pylist()},
            seconds=round(time.monotonic() - start, 3),
        )
        write_object(self.output_store, statistics_path(shard.name), statistics.to_json())
        # Or a worker's memory grows by some megabytes a shard, for the first ones.
        del kept, content, photos
        pa.default_memory_pool().release_unused()
        return statistics

    async def _prepare(self, shard: Shard) -> tuple[dict[str, PreparedPhoto], dict[str, str]]:
        photos: dict[str, PreparedPhoto] = {}
        reasons: dict[str, str] = {}
        wanted = {f"bin-images/{bin_id}.jpg": bin_id for bin_id in shard.bins["id"].to_pylist()}
        async for path, content, problem in read_objects(self.source_store, wanted):
            bin_id = wanted[path]
            if content is None:
                reasons[bin_id] = "no photo" if problem == "missing" else f"photo: {problem}"
                continue
            try:
                photos[bin_id] = prepare_photo(content, self.image_size)
            except UnusablePhotoError as error:
                reasons[bin_id] = str(error)
        return photos, reasons

    def _parquet(self, bins: pa.Table, photos: Mapping[str, PreparedPhoto]) -> memoryview:
        ids = bins["id"].to_pylist()
        counts = bins["count"].to_pylist()
        contents = pa.array([photos[bin_id].jpeg for bin_id in ids], pa.binary())
        names = pa.array([f"{bin_id}.jpg" for bin_id in ids], pa.string())
        table = pa.table(
            {
                "image": pa.StructArray.from_arrays([contents, names], ["bytes", "path"]),
                "label": [self.label_names.index(str(count)) for count in counts],
                "id": bins["id"],
                "bin_group": bins["bin_group"],
                "expected_quantity": bins["count"],
                "asins": bins["asins"],
                **{n: bins[n] for n in ("quantities", "volumes", "weights")},
                **{name: bins[name] for name in MARK_COLUMNS if name in bins.column_names},
            },
            schema=dataset_schema(self.label_names, has_marks(bins)),
        )
        return parquet_content(table)


def parquet_content(table: pa.Table) -> memoryview:
    """Return the parquet file of a shard's rows; nothing for none, which `datasets` cannot read."""
    if table.num_rows == 0:
        return memoryview(b"")
    stream = pa.BufferOutputStream()
    sizes = [len(image["bytes"]) for image in table["image"].to_pylist()]
    with pq.ParquetWriter(stream, table.schema) as writer:
        for start, end in row_groups(sizes):
            writer.write_table(table.slice(start, end - start))
    return memoryview(stream.getvalue())


def write_data(store: ObjectStore, name: str, content: memoryview) -> None:
    """Write the file of the shard of this name, or remove it where it has no rows."""
    if content:
        write_object(store, data_path(name), content)
    else:
        remove_object(store, data_path(name))


def digest_of(content: memoryview | bytes) -> str | None:
    """Return the SHA-256 of a shard's file, hexadecimal; None where it has no rows."""
    return hashlib.sha256(content).hexdigest() if content else None


def sum_of_histograms(histograms: Iterable[np.ndarray]) -> np.ndarray:
    """Return how many pixels of all photos have each value, int (3, 256)."""
    return sum(histograms, start=np.zeros((3, 256), dtype=np.int64))


def data_path(name: str) -> str:
    """Return where the shard of this name is, in the dataset folder."""
    return f"data/{name}.parquet"


def statistics_path(name: str) -> str:
    """Return where the statistics of the shard of this name are, in the dataset folder."""
    return f"statistics/{name}.json"


def row_groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last row (exclusive) of groups that stay below both limits.

    Args:
        sizes: of each row's photo, bytes.
    """
    start, held = 0, 0
    for row, size in enumerate(sizes):
        if row > start and (row - start == ROWS_PER_ROW_GROUP or held + size > BYTES_PER_ROW_GROUP):
            yield start, row
            start, held = row, 0
        held += size
    yield start, len(sizes)


def has_marks(rows: pa.Table) -> bool:
    """Say whether rows, planned or written, tell what people found (--marks)."""
    return all(name in rows.column_names for name in MARK_COLUMNS)


def dataset_schema(label_names: Sequence[str], with_marks: bool = False) -> pa.Schema:
    """Return the arrow schema of a shard, which carries the `datasets` features with it.

    Written down here because importing `datasets` takes two seconds; a test holds the two together.
    """
    marks = MARK_COLUMNS if with_marks else {}

    def value(dtype: str) -> dict[str, str]:
        return {"dtype": dtype, "_type": "Value"}

    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(label_names), "_type": "ClassLabel"},
        "id": value("string"),
        "bin_group": value("string"),
        "expected_quantity": value("int32"),
        "asins": {"feature": value("string"), "_type": "List"},
        "quantities": {"feature": value("int32"), "_type": "List"},
        "volumes": {"feature": value("float32"), "_type": "List"},
        "weights": {"feature": value("float32"), "_type": "List"},
        **{name: value(str(kind)) for name, kind in marks.items()},
    }
    return pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "label": pa.int64(),
            "id": pa.string(),
            "bin_group": pa.string(),
            "expected_quantity": pa.int32(),
            "asins": pa.list_(pa.string()),
            "quantities": pa.list_(pa.int32()),
            "volumes": pa.list_(pa.float32()),
            "weights": pa.list_(pa.float32()),
            **marks,
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def write_shards(
    writer: ShardWriter, shards: Iterable[Shard], num_workers: int
) -> Iterator[tuple[str, ShardStatistics | UnansweredError]]:
    """Write the shards in worker processes; yield name and outcome of each as it is done."""
    if num_workers == 1:
        return ((shard.name, writer.write(shard)) for shard in shards)
    return map_in_workers(_write, shards, num_workers, _become, writer)


_writer: ShardWriter  # of this worker process


def _become(writer: ShardWriter) -> None:
    global _writer
    _writer = writer


def _write(shard: Shard) -> tuple[str, ShardStatistics | UnansweredError]:
    return shard.name, _writer.write(shard)
