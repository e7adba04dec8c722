"""What a photo says of a record: how probably the bin does not hold what it says.

By the count, and where the record names its items and the model has item heads by these, too
(items.evidence). What was answered of the count itself does not depend on the record.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from items.evidence import RecordedItems
from items.measures import volume_interval
from serving.bin_counter import BinCounter
from visits.chain import with_other_photos

DECIMALS = 6
BY_COUNT, BY_ITEMS = "count", "count and items"
SEEN = ("seen_volume", "seen_volume_low", "seen_volume_high")
OF_ITEMS = ("judged_by", "expected_volume", *SEEN)  # what an answer has of a record with items


def judged_record(
    counter: BinCounter,
    expected_quantity: int,
    items: RecordedItems | None,
    of_photo: np.ndarray,
    said_of_items: np.ndarray | None,
    with_visits: np.ndarray | None,
) -> dict[str, Any]:
    """Return what the answer says of a record.

    It knows nothing of how often records are wrong: scripts/audit.py weighs that. Of a quantity
    that the model cannot answer it says nothing, and a person has to look, as in the audit.

    Args:
        items: those that the record names; None: it names none.
        of_photo: float (num_counts,), how likely each count is by the photo alone.
        said_of_items: (num_answers,), of items.answers; None: the model has no item heads.
        with_visits: float (num_counts,), how likely each count is given the visit before, too; None
            where there is none.
    """
    counts = of_photo if with_visits is None else with_visits
    is_judged = False
    if items is not None and said_of_items is not None and counter.item_settings is not None:
        is_judged = counter.item_settings.judges_records and 0 < items.count in counter.counts
        given = counter.item_settings.counts_given(of_photo[None], said_of_items[None], [items])
        if with_visits is None:
            counts = given[0]
        else:
            told = (with_visits[None], of_photo[None], given)
            counts = with_other_photos(*told, counter.visit_model.weights)[0]
    answer = probability_wrong(dict(zip(counter.counts, counts, strict=True)), expected_quantity)
    if items is None:
        return answer
    answer["judged_by"] = BY_ITEMS if is_judged else BY_COUNT
    volume = None if math.isnan(items.volume) else round(items.volume, 1)
    return answer | {"expected_volume": volume, **seen_volume(said_of_items)}


def probability_wrong(of_count: Mapping[int, float], expected_quantity: int) -> dict[str, Any]:
    """Return the probability that the bin does not hold the expected quantity.

    Args:
        of_count: the probability of each count that the model knows.
    """
    answer: dict[str, Any] = {"expected_quantity": expected_quantity, "probability_wrong": None}
    if expected_quantity not in of_count:
        low, high = min(of_count), max(of_count)
        return answer | {"reason": f"the model counts {low} to {high} items only"}
    return answer | {"probability_wrong": round(1 - float(of_count[expected_quantity]), DECIMALS)}


def seen_volume(said_of_items: np.ndarray | None) -> dict[str, float | None]:
    """Return what volume a photo shows of all items: as much as not, and 90 % of what is likely.

    Returns: cubic inches; None where the model has no item heads.
    """
    if said_of_items is None:
        return dict.fromkeys(SEEN)
    low, middle, high = (round(volume, 1) for volume in volume_interval(said_of_items))
    return dict(zip(SEEN, (middle, low, high), strict=True))
