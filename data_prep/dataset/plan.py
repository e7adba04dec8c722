"""Decide which bins a dataset holds and in which shard each one is, before any download.

Everything here is a pure function of catalog and settings, so that every machine and every run
arrives at the same shards. Bins stay in arrow columns: all 535,234 take about 100 MB.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.file import CATALOG_SCHEMA
from dataset.shards import SHARD_COLUMNS, Shard
from dataset.splits import assign_splits, hash_order

# About 8 MB of photos at 224 pixels: small enough to redo after a kill, large enough to read well.
BINS_PER_SHARD = 500
LEFT_OUT, NOT_THERE = "left out (--exclude)", "to be left out, but not among the bins (--exclude)"


@dataclass(frozen=True)
class Selection:
    """The bins that are wanted, and what became of the others.

    `bins` has SHARD_COLUMNS, and for an official split `split`; sorted by id.
    """

    bins: pa.Table
    num_out_of_range: int
    set_aside: Sequence[Mapping[str, str]]  # [{"id": ..., "reason": ...}]


@dataclass(frozen=True)
class PlannedShard:
    """One parquet file to be: its place in the dataset, and the rows of its bins, in order."""

    split: str
    index: int
    num_shards: int
    rows: np.ndarray

    @property
    def name(self) -> str:
        """The field's usual file name, without its ending."""
        return f"{self.split}-{self.index:05d}-of-{self.num_shards:05d}"

    def shard(self, bins: pa.Table) -> Shard:
        """Return what a worker needs to make it."""
        return Shard(self.name, self.split, bins.take(self.rows))


def select_bins(
    catalog: pa.Table, listed: Collection[str] | None, min_count: int, max_count: int
) -> Selection:
    """Return the catalog's usable bins in range.

    Args:
        catalog: table of CATALOG_SCHEMA.
        listed: keep only these ids; None keeps all.
    """
    set_aside = []
    if listed is not None:
        catalog, absent = keep_listed(catalog, listed)
        set_aside = [{"id": bin_id, "reason": "not in the catalog"} for bin_id in absent]
    usable = catalog.filter(pc.is_null(catalog["set_aside"]))
    unusable = catalog.filter(pc.is_valid(catalog["set_aside"])).select(["id", "set_aside"])
    set_aside += [{"id": row["id"], "reason": row["set_aside"]} for row in unusable.to_pylist()]
    bins = _in_range(usable, min_count, max_count).select(SHARD_COLUMNS)
    return Selection(bins, usable.num_rows - bins.num_rows, set_aside)


def select_official_bins(
    official: pa.Table,
    catalog: pa.Table | None,
    listed: Collection[str] | None,
    min_count: int,
    max_count: int,
) -> Selection:
    """Return the bins of the official lists in range; their items are null where unknown.

    Args:
        official: table of read_official_bins; its labels stand.
        catalog: table of CATALOG_SCHEMA, for the items.
    """
    set_aside = []
    if listed is not None:
        official, absent = keep_listed(official, listed)
        set_aside = [{"id": bin_id, "reason": "not in the official lists"} for bin_id in absent]
    bins = _in_range(official, min_count, max_count)
    for name in ("asins", "quantities", "volumes", "weights"):
        if catalog is None:
            items = pa.nulls(bins.num_rows, CATALOG_SCHEMA.field(name).type)
        else:
            rows = pc.index_in(bins["id"], value_set=catalog["id"])
            items = catalog[name].take(rows)
        bins = bins.append_column(name, items)
    bins = bins.select([*SHARD_COLUMNS, "split"]).combine_chunks()
    return Selection(bins, official.num_rows - bins.num_rows, set_aside)


def _in_range(bins: pa.Table, min_count: int, max_count: int) -> pa.Table:
    counts = bins["count"]
    is_in = pc.and_(pc.greater_equal(counts, min_count), pc.less_equal(counts, max_count))
    return bins.filter(is_in).combine_chunks()


def keep_listed(bins: pa.Table, listed: Collection[str]) -> tuple[pa.Table, list[str]]:
    """Return the bins that are listed, and the ids that are listed and not there."""
    listed_ids = pa.array(sorted(listed), pa.string())
    absent = listed_ids.filter(pc.invert(pc.is_in(listed_ids, bins["id"].combine_chunks())))
    return bins.filter(pc.is_in(bins["id"], listed_ids)), absent.to_pylist()


def draw_bins(bins: pa.Table, max_bins: int, seed: int) -> pa.Table:
    """Return at most this many bins, in whole groups: the visits of a bin stay together.

    The groups are taken in an order that a hash of seed and name decides; one that has more bins
    than are still wanted is passed over, for the next that has not. So exactly `max_bins` come out,
    but where no group is small enough for the last of them.
    """
    units = whole_units(bins, "bin_group").combine_chunks().dictionary_encode()
    codes = units.indices.to_numpy()
    sizes = np.bincount(codes).tolist()
    is_drawn = np.zeros(len(sizes), dtype=bool)
    num_wanted = max_bins
    for group in _hashed_order(seed, units.dictionary).tolist():
        if sizes[group] <= num_wanted:
            is_drawn[group] = True
            num_wanted -= sizes[group]
    return bins.filter(pa.array(is_drawn[codes]))


def split_bins(
    bins: pa.Table, fractions: Mapping[str, float], split_by: str, seed: int
) -> pa.Table:
    """Return the bins with a column `split`.

    Args:
        split_by: "bin_group" keeps the photos of one bin together, "random" each photo by itself.
    """
    codes = assign_splits(whole_units(bins, split_by), bins["count"].to_numpy(), fractions, seed)
    names = pa.DictionaryArray.from_arrays(codes, pa.array(list(fractions)))
    return bins.append_column("split", names.cast(pa.string()))


def whole_units(bins: pa.Table, split_by: str) -> pa.ChunkedArray:
    """Return for each bin the name of what stays together; a bin of no known group is its own."""
    return pc.coalesce(bins["bin_group"], bins["id"]) if split_by == "bin_group" else bins["id"]


def leave_out(
    bins: pa.Table, excluded: Collection[str]
) -> tuple[pa.Table, list[Mapping[str, str]]]:
    """Return the other bins, and what became of each excluded id: [{"id": ..., "reason": ...}]."""
    excluded_ids = pa.array(sorted(excluded), pa.string())
    is_there = pc.is_in(excluded_ids, value_set=bins["id"].combine_chunks())
    became: list[Mapping[str, str]] = [
        {"id": bin_id, "reason": LEFT_OUT if there else NOT_THERE}
        for bin_id, there in zip(excluded_ids.to_pylist(), is_there.to_pylist(), strict=True)
    ]
    return bins.filter(pc.invert(pc.is_in(bins["id"], value_set=excluded_ids))), became


def plan_shards(bins: pa.Table, splits: Sequence[str], seed: int) -> list[PlannedShard]:
    """Cut each split into shards of nearly the same size, at most BINS_PER_SHARD bins.

    The bins are taken in an order that mixes counts and groups.

    Args:
        bins: with columns id and split.
    """
    order = _hashed_order(seed, bins["id"])
    split_of = bins["split"].combine_chunks().dictionary_encode()
    names = split_of.dictionary.to_pylist()
    codes = split_of.indices.to_numpy()[order]
    shards = []
    for split in (split for split in splits if split in names):
        rows = order[codes == names.index(split)]
        num_shards = -(-len(rows) // BINS_PER_SHARD)
        edges = [len(rows) * index // num_shards for index in range(num_shards + 1)]
        shards += [
            PlannedShard(split, index, num_shards, rows[start:end])
            for index, (start, end) in enumerate(pairwise(edges))
        ]
    return shards


def _hashed_order(seed: int, names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the rows in the order of their names' hashes; equal names stay as they are."""
    hashes = b"".join(hash_order(seed, name) for name in names.to_pylist())
    return np.argsort(np.frombuffer(hashes, dtype="S16"), kind="stable").astype(np.int32)
