"""The last step of a dataset: what its shards hold together, its card and its chart."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from obstore.store import ObjectStore

from catalog.count_chart import draw_counts
from command_line import InputError
from dataset.card import CHART, dataset_card
from dataset.equal_photos import find_equal_photos
from dataset.finished import set_equal_aside
from dataset.plan import PlannedShard, Selection, whole_units
from dataset.shards import ShardStatistics
from dataset.totals import DatasetTotals, add_up
from object_store import write_object

CARD = "README.md"


class UnfinishedError(Exception):
    """Shards are missing; the message says which."""


def finish_dataset(
    store: ObjectStore,
    planned: Sequence[PlannedShard],
    finished: Mapping[str, ShardStatistics],
    selection: Selection,
    label_names: Sequence[str],
    settings: Mapping[str, object],
    command: str,
) -> DatasetTotals:
    """Keep equal photos on one side, and write set_aside.jsonl, the chart and the card.

    Args:
        finished: the statistics of the shards that are done.
        selection: the bins that were planned, and the records that never came as far as a shard.
        settings: what claim_output gave.
        command: the one that makes this dataset.

    Raises:
        UnfinishedError: a shard is not done.
        InputError: no photo could be used.
    """
    names = [shard.name for shard in planned]
    _check_all_there(names, finished)
    hashes = {
        bin_id: bytes.fromhex(text)
        for statistics in finished.values()
        for bin_id, text in statistics.photo_hashes.items()
    }
    split_by = str(settings["split_by"])
    units = whole_units(selection.bins, split_by)
    equal = find_equal_photos(selection.bins.append_column("unit", units), hashes)
    if split_by == "bin_group":  # the others leak as those leak that they are compared with
        finished = set_equal_aside(store, finished, equal, label_names)
        _check_all_there(names, finished)
    totals = add_up([finished[name] for name in names], selection.bins, selection.set_aside, equal)
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


def _check_all_there(names: Sequence[str], finished: Mapping[str, ShardStatistics]) -> None:
    missing = [name for name in names if name not in finished]
    if missing:
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise UnfinishedError(
            f"{len(missing):,} of {len(names):,} shards are not done "
            f"({', '.join(missing[:5])}{more})."
        )
