"""How well each kind of error is found, and by the size of the item. Pure functions.

    missing       the record names all that the bin holds, and more: the record of another visit
    too many      the record names a part of what the bin holds: so, too
    exchanged     the record names an item of another bin in the place of one that is there

The first two are of real pairs, whose items are told apart by their sizes. Of an exchange the count
is right, and none of these probabilities is that of an exchange: what is seen of it is that the
sizes of other counts fit better.

Each photo is there with its own record, and with each wrong one of the kind; weights make a tenth
of the records wrong, and all who judge are told that.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from audit_evaluation.cases import PHOTO, WRONG_SHARE, JudgedBins, JudgedItems, weights_of
from audit_evaluation.figures import group_weights, interval, ranking_figures
from audit_evaluation.item_cases import ITEMS, VISITS
from auditing.decisions import count_posterior, wrong_probability
from items.evidence import RecordedItems
from visits.chain import visit_posteriors, with_other_photos
from visits.settings import VisitModel

BOTH = "visits and items"
MISSING, TOO_MANY, EXCHANGED = "missing", "too many", "exchanged"
AT_BUDGET = 0.2
NUM_SIZES = 3  # of equally many wrong records each
FEWEST = 30  # wrong records of a kind, of which figures are made
SEED = 0


@dataclass(frozen=True)
class WrongRecord:
    """A record that a photo could have, and that is wrong.

    Args:
        row: of the photo, in the test bins.
        volume: of what is missing, is too many, or was taken out, cubic inches; NaN: not known.
    """

    row: int
    record: RecordedItems
    volume: float


def item_errors(bins: JudgedBins, items: JudgedItems, model: VisitModel) -> list[dict[str, Any]]:
    """Return the figures of each kind of error, ready for JSON."""
    generator = np.random.default_rng(SEED)
    kinds: dict[str, list[WrongRecord]] = {MISSING: [], TOO_MANY: []}
    for name, wrong in wrong_pairs(bins, items):
        kinds[name].append(wrong)
    kinds[EXCHANGED] = list(exchanged_items(bins, items, generator))
    return [
        _figures(name, wrong, bins, items, model)
        for name, wrong in kinds.items()
        if len(wrong) >= FEWEST
    ]


def wrong_pairs(bins: JudgedBins, items: JudgedItems) -> Iterator[tuple[str, WrongRecord]]:
    """Yield the record of another visit for each photo, with the name of its error.

    Pairs in which items both came and went are left out.
    """
    for first, second in bins.steps.tolist():
        for row, other in ((first, second), (second, first)):
            own, record = items.records[row], items.records[other]
            if not own.quantities or not record.quantities:
                continue
            more, fewer = _units(record) - _units(own), _units(own) - _units(record)
            if bool(more) != bool(fewer):
                name = MISSING if more else TOO_MANY
                yield name, WrongRecord(row, record, _volume(more or fewer))


def exchanged_items(
    bins: JudgedBins, items: JudgedItems, generator: np.random.Generator
) -> Iterator[WrongRecord]:
    """Yield for each photo its record with one item that another bin holds in place of its own."""
    groups = bins.group_index
    for row, own in enumerate(items.records):
        others = np.flatnonzero(groups != groups[row])
        if not own.quantities or not len(others):
            continue
        other = items.records[int(generator.choice(others))]
        if not other.quantities:
            continue
        units = sorted(_units(own).elements())
        taken = units.pop(int(generator.integers(len(units))))
        put = sorted(_units(other))[int(generator.integers(len(_units(other))))]
        if put == taken:
            continue
        held = Counter([*units, put])
        record = RecordedItems(tuple(held.values()), *map(tuple, zip(*held, strict=True)))
        yield WrongRecord(row, record, taken[0])


def _units(record: RecordedItems) -> Counter[tuple[float, float]]:
    """Return how many there are of each volume and weight; the same NaN is one size."""
    sizes = zip(record.volumes, record.weights, strict=True)
    units: Counter[tuple[float, float]] = Counter()
    for (volume, weight), quantity in zip(sizes, record.quantities, strict=True):
        units[volume, weight] += quantity
    return units


def _volume(units: Counter[tuple[float, float]]) -> float:
    return float(sum(quantity * volume for (volume, _), quantity in units.items()))


def _figures(
    name: str,
    wrong: Sequence[WrongRecord],
    bins: JudgedBins,
    items: JudgedItems,
    model: VisitModel,
) -> dict[str, Any]:
    right = sorted({each.row for each in wrong})
    rows = np.array([*right, *(each.row for each in wrong)])
    records = [*(items.records[row] for row in right), *(each.record for each in wrong)]
    is_wrong = np.arange(len(rows)) >= len(right)
    shares = np.where(is_wrong, WRONG_SHARE / len(wrong), (1 - WRONG_SHARE) / len(right))
    weights = group_weights(bins.group_index[rows], np.random.default_rng(SEED)) * shares
    volumes = np.array([np.nan] * len(right) + [each.volume for each in wrong])
    scores = _scores(rows, records, bins, items, model)
    return {
        "name": name,
        "num_records": len(wrong),
        "num_photos": len(right),
        "num_groups": len(np.unique(bins.group_index[rows])),
        "budget": AT_BUDGET,
        "judges": {
            judge: _found(score, is_wrong, weights, is_wrong) for judge, score in scores.items()
        },
        "sizes": [
            {
                "low": float(volumes[of_size].min()),
                "high": float(volumes[of_size].max()),
                "num_records": int(of_size.sum()),
                "judges": {
                    judge: _found(score, is_wrong, weights, of_size)
                    for judge, score in scores.items()
                },
            }
            for of_size in _by_size(volumes)
        ],
    }


def _by_size(volumes: np.ndarray) -> list[np.ndarray]:
    """Return which records are of each of NUM_SIZES sizes, from the smallest on."""
    known = np.flatnonzero(~np.isnan(volumes))
    parts = np.array_split(known[np.argsort(volumes[known], kind="stable")], NUM_SIZES)
    return [np.isin(np.arange(len(volumes)), part) for part in parts if len(part)]


def _found(
    score: np.ndarray, is_wrong: np.ndarray, weights: np.ndarray, of_kind: np.ndarray
) -> dict[str, Any]:
    """Return what is found at AT_BUDGET of the records of a kind, and the area, ready for JSON."""
    is_checked = checked_share(score, weights, AT_BUDGET)
    counted = weights * of_kind
    with np.errstate(invalid="ignore"):  # of few groups none with such a record was drawn
        found = (counted * is_checked).sum(axis=1) / counted.sum(axis=1)
    kept = of_kind | ~is_wrong
    _, area = ranking_figures(score[kept], is_wrong[kept], weights[:, kept])
    return {
        "found": interval(found),
        "times_random": interval(found / AT_BUDGET),
        "area_under_curve": interval(area),
    }


def checked_share(score: np.ndarray, weights: np.ndarray, budget: float) -> np.ndarray:
    """Return how much of each record is checked when those of the highest score come first.

    Records of one score are checked in random order: each is checked as often as the others.

    Args:
        score: float (num_records,). weights: float (num_weightings, num_records).
        budget: share of all weight that is checked.

    Returns: float (num_weightings, num_records), 0 to 1.
    """
    _, place = np.unique(-score, return_inverse=True)
    at_place = np.zeros((len(weights), place.max() + 1))
    np.add.at(at_place.T, place, weights.T)
    before = at_place.cumsum(axis=1) - at_place
    left = budget * weights.sum(axis=1, keepdims=True) - before
    share = np.divide(left, at_place, out=np.zeros_like(left), where=at_place > 0)
    return np.clip(share, 0.0, 1.0)[:, place]


def _scores(
    rows: np.ndarray,
    records: Sequence[RecordedItems],
    bins: JudgedBins,
    items: JudgedItems,
    model: VisitModel,
) -> Mapping[str, np.ndarray]:
    """Return how likely each record is wrong, by those who know more and less."""
    recorded = np.searchsorted(bins.counts, [record.count for record in records])
    photo = bins.probabilities[rows]
    given = items.settings.counts_given(photo, items.answers[rows], records)
    weights = weights_of(model, bins.changes)
    usual = model.usual(bins.counts)
    together = visit_posteriors(bins.visits(bins.changes), weights, usual)[rows]
    has_visits = np.isin(rows, bins.steps)[:, None]
    both = with_other_photos(together, photo, given, weights)
    known = {
        PHOTO: photo,
        ITEMS: given,
        VISITS: together,
        BOTH: np.where(has_visits, both, given),
    }
    off = model.error_model.record_probabilities(bins.counts)
    return {
        name: wrong_probability(count_posterior(each, recorded, off, WRONG_SHARE), recorded)
        for name, each in known.items()
    }
