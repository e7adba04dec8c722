"""Write the dataset's parquet shards: which bins are in one is decided before any download.

A shard is done or it does not exist: it gets its name, and beside it its statistics, only when it
is complete, so a killed run goes on with the shards that are missing.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bin_images import UnusablePhotoError, prepare_photo
from object_store import open_store, read_objects
from whole_files import whole_file
from worker_pool import worker_pool

# About 8 MB of photos at 224 pixels: small enough to redo after a kill, large enough to read well.
BINS_PER_SHARD = 500
# The Hub's viewer and random access read whole row groups.
ROWS_PER_ROW_GROUP = 100


@dataclass(frozen=True)
class WantedBin:
    """A bin that belongs in the dataset, if its photo can be used."""

    id: str
    count: int
    bin_group: str
    asins: list[str]
    quantities: list[int | None]


@dataclass(frozen=True)
class Shard:
    """One parquet file to be: its place in the dataset and the bins that go into it, in order."""

    split: str
    index: int
    num_shards: int
    bins: Sequence[WantedBin]

    @property
    def name(self) -> str:
        """The field's usual file name, without its ending."""
        return f"{self.split}-{self.index:05d}-of-{self.num_shards:05d}"


@dataclass
class ShardStatistics:
    """What became of a shard's bins; its JSON form is the sign that the shard is complete."""

    split: str
    kept: dict[str, int] = field(default_factory=dict)  # count, as its label -> bins
    set_aside: list[dict[str, str]] = field(default_factory=list)  # [{"id": ..., "reason": ...}]
    histogram: list[list[int]] = field(default_factory=list)  # (3, 256), pixels

    @property
    def num_bins(self) -> int:
        return sum(self.kept.values()) + len(self.set_aside)


@dataclass(frozen=True)
class ShardWriter:
    """What a worker process needs to know to make any shard of one dataset."""

    source: str
    dataset_dir: Path
    image_size: int
    label_names: Sequence[str]
    schema: pa.Schema

    def data_path(self, shard: Shard) -> Path:
        return self.dataset_dir / "data" / f"{shard.name}.parquet"

    def statistics_path(self, shard: Shard) -> Path:
        return self.dataset_dir / "statistics" / f"{shard.name}.json"

    def finished(self, shard: Shard) -> ShardStatistics | None:
        """Return the statistics of a shard that is complete, else None."""
        if not self.statistics_path(shard).exists():
            return None
        statistics = ShardStatistics(**json.loads(self.statistics_path(shard).read_text()))
        # `datasets` cannot read a file without rows, so an empty shard has no file.
        is_there = self.data_path(shard).exists() or not statistics.kept
        return statistics if is_there else None

    def write(self, shard: Shard) -> ShardStatistics:
        """Fetch, prepare and write one shard.

        A photo that is missing or cannot be used is set aside with its reason.

        Raises: obstore.exceptions.BaseError: the store failed after its own retries.
        """
        rows, statistics = asyncio.run(self._prepare(shard))
        if rows:
            table = pa.Table.from_pylist(rows, schema=self.schema)
            with whole_file(self.data_path(shard)) as path:
                pq.write_table(table, path, row_group_size=ROWS_PER_ROW_GROUP)
        with whole_file(self.statistics_path(shard)) as path:
            path.write_text(json.dumps(asdict(statistics)))
        return statistics

    async def _prepare(self, shard: Shard) -> tuple[list[dict[str, Any]], ShardStatistics]:
        wanted = {f"bin-images/{a_bin.id}.jpg": a_bin for a_bin in shard.bins}
        jpegs: dict[str, bytes] = {}
        reasons: dict[str, str] = {}
        histogram = np.zeros((3, 256), dtype=np.int64)
        async for path, content, problem in read_objects(open_store(self.source), wanted):
            bin_id = wanted[path].id
            if content is None:
                reasons[bin_id] = "no photo" if problem == "missing" else f"photo: {problem}"
                continue
            try:
                photo = prepare_photo(content, self.image_size)
            except UnusablePhotoError as error:
                reasons[bin_id] = str(error)
                continue
            jpegs[bin_id] = photo.jpeg
            histogram += photo.histogram
        # In the order of the plan, not of arrival: the bytes depend on the inputs alone.
        kept = [a_bin for a_bin in shard.bins if a_bin.id in jpegs]
        rows = [
            {
                "image": {"bytes": jpegs[a_bin.id], "path": f"{a_bin.id}.jpg"},
                "label": self.label_names.index(str(a_bin.count)),
                "id": a_bin.id,
                "bin_group": a_bin.bin_group,
                "expected_quantity": a_bin.count,
                "asins": a_bin.asins,
                "quantities": a_bin.quantities,
            }
            for a_bin in kept
        ]
        statistics = ShardStatistics(
            split=shard.split,
            kept=dict(sorted(Counter(str(a_bin.count) for a_bin in kept).items())),
            set_aside=[
                {"id": a_bin.id, "reason": reasons[a_bin.id]}
                for a_bin in shard.bins
                if a_bin.id in reasons
            ],
            histogram=histogram.tolist(),
        )
        return rows, statistics


def dataset_schema(label_names: Sequence[str]) -> pa.Schema:
    """Return the arrow schema of a shard, which carries the `datasets` features with it."""
    # Imported here: it takes two seconds, and the worker processes have no need of it.
    from datasets import ClassLabel, Features, Image, List, Value

    return Features(
        {
            "image": Image(),
            "label": ClassLabel(names=list(label_names)),
            "id": Value("string"),
            "bin_group": Value("string"),
            "expected_quantity": Value("int32"),
            "asins": List(Value("string")),
            "quantities": List(Value("int32")),
        }
    ).arrow_schema


def plan_shards(bins_by_split: Mapping[str, Sequence[WantedBin]]) -> list[Shard]:
    """Cut each split into shards of nearly the same size, at most BINS_PER_SHARD bins."""
    shards = []
    for split, bins in bins_by_split.items():
        num_shards = -(-len(bins) // BINS_PER_SHARD)
        edges = [len(bins) * index // num_shards for index in range(num_shards + 1)]
        shards += [
            Shard(split, index, num_shards, bins[start:end])
            for index, (start, end) in enumerate(pairwise(edges))
        ]
    return shards


def write_shards(
    writer: ShardWriter, shards: Iterable[Shard], num_workers: int
) -> Iterator[ShardStatistics]:
    """Write the shards in worker processes; yield their statistics as they are done."""
    if num_workers == 1:
        yield from map(writer.write, shards)
        return
    with worker_pool(num_workers) as pool:
        for future in as_completed([pool.submit(writer.write, shard) for shard in shards]):
            yield future.result()
