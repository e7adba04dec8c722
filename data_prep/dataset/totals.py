"""Add up what the shards of a dataset hold, and put it into words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.bin_visits import Visits, count_visits
from catalog.item_sizes import sizes_line
from dataset.equal_photos import EqualPhotos
from dataset.photos import channel_mean_and_std
from dataset.shards import ShardStatistics
from dataset.splits import SPLITS


@dataclass(frozen=True)
class DatasetTotals:
    """What the shards of a dataset hold together."""

    kept: Mapping[str, Counter[str]]  # split -> label -> bins
    visits: Mapping[str, Visits]  # split -> of its rows
    num_bytes: Mapping[str, int]  # split -> bytes of its shards
    set_aside: Sequence[Mapping[str, str]]  # [{"id": ..., "reason": ...}]
    channel_mean: np.ndarray | None  # (3,), of the train split, 0 to 1; None without one
    channel_std: np.ndarray | None
    equal: EqualPhotos
    sizes_line: str  # of catalog.item_sizes

    @property
    def num_kept(self) -> int:
        return sum(labels.total() for labels in self.kept.values())

    @property
    def num_bins_again(self) -> int:
        """Return how many bins were visited twice and more."""
        return sum(visits.num_bins_again for visits in self.visits.values())

    @property
    def num_pairs(self) -> int:
        """Return how many pairs of neighbouring visits there are."""
        return sum(visits.num_pairs for visits in self.visits.values())


def add_up(
    statistics: Sequence[ShardStatistics],
    bins: pa.Table,
    set_aside_records: Sequence[Mapping[str, str]],
    equal: EqualPhotos,
) -> DatasetTotals:
    """Add up the shards' statistics.

    Args:
        statistics: of all shards.
        bins: those that were planned: SHARD_COLUMNS and split.
        set_aside_records: those that never came as far as a shard.
    """
    kept: dict[str, Counter[str]] = {}
    num_bytes: Counter[str] = Counter()
    train_histogram = np.zeros((3, 256), dtype=np.int64)
    for shard in statistics:
        kept.setdefault(shard.split, Counter()).update(shard.kept)
        num_bytes[shard.split] += shard.num_bytes
        if shard.split == "train":
            train_histogram += np.array(shard.histogram)
    mean, std = channel_mean_and_std(train_histogram) if train_histogram.any() else (None, None)
    kept_splits = [split for split in SPLITS if kept.get(split)]
    kept_ids = [bin_id for shard in statistics for bin_id in shard.kept_ids]
    bins = bins.filter(pc.is_in(bins["id"], value_set=pa.array(kept_ids, pa.string())))
    set_aside = [*set_aside_records, *(entry for shard in statistics for entry in shard.set_aside)]
    return DatasetTotals(
        kept={split: kept[split] for split in kept_splits},
        visits={
            split: count_visits(bins.filter(pc.equal(bins["split"], split)))
            for split in kept_splits
        },
        num_bytes=num_bytes,
        set_aside=sorted(set_aside, key=lambda entry: entry["id"]),
        channel_mean=mean,
        channel_std=std,
        equal=equal,
        sizes_line=sizes_line(bins),
    )


def count_table(totals: DatasetTotals, label_names: Sequence[str]) -> str:
    """Return a markdown table of bins by count and split, with each count's share of its split."""
    return _shares_table("items", label_names, totals.kept)


def change_table(totals: DatasetTotals, label_names: Sequence[str]) -> str:
    """Return a markdown table of the changes between neighbouring visits, by size and split.

    It has each change that the counts allow, and its share of its split's pairs.
    """
    largest = int(label_names[-1]) - int(label_names[0])
    names = [_signed(change) for change in range(-largest, largest + 1)]
    changes = {
        split: {_signed(change): number for change, number in visits.changes.items()}
        for split, visits in totals.visits.items()
    }
    return _shares_table("change", names, changes)


def visit_table(totals: DatasetTotals) -> str:
    """Return a markdown table of bins by how often they were visited, and split."""
    rows = [["bins visited", *totals.visits]]
    for name, fewest, most in (("once", 1, 1), ("twice", 2, 2), ("more often", 3, None)):
        numbers = (
            sum(n for times, n in visits.bins.items() if fewest <= times <= (most or times))
            for visits in totals.visits.values()
        )
        rows.append([name, *(f"{number:,}" for number in numbers)])
    rows.append(
        ["pairs of neighbours", *(f"{visits.num_pairs:,}" for visits in totals.visits.values())]
    )
    return _markdown(rows)


def visits_line(totals: DatasetTotals) -> str:
    """Return one line on the bins that were visited twice and more."""
    if totals.num_pairs == 0:
        return "No bin was visited twice, as far as bin groups are known."
    return (
        f"{totals.num_bins_again:,} bins were visited twice and more: {totals.num_pairs:,} pairs "
        "of neighbouring visits."
    )


def _signed(change: int) -> str:
    return f"{change:+}" if change else "0"


def _shares_table(
    title: str, names: Sequence[str], numbers: Mapping[str, Mapping[str, int]]
) -> str:
    """Return a markdown table of numbers and their shares: a row a name, a column a split.

    Args:
        numbers: split -> name -> number; a name that is not there has none.
    """
    sizes = {split: sum(by_name.values()) for split, by_name in numbers.items()}
    rows = [
        [title, *sizes],
        *([name, *(_share(numbers[s].get(name, 0), sizes[s]) for s in sizes)] for name in names),
        ["all", *(f"{size:,}" for size in sizes.values())],
    ]
    return _markdown(rows)


def _share(number: int, total: int) -> str:
    return f"{number:,} ({100 * number / max(total, 1):.1f} %)"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table of cells; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)


def channel_line(totals: DatasetTotals) -> str:
    """Return one line with the channels' mean and standard deviation."""
    if totals.channel_mean is None or totals.channel_std is None:
        return "No train split, so no channel mean and standard deviation."
    mean, std = (
        ", ".join(f"{value:.4f}" for value in values)
        for values in (totals.channel_mean, totals.channel_std)
    )
    return f"Channel mean ({mean}), standard deviation ({std}) of the train split, on 0 to 1."


def equal_photos_line(totals: DatasetTotals, split_by: str) -> str:
    """Return one line on the photos that are there under several ids."""
    number, num_others = totals.equal.num_photos, len(totals.equal.in_other_split)
    if number == 0:
        return "Equal photos under several ids: none."
    found = f"Equal photos under several ids: {number:,}"
    if split_by != "bin_group":
        return f"{found}; {num_others:,} of them are in another split than an equal one."
    return f"{found}; with their groups, {num_others:,} bins of another split were set aside."
