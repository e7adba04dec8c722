"""Cases whose records name their items, right or wrong. Pure functions.

A wrong record of a real pair is that of the other state, with all of its items. Of a real change,
whose wrong count is drawn, the items are made (items.steps.changed_record): those of the visit
before without some that are drawn, or with some of other bins.

What a record says of a photo's count takes the place of what the photo says alone, with visits and
without (items.evidence). Of a real change the record of the other visit is known to be right, and
speaks for counts, too (items.steps).
"""

from collections.abc import Mapping
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
from items.evidence import RecordedItems
from items.steps import changed_record, mirrored
from visits.chain import with_other_photos
from visits.error_model import rows_to_one
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
    records = made_records(visits, known, bins, items)
    given = given_items(bins, items, visits.rows, records)
    by_items = replace(visits.rivals[PHOTO], probabilities=given)
    others = {name: visits.rivals[name] for name in (PHOTO, RECORDS)}
    by_both = replace(by_items, probabilities=with_neighbours(given, records, known, items))
    return that_can_be_wrong(
        replace(
            visits,
            name="real_changes_with_items",
            audit=with_items(visits.audit, by_both, bins, visits.rows, model),
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
            # All photos of one bin: there is nothing that others hold.
            names = generator.choice(others, size=len(bins.counts)) if len(others) else others
            records[case, column] = changed_record(
                neighbour, bins.counts[column], [items.records[name] for name in names], generator
            )
    return records


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


def with_neighbours(
    given: np.ndarray,
    records: Mapping[tuple[int, int], RecordedItems],
    known: KnownVisits,
    items: JudgedItems,
) -> np.ndarray:
    """Return what given_items has, where the record of the neighbouring visit is right.

    Args:
        given: of given_items, by the same records.
    """
    case, column = np.array(list(records)).T
    told = None
    if items.volume_changes is not None:
        of_steps = items.volume_changes[known.steps]
        told = np.concatenate([of_steps, mirrored(of_steps)])[case]
    evidence = items.settings.given_neighbours(
        items.answers[known.rows[case]],
        list(records.values()),
        [items.records[row] for row in known.neighbours[case].tolist()],
        told,
    ).evidence()
    # Far from what a float can hold, and from what could matter.
    weighted = given[case, column] * np.exp(np.clip(evidence, -500, 500))
    found = given.copy()
    found[case, column] = rows_to_one(weighted)
    return found


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
