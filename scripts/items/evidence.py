"""What the items of a record say of a bin's count, given what its photo shows of their sizes.

A record that is wrong is wrong about items, not about a number alone. If the bin holds fewer than
the record says, some of its items are gone; if it holds more, others have come. So each count c
stands for contents C: the record's items where c is their number; without each choice of some of
them where c is less; with further items, as the training split's records have them, where it is
more. A photo speaks for contents with

    e(C)  =  p(size of C | photo) / p(size of C | so many items)

which is how much likelier it makes their size than that of other bins with as many items. Three
sizes are WITNESSES, and a count has the mean over its contents, none of which is known to be
likelier than another:

    p(c | photo, items)  is proportional to  p(c)^a  mean over C of product of e_i(C)^b_i

This takes the place of p(c) in auditing.decisions. By Bayes it would be exact, with all powers 1,
if the witnesses told of the photo given the count, and independently of one another. They do not:
what a photo says of sizes says something of their number, too, which p(c) has already. The powers
take that back. They are those under which the validation split, on whose bins the model did not
train, says likeliest which of two records of a bin is that of a photo; without such pairs items are
not believed at all. (To divide by what e is for bins of c on average, which would leave less to
take back, was no better there: 0.592 nats against 0.588, seed 42, 190 pairs.)

A size that a record does not tell says nothing; nor do the items of a record whose quantities do
not come to its count. Pure functions.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from items.sizes import SIZES
from likeliest_weights import likeliest

WITNESSES = ("volume", "weight", "distinct")
# Contents that stand for a count: a bin of five has no more without two or three of its items.
MOST_CONTENTS = 15
PRIOR_FORCE = 4.0  # nats, of what is believed before a pair was seen, for a power off by one
SMALLEST = 1e-9  # of a probability: what nobody has seen is not impossible
LEAST = math.log(SMALLEST)
SEED = 0


@dataclass(frozen=True)
class RecordedItems:
    """The items that a record names.

    Args:
        quantities: (num_distinct,), how many there are of each, 1 and more.
        volumes, weights: (num_distinct,), of one of each, cubic inches and pounds; NaN: unknown.
    """

    quantities: tuple[int, ...]
    volumes: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class UsualItems:
    """What is in bins, as the training split's records have it.

    Args:
        counts: (num_counts,), items.
        means, spreads: (num_counts, 2), of the logarithms of all items' volume and weight.
        distinct: (num_counts, max_distinct), how often so many of the items are distinct.
        volumes, weights: (MOST_CONTENTS,), of items that bins hold, from the smallest on.
    """

    counts: tuple[int, ...]
    means: tuple[tuple[float, float], ...]
    spreads: tuple[tuple[float, float], ...]
    distinct: tuple[tuple[float, ...], ...]
    volumes: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Powers:
    """How much each witness counts, 0 and more; all 0 but the count: items say nothing."""

    count: float
    volume: float
    weight: float
    distinct: float


BELIEVED = Powers(0.8, 0.5, 0.2, 0.5)  # before any was fitted: less than if all were independent


def recorded_items(
    count: int,
    quantities: Sequence[int | None] | None,
    volumes: Sequence[float | None] | None,
    weights: Sequence[float | None] | None,
) -> RecordedItems:
    """Return the items of a record: none where their quantities are not those of its count.

    Args:
        count: of the record, items.
        quantities, volumes, weights: as in items.sizes.item_targets; a list of another length than
            the quantities tells nothing.
    """
    held = [-1 if quantity is None else quantity for quantity in quantities or []]
    if min(held, default=-1) < 0 or sum(held) != count:
        held = []

    def known(values: Sequence[float | None] | None) -> list[float]:
        is_whole = values is not None and len(values) == len(held)
        figures = values if is_whole and values is not None else [None] * len(held)
        return [math.nan if value is None else float(value) for value in figures]

    there = [row for row in zip(held, known(volumes), known(weights), strict=True) if row[0] > 0]
    columns = zip(*there, strict=True) if there else ((), (), ())
    return RecordedItems(*(tuple(column) for column in columns))


def usual_items(
    records: Sequence[RecordedItems], counts: Sequence[int], max_distinct: int
) -> UsualItems | None:
    """Return what is in bins; None where too few records of some count tell a size to say so.

    Args:
        max_distinct: the greatest number of distinct items that is told.
    """
    in_counts = [record for record in records if sum(record.quantities) in counts]
    held = np.array([sum(record.quantities) for record in in_counts])
    sizes = np.array([_sizes(record) for record in in_counts]).reshape(-1, len(WITNESSES))
    each = np.array(
        [
            pair
            for record in in_counts
            for pair in zip(record.volumes, record.weights, strict=True)
            if not np.isnan(pair).any()
        ]
    ).reshape(-1, 2)
    means, spreads, distinct = [], [], []
    for count in counts:
        of_count = sizes[held == count]
        logarithms = np.log(of_count[:, :2])
        if (~np.isnan(logarithms)).sum(axis=0).min() < 2 or not len(each):
            return None
        means.append(tuple(np.nanmean(logarithms, axis=0).tolist()))
        spreads.append(tuple(np.maximum(np.nanstd(logarithms, axis=0), 1e-3).tolist()))
        numbers = np.bincount(of_count[:, 2].astype(int), minlength=max_distinct + 1)
        shares = numbers[1 : max_distinct + 1] + 1 / max_distinct  # as if one bin more were seen
        distinct.append(tuple((shares / shares.sum()).tolist()))
    places = ((np.arange(MOST_CONTENTS) + 0.5) / MOST_CONTENTS * len(each)).astype(int)
    usual = each[np.argsort(each[:, 0], kind="stable")[places]]
    return UsualItems(
        tuple(counts),
        tuple(means),
        tuple(spreads),
        tuple(distinct),
        tuple(usual[:, 0].tolist()),
        tuple(usual[:, 1].tolist()),
    )


def possible_contents(record: RecordedItems, count: int, usual: UsualItems) -> np.ndarray:
    """Return the sizes of what the bin may hold if it holds `count` items, by this record.

    Args:
        count: 1 and more.

    Returns: float (num_contents, len(WITNESSES)): volume, weight, and how many are distinct; no
        rows where the record names no items.
    """
    num_recorded = sum(record.quantities)
    if num_recorded == 0:
        return np.empty((0, len(WITNESSES)))
    generator = np.random.default_rng(SEED)
    names = np.repeat(np.arange(len(record.quantities)), record.quantities)
    volumes, weights = np.array(record.volumes)[names], np.array(record.weights)[names]
    if count <= num_recorded:
        if math.comb(num_recorded, count) <= MOST_CONTENTS:
            kept = np.array(list(itertools.combinations(range(num_recorded), count)))
        else:
            drawn = [generator.permutation(num_recorded)[:count] for _ in range(MOST_CONTENTS)]
            kept = np.array(drawn)
        distinct = np.array([len(np.unique(names[row])) for row in kept])
        return np.column_stack([volumes[kept].sum(1), weights[kept].sum(1), distinct])
    num_more = count - num_recorded
    more = np.column_stack([generator.permutation(MOST_CONTENTS) for _ in range(num_more)])
    return np.column_stack(
        [
            volumes.sum() + np.array(usual.volumes)[more].sum(1),
            weights.sum() + np.array(usual.weights)[more].sum(1),
            np.full(MOST_CONTENTS, len(record.quantities) + num_more),
        ]
    )


def witness_logarithms(
    answers: np.ndarray, records: Sequence[RecordedItems], usual: UsualItems
) -> np.ndarray:
    """Return log e_i(C) of all contents that each record leaves possible.

    Args:
        answers: float (num_photos, 2 * len(SIZES) + max_distinct), of items.heads.
        records: (num_photos,), that each photo is held against.

    Returns: float (num_photos, num_counts, MOST_CONTENTS, len(WITNESSES)); 0 where a size is not
        known, NaN where there are fewer contents.
    """
    shape = (len(records), len(usual.counts), MOST_CONTENTS, len(WITNESSES))
    sizes = np.full(shape, np.nan)
    is_there = np.zeros(shape[:3], dtype=bool)
    for row, record in enumerate(records):
        for column, count in enumerate(usual.counts):
            contents = possible_contents(record, count, usual)
            sizes[row, column, : len(contents)] = contents
            # Of a record without items all counts are as likely as before.
            is_there[row, column, : max(1, len(contents))] = True
    columns = [SIZES.index(name) for name in WITNESSES[:2]]
    means = answers[:, None, None, columns]
    spreads = np.exp(answers[:, None, None, [len(SIZES) + column for column in columns]])
    usual_means, usual_spreads = (
        np.array(values)[None, :, None, :] for values in (usual.means, usual.spreads)
    )
    logarithms = np.log(sizes[..., :2])
    ratio = _normal(logarithms, means, spreads) - _normal(logarithms, usual_means, usual_spreads)
    found = np.zeros(shape)
    # Where a head is less sure than what is usual, it would speak for what is absurd, and strongly.
    found[..., :2] = np.clip(np.nan_to_num(ratio), LEAST, -LEAST)
    told = _log_softmax(answers[:, 2 * len(SIZES) :])
    before = np.log(np.array(usual.distinct))
    number = np.nan_to_num(sizes[..., 2]).astype(int) - 1
    is_told = (number >= 0) & (number < told.shape[1])
    place = np.where(is_told, number, 0)
    photos, counts = np.ogrid[: shape[0], : shape[1]]
    of_number = told[photos[..., None], place] - before[counts[..., None], place]
    found[..., 2] = np.where(is_told, np.clip(of_number, LEAST, -LEAST), 0.0)
    found[~is_there] = np.nan
    return found


def counts_with_items(
    probabilities: np.ndarray, logarithms: np.ndarray, powers: Powers
) -> np.ndarray:
    """Return how likely each count is by the photo and the record's items.

    Args:
        probabilities: float (num_photos, num_counts), of the counts, by the photo.
        logarithms: of witness_logarithms.

    Returns: float (num_photos, num_counts); rows sum to 1.
    """
    of_contents = logarithms @ np.array([getattr(powers, name) for name in WITNESSES])
    is_there = ~np.isnan(of_contents)
    highest = np.nanmax(of_contents, axis=2, keepdims=True)
    shares = np.where(is_there, np.exp(np.nan_to_num(of_contents - highest)), 0.0)
    evidence = highest[..., 0] + np.log(shares.sum(axis=2) / is_there.sum(axis=2))
    # Of who tells nothing nothing is to be taken back.
    is_told = np.nan_to_num(logarithms).any(axis=(1, 2, 3))
    power = np.where(is_told, powers.count, 1.0)[:, None]
    whole = power * np.log(np.maximum(probabilities, SMALLEST)) + evidence
    return np.exp(_log_softmax(whole))


def fit_powers(
    probabilities: np.ndarray,
    recorded: np.ndarray,
    logarithms: np.ndarray,
    is_right: np.ndarray,
    record_probabilities: np.ndarray,
) -> Powers:
    """Return the powers under which it is likeliest which of some records are right.

    Few records leave them near what is believed before; there is one at least.

    Args:
        probabilities, logarithms: as in counts_with_items, of photos and the records they are held
            against, half of which are right.
        recorded: int (num_photos,), the column of each record's count.
        is_right: bool (num_photos,).
        record_probabilities: of visits.error_model.ErrorModel.record_probabilities.
    """
    prior = np.array([BELIEVED.count, BELIEVED.volume, BELIEVED.weight, BELIEVED.distinct])
    rows = np.arange(len(recorded))

    def value(point: np.ndarray) -> float:
        likely = counts_with_items(probabilities, logarithms, Powers(*point.tolist()))
        right = likely[rows, recorded]
        wrong = (likely * record_probabilities[:, recorded].T).sum(axis=1)
        said = np.where(is_right, right, wrong) / (right + wrong)
        likelihood = np.log(np.maximum(said, SMALLEST)).sum()
        return float(likelihood) - PRIOR_FORCE * float(np.square(point - prior).sum())

    return Powers(*likeliest(value, prior).tolist())


def _sizes(record: RecordedItems) -> tuple[float, float, int]:
    held = np.array(record.quantities)
    volume, weight = (float((held * values).sum()) for values in (record.volumes, record.weights))
    return volume or math.nan, weight or math.nan, len(held)


def _normal(values: np.ndarray, means: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """Return the logarithm of the density of a normal distribution, but for a constant."""
    return -(((values - means) / spreads) ** 2) / 2 - np.log(spreads)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
