"""Write the dataset folder's README.md: the card that the Hub shows and that `datasets` reads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dataset.photos import JPEG_QUALITY
from dataset.totals import (
    DatasetTotals,
    change_table,
    channel_line,
    count_table,
    equal_photos_line,
    visit_table,
    visits_line,
)

CHART = "counts_by_split.png"
LEAKAGE = {
    "bin_group": "Consecutive photos often show one bin before and after a pick. Such runs form a "
    "`bin_group`, and a group is in one split as a whole.",
    "random": "**The splits leak**: consecutive photos often show one bin before and after a pick, "
    "and this dataset was split photo by photo (`--split_by random`), so that near-copies of "
    "training photos are in the other splits. Compare with published figures only.",
    "official": "**The test split leaks**: it is the validation list of the dataset's own "
    "challenge, which was split photo by photo, and consecutive photos often show one bin before "
    "and after a pick: near-copies of its photos are in the official training list. Compare with "
    "published figures only. The validation split is a share of the training list, taken in whole "
    "groups (`bin_group`) where those are known; null says that the group is not.",
}

CHECKED = """

People have looked at some bins (`--marks`). `checked` says whether such a record was found right
or wrong, `recorded_quantity` what it said; the label and `expected_quantity` are what was counted
then, and a bin whose record was wrong has no items. Who looked, when, and in which file it stands:
`checked_by`, `checked_at`, `checked_in`."""


def dataset_card(
    totals: DatasetTotals,
    label_names: Sequence[str],
    settings: Mapping[str, Any],
    command: str,
) -> str:
    """Return the text of README.md.

    The header names no data files: `datasets` finds data/SPLIT-*.parquet by itself, and then its
    cache goes by the files' times. With files named here it goes by their patterns alone, and
    gives out an older dataset of the same folder name. It does name the splits' sizes, so that
    `datasets` refuses a copy in which a shard is missing.

    Args:
        settings: what the dataset was built from and how, as settings.json records it.
        command: the one that makes this dataset.
    """
    checked = CHECKED if settings.get("marks") else ""
    splits = "\n".join(
        f"  - name: {split}\n    num_bytes: {totals.num_bytes[split]}\n"
        f"    num_examples: {labels.total()}"
        for split, labels in totals.kept.items()
    )
    reasons = Counter(entry["reason"] for entry in totals.set_aside)
    set_aside = (
        f"{len(totals.set_aside):,} wanted bins were set aside; `set_aside.jsonl` names them.\n"
        + "".join(f"\n- {number:,}: {reason}" for reason, number in reasons.most_common())
        if reasons
        else "No wanted bin had to be set aside."
    )
    changes = f"\n\n{change_table(totals, label_names)}" if totals.num_pairs else ""
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
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

![Bins by number of items and split]({CHART})

{channel_line(totals)}

## Columns

`image` (JPEG, {settings["image_size"]}x{settings["image_size"]}), `label` (a class whose *name* is
the number of items), `id` (a string: `1` and `00001` are different bins), `bin_group`,
`expected_quantity` (items), `asins` and `quantities` (the items that should be there; a quantity is
null where the record gives none), `volumes` (cubic inches) and `weights` (pounds) of one piece of
each of these items; null where the record gives none, or none that can be. All four are null where
no record was read. {totals.sizes_line}

## Visits

A visit is a photo with the record of that moment; the visits of a bin are the rows of one
`bin_group` in the order of their ids, which is that of their numbers.

{visits_line(totals)}

{visit_table(totals)}

Neighbours are two visits that follow each other among the rows of a split. The change between them
is the count of the later visit less that of the earlier one.{changes}

## How it was made

```
{command}
```

Source: `{settings["source"]}`. Seed: {settings["seed"]}. Versions: {versions}. `settings.json` has
the rest.

Each photo was squeezed to {settings["image_size"]}x{settings["image_size"]} pixels (bilinear, not
cropped: a crop can cut an item away) and stored as JPEG of quality {JPEG_QUALITY}; a JPEG that had
this size already was stored as it was.

{LEAKAGE[settings["split_by"]]}

{equal_photos_line(totals, settings["split_by"])} Equal means the same to a perceptual hash, such as
another size or JPEG quality of one photo.

{set_aside}

The label is the inventory's record, not a count by hand: some are wrong.{checked}

## Licence

If `{settings["source"]}` is the bucket `aft-vbi-pds` or a mirror of it, photos and metadata are
Amazon's ([Amazon Bin Image Dataset](https://registry.opendata.aws/amazon-bin-imagery/)), under
CC BY-NC-SA 3.0 US: non-commercial use, with attribution, shared alike. Drawn bins are free of it.

> Amazon Bin Image Dataset, Amazon, https://registry.opendata.aws/amazon-bin-imagery/, licensed
> under [CC BY-NC-SA 3.0 US](https://creativecommons.org/licenses/by-nc-sa/3.0/us/); resized.
"""
