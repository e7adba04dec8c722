"""Add up what the shards of a dataset hold, and put it into words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataset.equal_photos import EqualPhotos
from dataset.photos import channel_mean_and_std
from dataset.shards import ShardStatistics
from dataset.splits import SPLITS


@dataclass(frozen=True)
class DatasetTotals:
    """What the shards of a dataset hold together."""

    kept: Mapping[str, Counter[str]]  # split -> label -> bins
    num_bytes: Mapping[str, int]  # split -> bytes of its shards
    set_aside: Sequence[Mapping[str, str]]  # [{"id": ..., "reason": ...}]
    channel_mean: np.ndarray | None  # (3,), of the train split, 0 to 1; None without one
    channel_std: np.ndarray | None
    equal: EqualPhotos

    @property
    def num_kept(self) -> int:
        return sum(labels.total() for labels in self.kept.values())


def add_up(
    statistics: Sequence[ShardStatistics],
    set_aside_records: Sequence[Mapping[str, str]],
    equal: EqualPhotos,
) -> DatasetTotals:
    """Add up the shards' statistics, with the records that never came as far as a shard."""
    kept: dict[str, Counter[str]] = {}
    num_bytes: Counter[str] = Counter()
    train_histogram = np.zeros((3, 256), dtype=np.int64)
    for shard in statistics:
        kept.setdefault(shard.split, Counter()).update(shard.kept)
        num_bytes[shard.split] += shard.num_bytes
        if shard.split == "train":
            train_histogram += np.array(shard.histogram)
    mean, std = channel_mean_and_std(train_histogram) if train_histogram.any() else (None, None)
    set_aside = [*set_aside_records, *(entry for shard in statistics for entry in shard.set_aside)]
    return DatasetTotals(
        kept={split: kept[split] for split in SPLITS if kept.get(split)},
        num_bytes=num_bytes,
        set_aside=sorted(set_aside, key=lambda entry: entry["id"]),
        channel_mean=mean,
        channel_std=std,
        equal=equal,
    )


def count_table(totals: DatasetTotals, label_names: Sequence[str]) -> str:
    """Return a markdown table of bins by count and split, with each count's share of its split."""
    sizes = {split: labels.total() for split, labels in totals.kept.items()}
    rows = [
        ["items", *sizes],
        *(
            [
                name,
                *(
                    f"{labels[name]:,} ({100 * labels[name] / max(sizes[split], 1):.1f} %)"
                    for split, labels in totals.kept.items()
                ),
            ]
            for name in label_names
        ),
        ["all", *(f"{size:,}" for size in sizes.values())],
    ]
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
