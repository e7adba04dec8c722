"""Write the dataset folder's README.md: the card that the Hub shows and that `datasets` reads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bin_images import JPEG_QUALITY, channel_mean_and_std
from shards import ShardStatistics
from splits import SPLITS


@dataclass(frozen=True)
class DatasetTotals:
    """What the shards of a dataset hold together."""

    kept: Mapping[str, Counter[str]]  # split -> label -> bins
    set_aside: Sequence[Mapping[str, str]]  # [{"id": ..., "reason": ...}]
    channel_mean: np.ndarray | None  # (3,), of the train split, 0 to 1; None without one
    channel_std: np.ndarray | None

    @property
    def num_kept(self) -> int:
        return sum(labels.total() for labels in self.kept.values())


def add_up(
    statistics: Sequence[ShardStatistics], set_aside_records: Sequence[Mapping[str, str]]
) -> DatasetTotals:
    """Add up the shards' statistics, with the records that never came as far as a shard."""
    kept: dict[str, Counter[str]] = {}
    train_histogram = np.zeros((3, 256), dtype=np.int64)
    for shard in statistics:
        kept.setdefault(shard.split, Counter()).update(shard.kept)
        if shard.split == "train":
            train_histogram += np.array(shard.histogram)
    mean, std = channel_mean_and_std(train_histogram) if train_histogram.any() else (None, None)
    set_aside = [*set_aside_records, *(entry for shard in statistics for entry in shard.set_aside)]
    return DatasetTotals(
        kept={split: kept[split] for split in SPLITS if kept.get(split)},
        set_aside=sorted(set_aside, key=lambda entry: entry["id"]),
        channel_mean=mean,
        channel_std=std,
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


def dataset_card(
    totals: DatasetTotals, label_names: Sequence[str], settings: Mapping[str, object]
) -> str:
    """Return the text of README.md.

    The header names no data files: `datasets` finds data/SPLIT-*.parquet by itself, and then its
    cache goes by the files' times. With files named here it goes by their patterns alone, and
    gives out an older dataset of the same folder name. It does name the splits' sizes, so that
    `datasets` refuses a copy in which a shard is missing.

    Args:
        settings: what the dataset was built from and how, as build_dataset.py records it.
    """
    splits = "\n".join(
        f"  - name: {split}\n    num_examples: {labels.total()}"
        for split, labels in totals.kept.items()
    )
    reasons = Counter(entry["reason"] for entry in totals.set_aside)
    set_aside = (
        f"{len(totals.set_aside):,} wanted bins were set aside; `set_aside.jsonl` names them.\n"
        + "".join(f"\n- {number:,}: {reason}" for reason, number in reasons.most_common())
        if reasons
        else "No wanted bin had to be set aside."
    )
    leakage = (
        "Consecutive photos often show one bin before and after a pick. Such runs form a "
        "`bin_group`, and a group is in one split as a whole."
        if settings["split_by"] == "bin_group"
        else "**The splits leak**: consecutive photos often show one bin before and after a pick, "
        "and this dataset was split photo by photo (`--split_by random`), so that near-copies of "
        "training photos are in the other splits. Compare with published figures only."
    )
    return f"""---
license: cc-by-nc-sa-3.0
task_categories:
- image-classification
tags:
- object-counting
- warehouse
dataset_info:
  splits:
{splits}
---

# Bin photos with {label_names[0]} to {label_names[-1]} items

One photo of a warehouse bin a row, with the number of items that the inventory expects in it.

{count_table(totals, label_names)}

{channel_line(totals)}

## Columns

`image` (JPEG, {settings["image_size"]}x{settings["image_size"]}), `label` (a class whose *name* is
the number of items), `id` (a string: `1` and `00001` are different bins), `bin_group`,
`expected_quantity` (items), `asins` and `quantities` (the items that should be there; a quantity is
null where the record gives none).

## How it was made

From `{settings["source"]}` by `data_prep/build_dataset.py` with seed {settings["seed"]}. Each photo
was squeezed to {settings["image_size"]}x{settings["image_size"]} pixels (bilinear, not cropped: a
crop can cut an item away) and stored as JPEG of quality {JPEG_QUALITY}; a JPEG that had this size
already was stored as it was.

{leakage}

{set_aside}

The label is the inventory's record, not a count by hand: some are wrong.

## Licence

Photos and metadata of the [Amazon Bin Image Dataset](https://registry.opendata.aws/amazon-bin-imagery/)
are Amazon's, under CC BY-NC-SA 3.0 US: non-commercial use, with attribution, shared alike.
"""
