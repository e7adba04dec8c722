"""The last step of a dataset: what its shards hold together, its card and its chart."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from obstore.store import ObjectStore

from catalog.count_chart import draw_counts
from command_line import InputError
from dataset.card import CHART, dataset_card
from dataset.shards import finished_shards
from dataset.totals import DatasetTotals, add_up
from object_store import write_object

CARD = "README.md"


class UnfinishedError(Exception):
    """Shards are missing; the message says which."""


def finish_dataset(
    store: ObjectStore,
    names: Sequence[str],
    set_aside: Sequence[Mapping[str, str]],
    label_names: Sequence[str],
    settings: Mapping[str, object],
    command: str,
) -> DatasetTotals:
    """Write set_aside.jsonl, the chart and the card from the shards' statistics; return the totals.

    Args:
        names: of all shards that are planned.
        set_aside: the records that never came as far as a shard, [{"id": ..., "reason": ...}].
        settings: what claim_output gave.
        command: the one that makes this dataset.

    Raises:
        UnfinishedError: a shard is not done.
        InputError: no photo could be used.
    """
    finished = finished_shards(store, names)
    missing = [name for name in names if name not in finished]
    if missing:
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise UnfinishedError(
            f"{len(missing):,} of {len(names):,} shards are not done "
            f"({', '.join(missing[:5])}{more})."
        )
    totals = add_up([finished[name] for name in names], set_aside)
    if totals.num_kept == 0:
        (reason, number), *_ = Counter(e["reason"] for e in totals.set_aside).most_common(1)
        raise InputError(
            f"None of the {len(totals.set_aside):,} photos wanted could be used ({number:,}: "
            f"{reason}): check that --source {settings['source']} is where they are, and remove "
            "the output."
        )
    lines = "".join(json.dumps(entry) + "\n" for entry in totals.set_aside)
    write_object(store, "set_aside.jsonl", lines.encode())
    counts = {
        split: {int(label): labels[label] for label in label_names}
        for split, labels in totals.kept.items()
    }
    title = f"{totals.num_kept:,} bins with {label_names[0]} to {label_names[-1]} items"
    write_object(store, CHART, draw_counts(counts, title))
    # The card comes last: a folder that has one is complete.
    card = dataset_card(totals, label_names, settings, command)
    write_object(store, CARD, card.encode())
    return totals
