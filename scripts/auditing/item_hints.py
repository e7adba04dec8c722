"""What a photo says of the items that a record names, in words for the person who checks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditing.record_lines import merged_lines, record_of
from items.answers import told_items
from items.measures import volume_interval
from items.settings import ItemSettings

# How many times the volume of what should be there, as people say it.
TIMES = {
    "far less than a tenth of": 0.05,
    "a tenth of": 0.1,
    "a fifth of": 0.2,
    "a quarter of": 0.25,
    "a third of": 1 / 3,
    "half": 0.5,
    "two thirds of": 2 / 3,
    "three quarters of": 0.75,
    "somewhat less than": 0.87,
    "somewhat more than": 1.15,
    "one and a half times": 1.5,
    "twice": 2.0,
    "three times": 3.0,
    "four times": 4.0,
    "five times": 5.0,
    "ten times": 10.0,
    "far more than ten times": 20.0,
}
UNLIKELY = 0.05  # of a number of distinct items, which is named then
NAMED = 0.05  # of an item's probability to be missing; review_page.html has the same


@dataclass(frozen=True)
class ItemHints:
    """What a photo says of a record's items.

    Args:
        recorded_volume: of all items together by the record, cubic inches; NaN: nobody knows.
        seen_volume: as large as not by the photo; low, high: 90 % of what is likely.
        words: what does not fit; empty where nothing is to be said.
        missing: for each item of the record how likely one of it, or more, is missing; None where
            that cannot be said.
    """

    recorded_volume: float
    seen_volume: float
    low: float
    high: float
    words: str
    missing: tuple[float | None, ...]

    @property
    def likeliest_missing(self) -> int | None:
        """The place of the item that is missing most probably, None where none probably is."""
        shares = [share or 0.0 for share in self.missing]
        return int(np.argmax(shares)) if max(shares, default=0.0) > NAMED else None


def item_hints(
    answers: np.ndarray,
    expected: int,
    items: Sequence[Mapping[str, Any]],
    counts: np.ndarray | None,
    settings: ItemSettings,
) -> ItemHints | None:
    """Return what a photo says of the items of its record; None where it names none.

    Args:
        answers: float (num_answers,), of items.answers, to the photo.
        items: with quantity, volume and weight.
        counts: float (num_counts,), how likely each count is by all that is known; None: what is
            missing is not asked.
    """
    record = record_of(expected, items)
    if not record.quantities:
        return None
    low, seen, high = volume_interval(answers)
    words = [
        *_words_of_volume(record.volume, low, seen, high),
        *_words_of_distinct(len(record.quantities), told_items(answers[None]).distinct[0]),
    ]
    found = None if counts is None else settings.missing(counts, answers, record)
    missing: list[float | None] = [None] * len(items)
    if found is not None:
        there = [name for name, item in merged_lines(items).items() if item["quantity"]]
        share_of = dict(zip(there, found.tolist(), strict=True))
        missing = [share_of.get(item["name"]) for item in items]
    said = f"looks like {' and like '.join(words)}" if words else ""
    return ItemHints(record.volume, seen, low, high, said, tuple(missing))


def _words_of_volume(recorded: float, low: float, seen: float, high: float) -> list[str]:
    if math.isnan(recorded) or low <= recorded <= high:
        return []
    times = math.log(seen / recorded)
    said = min(TIMES, key=lambda name: abs(math.log(TIMES[name]) - times))
    return [f"{said} the volume of what should be there"]


def _words_of_distinct(recorded: int, distinct: np.ndarray) -> list[str]:
    if recorded > len(distinct) or distinct[recorded - 1] >= UNLIKELY:
        return []
    likeliest = int(distinct.argmax()) + 1
    kinds = "one kind of item" if likeliest == 1 else f"{likeliest} kinds of items"
    return [f"{kinds} where the record names {recorded}"]
