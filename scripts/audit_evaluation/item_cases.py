"""Cases whose records name their items, right or wrong. Pure functions.

A wrong record of a real pair is that of the other state, with all of its items. Of a real change,
whose wrong count is drawn, the items are made: those of the visit before without some that are
drawn, or with some of other bins. 95 % of the real steps here are such: some items went, or some
came (190 of the validation split).

What a record says of a photo's count takes the place of what the photo says alone, with visits and
without (items.evidence).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from audit_evaluation.cases import (
    PHOTO,
    RECORDS,
    Cases,
    JudgedBins,
    JudgedItems,
    Knowledge,
    KnownVisits,
    changes_of_visits,
    real_pairs,
    real_pairs_with_visits,
    that_can_be_wrong,
    weights_of,
)
from items.evidence import NO_ITEMS, RecordedItems
from visits.chain import with_other_photos
from visits.settings import VisitModel

VISITS, ITEMS = "visits without items", "photo and items"
SEED = 0


def real_pairs_with_items(bins: JudgedBins, items: JudgedItems, model: VisitModel) -> Cases:
    """Return real_pairs, judged by the photo and the items that its record names."""
    alone = real_pairs(bins, model)
    given = given_items(bins, items, alone.rows, records_of_pairs(bins, items, alone.rows))
    return replace(
        alone,
        name="real_pairs_with_items",
        audit=replace(alone.audit, probabilities=given),
        rivals={PHOTO: alone.audit},
    )


def real_pairs_with_visits_and_items(
    bins: JudgedBins, items: JudgedItems, model: VisitModel
) -> Cases:
    """Return real_pairs_with_visits, judged by the items that its record names, too."""
    visits = real_pairs_with_visits(bins, model)
    by_items = real_pairs_with_items(bins, items, model).audit
    return replace(
        visits,
        name="real_pairs_with_visits_and_items",
        audit=with_items(visits.audit, by_items, bins, visits.rows, model),
        rivals={VISITS: visits.audit, ITEMS: by_items, PHOTO: visits.rivals[PHOTO]},
    )


def real_changes_with_items(bins: JudgedBins, items: JudgedItems, model: VisitModel) -> Cases:
    """Return real_changes, judged by the items that records name, too."""
    known = KnownVisits(bins, model)
    visits = changes_of_visits(known, bins, model)
    given = given_items(bins, items, visits.rows, made_records(visits, known, bins, items))
    by_items = replace(visits.rivals[PHOTO], probabilities=given)
    others = {name: visits.rivals[name] for name in (PHOTO, RECORDS)}
    return that_can_be_wrong(
        replace(
            visits,
            name="real_changes_with_items",
            audit=with_items(visits.audit, by_items, bins, visits.rows, model),
            rivals={VISITS: visits.audit, ITEMS: by_items, **others},
        )
    )


def made_records(
    visits: Cases, known: KnownVisits, bins: JudgedBins, items: JudgedItems
) -> Mapping[tuple[int, int], RecordedItems]:
    """Return (case, column of a count) -> its record: the right one, or one that is made."""
    generator = np.random.default_rng(SEED)
    groups = bins.group_index
    records = {}
    for case, row in enumerate(visits.rows.tolist()):
        records[case, int(bins.true[row])] = items.records[row]
        neighbour = items.records[int(known.neighbours[case])]
        for column in visits.wrong_records[case].tolist():
            others = np.flatnonzero(groups != groups[row])
            names = generator.choice(others, size=len(bins.counts))
            records[case, column] = changed_record(
                neighbour, bins.counts[column], [items.records[name] for name in names], generator
            )
    return records


def changed_record(
    record: RecordedItems,
    count: int,
    others: Sequence[RecordedItems],
    generator: np.random.Generator,
) -> RecordedItems:
    """Return a record of another count: some of its items drawn out, or those of others put in.

    Args:
        others: whose items are taken, one of each, as many as are needed.
    """
    if not record.quantities:
        return record
    units = [of_item for of_item, quantity in enumerate(record.quantities) for _ in range(quantity)]
    kept = generator.permutation(units)[:count].tolist() if count < record.count else units
    sizes = list(zip(record.volumes, record.weights, strict=True))
    held = [(kept.count(place), *size) for place, size in enumerate(sizes) if place in kept]
    for other in [other for other in others if other.quantities][: max(0, count - record.count)]:
        place = int(generator.integers(len(other.quantities)))
        held.append((1, other.volumes[place], other.weights[place]))
    return RecordedItems(*zip(*held, strict=True)) if held else NO_ITEMS


def records_of_pairs(
    bins: JudgedBins, items: JudgedItems, rows: np.ndarray
) -> Mapping[tuple[int, int], RecordedItems]:
    """Return (case, column of a count) -> the record that the photo may be held against.

    Of two visits of a bin with one count, both another one than the photo's, the later record is
    the wrong one.

    Args:
        rows: of real_pairs.
    """
    case_of = dict(zip(rows.tolist(), range(len(rows)), strict=True))
    held_against = {(case, int(bins.true[row])): row for row, case in case_of.items()}
    for first, second in bins.steps.tolist():
        for row, other in ((first, second), (second, first)):
            if bins.true[row] != bins.true[other]:
                held_against[case_of[row], int(bins.true[other])] = other
    return {key: items.records[row] for key, row in held_against.items()}


def given_items(
    bins: JudgedBins,
    items: JudgedItems,
    rows: np.ndarray,
    records: Mapping[tuple[int, int], RecordedItems],
) -> np.ndarray:
    """Return how likely each count is by each photo and each record it may have.

    Args:
        rows: int (num_cases,), into the test bins.
        records: (case, column of a count) -> the record of that count.

    Returns: float (num_cases, num_counts, num_counts), as Knowledge has them; NaN for no record.
    """
    num_counts = len(bins.counts)
    case, column = np.array(list(records)).T
    given = np.full((len(rows), num_counts, num_counts), np.nan)
    given[case, column] = items.settings.counts_given(
        bins.probabilities[rows[case]], items.answers[rows[case]], list(records.values())
    )
    return given


def with_items(
    visits: Knowledge, by_items: Knowledge, bins: JudgedBins, rows: np.ndarray, model: VisitModel
) -> Knowledge:
    """Return what is known by visits and by the record's items together.

    Args:
        visits: what is known without the items. by_items: by the photo and the items alone.
        rows: int (num_cases,), into the test bins.
    """
    shape = by_items.probabilities.shape
    together, photo = (
        np.broadcast_to(each[:, None, :], shape).reshape(-1, shape[2])
        for each in (visits.probabilities, bins.probabilities[rows])
    )
    given = by_items.probabilities.reshape(-1, shape[2])
    weights = weights_of(model, bins.changes)
    found = with_other_photos(together, photo, given, weights).reshape(shape)
    # What could not be without the items is no less impossible with them.
    is_possible = np.broadcast_to(visits.probabilities[:, None, :] > 0, shape)
    return replace(visits, probabilities=np.where(is_possible, found, 0.0))
