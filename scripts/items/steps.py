"""What the records and photos of two visits say together, beside what each visit says alone.

Two visits of a bin that follow each other show mostly the same items. So if the record R of one is
right, and the record R' of the other is wrong, the other's contents are R without some of its
items, or with more: they come from R, not from R'. And where the change head tells how the volume
of all items has changed, two photos speak for them with

    e(C, R)  =  p(log V(C) - log V(R) | both photos) / p(the same | so many items here and there)

Counts c and c' of visits whose records say r and r' are therefore as much likelier as

    s(r, r')   =  e(R', R)^d
    s(r, c')   =  mean over contents C of R with c' items of product of e_i(C)^b_i e(C, R)^d
                  divided by what R' alone made of c' (items.evidence)
    s(c, r')   likewise, with R and R' exchanged
    s(c, c')   =  1: where both records are wrong nobody knows more

e_i and b_i are those of items.evidence, d is POWER. visits.chain takes s at each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from items.evidence import (
    LEAST,
    Powers,
    RecordedItems,
    UsualItems,
    contents_evidence,
    item_evidence,
    log_mean,
    log_normal,
    possible_contents,
    sizes_of_contents,
    weighted,
)

# Of a change of volume, which the change head has seen beside that of the count. Chosen on the
# validation split, two seeds: the area under the ROC curve of real changes is 0.929, with 0 it is
# 0.924, and with 0.5 no larger, and probabilities err by 2.0 % instead of 1.0.
POWER = 0.25
LEAST_SPREAD = 0.05  # as sure as a head can be: where all items are of one size it would be 0
FEWEST = 5  # steps between two counts, whose spread is taken for theirs


@dataclass(frozen=True)
class UsualChanges:
    """How the volume of all items usually changes from a count to another, by the records.

    Args:
        means, spreads: (num_counts, num_counts), of the logarithm of how many times as large it is
            afterwards; row: the count before. Both directions are one fact.
    """

    means: tuple[tuple[float, ...], ...]
    spreads: tuple[tuple[float, ...], ...]


def usual_changes(
    volume_changes: np.ndarray, columns: np.ndarray, counts: Sequence[int]
) -> UsualChanges | None:
    """Return how volumes usually change; None where too few changes are known to say so.

    Args:
        volume_changes: float (num_steps,), of items.sizes; NaN where nobody knows.
        columns: int (num_steps, 2), the columns of the counts before and after.
    """
    known = ~np.isnan(volume_changes)
    changes = np.concatenate([volume_changes[known], -volume_changes[known]])
    before, after = np.concatenate([columns[known], columns[known][:, ::-1]]).T
    if len(changes) < 2 * FEWEST:
        return None
    items = np.maximum(np.asarray(counts, dtype=np.float64), 0.5)
    means = np.log(items[None, :] / items[:, None])
    off = (changes - means[before, after]).std()
    spreads = np.full(means.shape, off)
    for row, column in np.ndindex(means.shape):
        there = changes[(before == row) & (after == column)]
        if row != column and len(there) >= FEWEST:
            means[row, column], spreads[row, column] = there.mean(), there.std()
    return UsualChanges(_tuples(means), _tuples(np.maximum(spreads, LEAST_SPREAD)))


@dataclass(frozen=True)
class GivenNeighbour:
    """What is said of visits if the record of a neighbouring visit is right.

    Args:
        of_contents: float (num_visits, num_counts, num_contents), a logarithm, by each photo alone.
        of_changes: the same shape, by the change of volume between both photos; 0: nothing.
        alone: float (num_visits, num_counts), what each visit's own record made of each count.
        is_told: bool (num_visits,), whether both records name items, and there is a photo.
    """

    of_contents: np.ndarray
    of_changes: np.ndarray
    alone: np.ndarray
    is_told: np.ndarray

    def evidence(self) -> np.ndarray:
        """Return by how much likelier each count is than by its own record, a logarithm.

        Returns: float (num_visits, num_counts); 0 where a record names no items.
        """
        given = log_mean(self.of_contents + POWER * self.of_changes)
        return np.where(self.is_told[:, None], given - self.alone, 0.0)


def given_neighbour(
    answers: np.ndarray,
    records: Sequence[RecordedItems],
    neighbours: Sequence[RecordedItems],
    told: np.ndarray | None,
    usual: UsualItems,
    powers: Powers,
    changes: UsualChanges | None,
) -> GivenNeighbour:
    """Return what is said of visits if the record of a neighbouring visit is right.

    Args:
        answers: float (num_visits, ...), of items.answers; NaN where there is no photo.
        records, neighbours: (num_visits,), of the visits, and of the neighbours.
        told: float (num_visits, 2), how many times as large as at the neighbour all items are, a
            logarithm, and the logarithm of how far off that may be; None, or NaN: not told.
    """
    counts = usual.counts
    is_seen = ~np.isnan(answers).any(axis=1)
    answers = np.where(is_seen[:, None], answers, 0.0)
    alone = item_evidence(answers, records, usual)
    contents = [
        [
            possible_contents(record if count == record.count else other, count, usual)
            for count in counts
        ]
        for record, other in zip(records, neighbours, strict=True)
    ]
    sizes = sizes_of_contents(contents, len(counts))
    of_contents = weighted(contents_evidence(answers, sizes, usual), powers)
    of_changes = np.zeros(of_contents.shape)
    if told is not None and changes is not None:
        columns = [counts.index(r.count) if r.count in counts else 0 for r in neighbours]
        means, spreads = (
            np.array(each)[columns][:, :, None] for each in (changes.means, changes.spreads)
        )
        volumes = np.log(np.array([record.volume for record in neighbours]))
        finite = np.where(np.isinf(sizes[..., 0]), np.nan, sizes[..., 0])
        times = np.log(finite) - volumes[:, None, None]
        said, off = told[:, 0, None, None], np.exp(told[:, 1, None, None])
        ratio = log_normal(times, said, off) - log_normal(times, means, spreads)
        of_changes = np.clip(np.nan_to_num(ratio), LEAST, -LEAST)
    is_told = [
        record.count in counts
        and other.count in counts
        and bool(record.quantities)
        and bool(other.quantities)
        for record, other in zip(records, neighbours, strict=True)
    ]
    return GivenNeighbour(
        of_contents,
        of_changes,
        log_mean(weighted(alone.logarithms, powers)),
        np.array(is_told, dtype=bool) & is_seen,
    )


def mirrored(told: np.ndarray) -> np.ndarray:
    """Return what is told of changes, as in given_neighbour, as seen from the other visit."""
    return told * np.array([-1.0, 1.0])


def step_evidence(
    ahead: GivenNeighbour,
    back: GivenNeighbour,
    earlier: Sequence[RecordedItems],
    later: Sequence[RecordedItems],
    counts: Sequence[int],
    num_steps: np.ndarray,
) -> np.ndarray:
    """Return by how much likelier each two counts are at each step: the logarithm of s.

    What a visit's own photo says is shared out among its steps, or it would count at each.

    Args:
        ahead: of the later visits, whose neighbours are the earlier ones; back: the other way.
        earlier, later: (num_steps,), the records.
        num_steps: int (num_steps, 2), how many steps there are to and from both visits.

    Returns: float (num_steps, num_counts, num_counts): before, after.
    """
    found = np.zeros((len(earlier), len(counts), len(counts)))
    steps = np.flatnonzero(ahead.is_told | back.is_told)
    before = [counts.index(earlier[step].count) for step in steps]
    after = [counts.index(later[step].count) for step in steps]
    of_ahead, of_back = ahead.evidence()[steps], back.evidence()[steps]
    found[steps, before, :] += of_ahead / num_steps[steps, 1, None]
    found[steps, :, after] += of_back / num_steps[steps, 0, None]
    # Where both records are right the change of volume is all there is, which both say.
    row = np.arange(len(steps))
    found[steps, before, after] = (of_ahead[row, after] + of_back[row, before]) / 2
    return found


def changed_record(
    record: RecordedItems,
    count: int,
    others: Sequence[RecordedItems],
    generator: np.random.Generator,
) -> RecordedItems:
    """Return a record of another count: some of its items drawn out, or those of others put in.

    95 % of the steps between visits are such: some items went, or some came.

    Args:
        others: whose items are taken, one of each, as many as are needed.
    """
    if not record.quantities:
        return record
    units = [place for place, number in enumerate(record.quantities) for _ in range(number)]
    kept = generator.permutation(units)[:count].tolist() if count < record.count else units
    sizes = list(zip(record.volumes, record.weights, strict=True))
    held = [(kept.count(place), *size) for place, size in enumerate(sizes) if place in kept]
    for other in [other for other in others if other.quantities][: max(0, count - record.count)]:
        place = int(generator.integers(len(other.quantities)))
        held.append((1, other.volumes[place], other.weights[place]))
    return RecordedItems(*zip(*held, strict=True)) if held else RecordedItems((), (), ())


def _tuples(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
