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

times a further factor where c is the record's own count. This takes the place of p(c) in
auditing.decisions, and in visits.chain. By Bayes it would be exact, with all powers 1, if the
witnesses told of the photo given the count, and independently of one another. They do not: what a
photo says of sizes says something of their number, too, which p(c) has already. The powers take
that back. They are those under which the validation split, on whose bins the model did not train,
says likeliest which of two records of a bin is that of a photo; without such pairs items are not
believed at all. (To divide by what e is for bins of c on average, which would leave less to take
back, was no better there: 0.592 nats against 0.588, seed 42, 190 pairs.) The further factor makes
them say so of as many records as are right: without it an audit would take 6 % of the records for
wrong where 10 % are.

Which contents a photo speaks for says which items are missing, too, if the bin holds fewer than its
record (`missing_items`).

A size that a record does not tell says nothing; nor do the items of a record whose quantities do
not come to its count. Pure functions.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from items.answers import log_softmax, told_items
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

    @property
    def count(self) -> int:
        """How many items there are in all."""
        return sum(self.quantities)

    @property
    def volume(self) -> float:
        """Of all items together, cubic inches; NaN where that is not known."""
        return _total(self.quantities, self.volumes)

    @property
    def weight(self) -> float:
        """Of all items together, pounds; NaN where that is not known."""
        return _total(self.quantities, self.weights)


NO_ITEMS = RecordedItems((), (), ())


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
    """How much each witness counts, 0 and more; all 0 but the count: items say nothing.

    Args:
        record: the further factor of the record's own count.
    """

    count: float
    volume: float
    weight: float
    distinct: float
    record: float = 1.0


BELIEVED = Powers(0.8, 0.5, 0.2, 0.5)  # before any was fitted: less than if all were independent


@dataclass(frozen=True)
class Contents:
    """What a bin may hold if it holds a certain number of items.

    Args:
        sizes: float (num_contents, len(WITNESSES)): volume, weight, and how many are distinct.
        held: int (num_contents, num_distinct), how many of each item of the record are there.
    """

    sizes: np.ndarray
    held: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What some photos say of the contents that their records leave possible.

    Args:
        logarithms: float (num_photos, num_counts, MOST_CONTENTS, len(WITNESSES)), log e_i(C); 0
            where a size is not known, NaN where there are fewer contents.
        recorded: int (num_photos,), the column of the number of items that the record names; -1
            where it is none.
    """

    logarithms: np.ndarray
    recorded: np.ndarray


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

    Of an empty bin it says nothing.

    Args:
        max_distinct: the greatest number of distinct items that is told.
    """
    in_counts = [record for record in records if record.count in counts]
    held = np.array([record.count for record in in_counts])
    sizes = np.array([[r.volume, r.weight, len(r.quantities)] for r in in_counts])
    sizes = sizes.reshape(-1, len(WITNESSES))
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
        if count == 0:  # has no sizes
            means.append((0.0, 0.0))
            spreads.append((1.0, 1.0))
            distinct.append((1 / max_distinct,) * max_distinct)
            continue
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


def possible_contents(record: RecordedItems, count: int, usual: UsualItems) -> Contents:
    """Return what the bin may hold if it holds `count` items, by this record.

    Returns: none where the record names no items, or another number of them than bins are counted
        to. An empty bin has sizes that nobody knows.
    """
    num_distinct = len(record.quantities)
    if record.count not in usual.counts or num_distinct == 0:
        nothing = np.empty((0, num_distinct), dtype=np.int64)
        return Contents(np.empty((0, len(WITNESSES))), nothing)
    if count == 0:
        return Contents(np.full((1, len(WITNESSES)), np.nan), np.zeros((1, num_distinct), np.int64))
    generator = np.random.default_rng(SEED)
    own = np.array([record.volumes, record.weights]).T
    num_more = count - record.count
    if num_more > 0:
        more = np.column_stack([generator.permutation(MOST_CONTENTS) for _ in range(num_more)])
        others = np.array([usual.volumes, usual.weights]).T[more].sum(axis=1)
        held = np.tile(record.quantities, (MOST_CONTENTS, 1))
        distinct = np.full(MOST_CONTENTS, num_distinct + num_more)
        return Contents(np.column_stack([held @ own + others, distinct]), held)
    names = np.repeat(np.arange(num_distinct), record.quantities)
    if math.comb(record.count, count) <= MOST_CONTENTS:
        kept = np.array(list(itertools.combinations(range(record.count), count)))
    else:
        drawn = [generator.permutation(record.count)[:count] for _ in range(MOST_CONTENTS)]
        kept = np.array(drawn)
    held = np.array([np.bincount(names[row], minlength=num_distinct) for row in kept])
    # Not a product: what is not known of an item that is gone is not missed.
    sizes = np.where(held[:, :, None] > 0, held[:, :, None] * own, 0.0).sum(axis=1)
    return Contents(np.column_stack([sizes, (held > 0).sum(axis=1)]), held)


def item_evidence(
    answers: np.ndarray, records: Sequence[RecordedItems], usual: UsualItems
) -> Evidence:
    """Return what photos say of all contents that their records leave possible.

    Args:
        answers: float (num_photos, 2 * len(SIZES) + max_distinct), of items.heads.
        records: (num_photos,), that each photo is held against.
    """
    sizes = sizes_of_contents(
        [[possible_contents(record, c, usual) for c in usual.counts] for record in records],
        len(usual.counts),
    )
    recorded = [usual.counts.index(r.count) if r.count in usual.counts else -1 for r in records]
    return Evidence(contents_evidence(answers, sizes, usual), np.array(recorded, dtype=np.int64))


def sizes_of_contents(contents: Sequence[Sequence[Contents]], num_counts: int) -> np.ndarray:
    """Return the sizes of what each photo's bin may hold, where it holds each count.

    Args:
        contents: (num_photos,) of (num_counts,).

    Returns: float (num_photos, num_counts, MOST_CONTENTS, len(WITNESSES)); infinite where there are
        fewer, but that where there are none one is there whose sizes nobody knows.
    """
    sizes = np.full((len(contents), num_counts, MOST_CONTENTS, len(WITNESSES)), np.inf)
    sizes[:, :, 0] = np.nan
    for row, of_counts in enumerate(contents):
        for column, each in enumerate(of_counts):
            if len(each.sizes):
                sizes[row, column, : len(each.sizes)] = each.sizes
    return sizes


def contents_evidence(answers: np.ndarray, sizes: np.ndarray, usual: UsualItems) -> np.ndarray:
    """Return log e_i(C) of contents, as Evidence has it.

    Args:
        answers: as in item_evidence. sizes: of sizes_of_contents.
    """
    is_there = ~np.isinf(sizes[..., 0])
    sizes = np.where(is_there[..., None], sizes, np.nan)
    shape = sizes.shape
    columns = [SIZES.index(name) for name in WITNESSES[:2]]
    told = told_items(answers)
    means, spreads = (each[:, None, None, columns] for each in (told.means, told.spreads))
    usual_means, usual_spreads = (
        np.array(values)[None, :, None, :] for values in (usual.means, usual.spreads)
    )
    logarithms = np.log(sizes[..., :2])
    ratio = log_normal(logarithms, means, spreads)
    ratio -= log_normal(logarithms, usual_means, usual_spreads)
    found = np.zeros(shape)
    # Where a head is less sure than what is usual, it would speak for what is absurd, and strongly.
    found[..., :2] = np.clip(np.nan_to_num(ratio), LEAST, -LEAST)
    of_photo = np.log(np.maximum(told.distinct, SMALLEST))
    before = np.log(np.array(usual.distinct))
    number = np.nan_to_num(sizes[..., 2]).astype(int) - 1
    is_told = (number >= 0) & (number < of_photo.shape[1])
    place = np.where(is_told, number, 0)
    photos, counts = np.ogrid[: shape[0], : shape[1]]
    of_number = of_photo[photos[..., None], place] - before[counts[..., None], place]
    found[..., 2] = np.where(is_told, np.clip(of_number, LEAST, -LEAST), 0.0)
    found[~is_there] = np.nan
    return found


def counts_with_items(probabilities: np.ndarray, evidence: Evidence, powers: Powers) -> np.ndarray:
    """Return how likely each count is by the photo and the record's items.

    Args:
        probabilities: float (num_photos, num_counts), of the counts, by the photo.

    Returns: float (num_photos, num_counts); rows sum to 1.
    """
    of_items = log_mean(weighted(evidence.logarithms, powers))
    # Of who tells nothing nothing is to be taken back.
    is_told = np.nan_to_num(evidence.logarithms).any(axis=(1, 2, 3))
    power = np.where(is_told, powers.count, 1.0)[:, None]
    whole = power * np.log(np.maximum(probabilities, SMALLEST)) + of_items
    rows = np.flatnonzero(is_told & (evidence.recorded >= 0))
    whole[rows, evidence.recorded[rows]] += math.log(max(powers.record, SMALLEST))
    return np.exp(log_softmax(whole))


def missing_items(
    answers: np.ndarray,
    record: RecordedItems,
    counts: np.ndarray,
    usual: UsualItems,
    powers: Powers,
) -> np.ndarray:
    """Return how likely it is of each item of a record that one of it, or more, is missing.

    That is so in contents of fewer items, each of which is as likely as its count, shared out by
    what the photo says for it.

    Args:
        answers: float (2 * len(SIZES) + max_distinct,), of items.heads, to one photo.
        counts: float (num_counts,), how likely each count is, by all that is known.

    Returns: float (num_distinct,).
    """
    evidence = item_evidence(answers[None], [record], usual)
    of_contents = weighted(evidence.logarithms, powers)[0]
    missing = np.zeros(len(record.quantities))
    for column, count in enumerate(usual.counts):
        held = possible_contents(record, count, usual).held
        if count < record.count and len(held):
            shares = np.exp(log_softmax(of_contents[None, column, : len(held)])[0])
            missing += counts[column] * (shares @ (held < record.quantities))
    return missing


def fit_powers(
    probabilities: np.ndarray,
    evidence: Evidence,
    recorded: np.ndarray,
    is_right: np.ndarray,
    record_probabilities: np.ndarray,
) -> Powers:
    """Return the powers under which it is likeliest which of some records are right.

    Few records leave them near what is believed before; there is one at least.

    Args:
        probabilities, evidence: as in counts_with_items, of photos and the records they are held
            against, half of which are right.
        recorded: int (num_photos,), the column of each record's count, also of one without items.
        is_right: bool (num_photos,).
        record_probabilities: of visits.error_model.ErrorModel.record_probabilities.
    """
    prior = np.array(astuple(BELIEVED))
    rows = np.arange(len(recorded))

    def value(point: np.ndarray) -> float:
        likely = counts_with_items(probabilities, evidence, Powers(*point.tolist()))
        right = likely[rows, recorded]
        wrong = (likely * record_probabilities[:, recorded].T).sum(axis=1)
        said = np.where(is_right, right, wrong) / (right + wrong)
        likelihood = np.log(np.maximum(said, SMALLEST)).sum()
        return float(likelihood) - PRIOR_FORCE * float(np.square(point - prior).sum())

    return Powers(*likeliest(value, prior).tolist())


def weighted(logarithms: np.ndarray, powers: Powers) -> np.ndarray:
    """Return how much all witnesses together speak for contents, a logarithm.

    Args:
        logarithms: float (..., len(WITNESSES)), as Evidence has them.
    """
    return logarithms @ np.array([getattr(powers, name) for name in WITNESSES])


def log_mean(of_contents: np.ndarray) -> np.ndarray:
    """Return how much speaks for each count: the mean over its contents, of logarithms.

    Args:
        of_contents: float (num_photos, num_counts, num_contents), NaN for none.
    """
    is_there = ~np.isnan(of_contents)
    highest = np.nanmax(of_contents, axis=2, keepdims=True)
    shares = np.where(is_there, np.exp(np.nan_to_num(of_contents - highest)), 0.0)
    return highest[..., 0] + np.log(shares.sum(axis=2) / is_there.sum(axis=2))


def _total(quantities: tuple[int, ...], values: tuple[float, ...]) -> float:
    return float(np.array(quantities) @ np.array(values)) if quantities else math.nan


def log_normal(values: np.ndarray, means: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """Return the logarithm of the density of a normal distribution, but for a constant."""
    return -(((values - means) / spreads) ** 2) / 2 - np.log(spreads)
