"""Records that are made wrong, and what is known of each before it is seen. Pure functions.

A case is a photo with a record. Wrong ones are made in three ways, of whole counts that the model
knows:

    real pairs        the photo of one state of a bin with the record of its other state. The right
                      ones are the same photos with their own records, so that nothing but the
                      record tells the two apart.
    symmetric errors  any photo with a record that is one item off, up or down alike.
    real changes      a visit, with a record of what changed since the visit before that really
                      occurs, and did not here: drawn from how counts change from the count before
                      on, as the training split's records have shown (the error model). The record
                      alone says little then.

The first two are judged by the photo alone, and once more with visits; real changes are of visits
alone. (item_cases.py has the same with the items that records name.) With visits, the count of the
neighbouring visit is known, as if somebody had counted then; that may be the visit before or the
one after, since both are one question (visits.measures asks both ways as well), and so each two
visits with different counts make two cases.

**A record that equals the neighbour's would tell on itself.** Next to no two visits here have one
count (the photos were collected so): 'nothing changed' is wrong whatever photos show, and who knows
that alone would win. So where the neighbour's count is known, no record equals it, right or wrong:
pairs without a change are left out, wrong records without one are not drawn, and all who know that
count are told both. Of real pairs every wrong record equals a neighbour's, and none would be left.
There, with visits, the bin's other photos are seen and none of their records; what still helps is
that two visits are known to differ. Two single counts know that too: what the head adds to them is
what it sees. How well a visit is told at which nothing changed, no figure here says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from items.evidence import RecordedItems
from items.settings import ItemSettings
from visits.chain import (
    BELIEVED_WITHOUT_CHANGES,
    ChainWeights,
    Visits,
    possible_changes,
    step_joints,
    visit_posteriors,
)
from visits.error_model import rows_to_one
from visits.neighbours import visit_steps
from visits.settings import VisitModel

WRONG_SHARE = 0.1
SINGLE_COUNTS, PHOTO, RECORDS = "two single counts", "photo alone", "records alone"
BY_ERROR_MODEL = "by the error model"


@dataclass(frozen=True)
class JudgedItems:
    """What the model, and the records, say of the items in the bins of a test split.

    Args:
        answers: float (num_bins, ...), of items.heads.
        records: (num_bins,).
        settings: how the two are held against each other; `usual` and `powers` are there.
        volume_changes: float (num_steps, 2), what is said of the volume at the steps of
            JudgedBins.steps, as items.steps.given_neighbour takes it; None: nothing.
    """

    answers: np.ndarray
    records: Sequence[RecordedItems]
    settings: ItemSettings
    volume_changes: np.ndarray | None = None


@dataclass(frozen=True)
class JudgedBins:
    """What the model says of a test split, whose records are right.

    Args:
        ids, groups: (num_bins,); a group may be None where it is not known.
        true: int (num_bins,), the column of the count that each bin holds.
        probabilities: float (num_bins, num_counts).
        counts: (num_counts,), items.
        changes: float (num_steps, num_changes), what the change head says of the steps of
            visit_steps(ids, groups), in the order of possible_changes; None: it was not asked.
        items: what is known of the items; None: nothing.
    """

    ids: Sequence[str]
    groups: Sequence[str | None]
    true: np.ndarray
    probabilities: np.ndarray
    counts: tuple[int, ...]
    changes: np.ndarray | None = None
    items: JudgedItems | None = None

    @property
    def group_index(self) -> np.ndarray:
        """Int (num_bins,): a number for each group; a bin without one is a group of its own."""
        named = [
            group or f"bin {row}" for row, group in enumerate(self.groups)
        ]  # no group is named so
        return np.unique(named, return_inverse=True)[1]

    @cached_property
    def steps(self) -> np.ndarray:
        """Int (num_steps, 2): rows that show one bin, one visit after the other."""
        return visit_steps(self.ids, self.groups)

    def visits(self, changes: np.ndarray | None) -> Visits:
        """Return the bins as chains, of which `changes`, or nothing, is said at each step."""
        nothing = np.full((len(self.steps), len(possible_changes(self.counts))), np.nan)
        said = nothing if changes is None else changes
        return Visits(self.probabilities, self.steps, said, self.counts)


@dataclass(frozen=True)
class Knowledge:
    """What somebody who judges the cases knows before their records are seen.

    Args:
        probabilities: float (num_cases, num_counts), how likely each count is; rows sum to 1. Or
            such rows for each count that may be recorded, where the record names its items: float
            (num_cases, num_counts, num_counts).
        record_probabilities: how wrong records come about: float (num_counts, num_counts), or one
            such for each case, as in decisions.count_posterior.
    """

    probabilities: np.ndarray
    record_probabilities: np.ndarray

    def given(self, recorded: np.ndarray) -> np.ndarray:
        """Return how likely each count is by the photos and what records name beside their count.

        Args:
            recorded: int (num_cases,), the column of each record's count.
        """
        if self.probabilities.ndim == 2:
            return self.probabilities
        return self.probabilities[np.arange(len(recorded)), recorded]


@dataclass(frozen=True)
class Cases:
    """Photos that may get a wrong record, which, and who judges them.

    Args:
        rows: int (num_cases,), into the test bins.
        wrong_records: (num_cases,), the columns that a wrong record may be drawn from; each has one
            at least.
        audit: what the audit knows. rivals: what others know, by their names.
        shares: (num_cases,), how often each of wrong_records is drawn; None: all alike.
    """

    name: str
    rows: np.ndarray
    wrong_records: list[np.ndarray]
    audit: Knowledge
    rivals: Mapping[str, Knowledge] = field(default_factory=dict)
    shares: list[np.ndarray] | None = None

    def draw(self, true: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return a record for each case, the column, WRONG_SHARE of them wrong."""
        recorded = true[self.rows].copy()
        num_wrong = round(WRONG_SHARE * len(self.rows))
        for case in generator.choice(len(self.rows), size=num_wrong, replace=False):
            shares = None if self.shares is None else self.shares[case]
            recorded[case] = generator.choice(self.wrong_records[case], p=shares)
        return recorded


def real_pairs(bins: JudgedBins, model: VisitModel) -> Cases:
    """Return the photos that show a bin of which another photo shows the state before or after."""
    others: dict[int, list[int]] = {}
    for first, second in bins.steps:
        if bins.true[first] != bins.true[second]:
            others.setdefault(int(first), []).append(int(bins.true[second]))
            others.setdefault(int(second), []).append(int(bins.true[first]))
    rows = np.array(sorted(others), dtype=int)
    wrong_records = [np.array(others[row]) for row in rows.tolist()]
    return Cases("real_pairs", rows, wrong_records, _of_photo(bins, model, rows))


def symmetric_errors(bins: JudgedBins, model: VisitModel) -> Cases:
    """Return all photos, each with the counts next to its own."""
    neighbours = [_one_item_off(true, bins) for true in bins.true]
    rows = np.flatnonzero([len(columns) > 0 for columns in neighbours])
    wrong_records = [neighbours[row] for row in rows]
    return Cases("symmetric_errors", rows, wrong_records, _of_photo(bins, model, rows))


def real_changes(bins: JudgedBins, model: VisitModel) -> Cases:
    """Return visits, each with the counts that a bin goes to from that of the visit before."""
    return that_can_be_wrong(changes_of_visits(KnownVisits(bins, model), bins, model))


def changes_of_visits(visits: "KnownVisits", bins: JudgedBins, model: VisitModel) -> Cases:
    """Return a case for each of these visits, also where no wrong record is left for it."""
    usual = model.error_model.record_probabilities(bins.counts)[visits.known]
    shares = usual.copy()
    shares[np.arange(len(shares)), bins.true[visits.rows]] = 0.0
    possible = [np.flatnonzero(row) for row in shares]
    drawn = [row[columns] / row.sum() for row, columns in zip(shares, possible, strict=True)]
    # How a wrong record comes about depends on the count before, which all but the photo know.
    records = _of_a_change(usual[:, None, :], visits.known)
    rivals = {
        name: known if name == PHOTO else replace(known, record_probabilities=records)
        for name, known in visits.rivals.items()
    }
    return Cases(
        "real_changes",
        visits.rows,
        possible,
        replace(visits.audit, record_probabilities=records),
        rivals | {BY_ERROR_MODEL: visits.audit},
        drawn,
    )


def real_pairs_with_visits(bins: JudgedBins, model: VisitModel) -> Cases:
    """Return real_pairs, judged by all photos of the bin and none of its other records."""
    alone = real_pairs(bins, model)
    usual = model.usual(bins.counts)

    def together(changes: np.ndarray | None) -> Knowledge:
        weights = weights_of(model, changes)
        posteriors = visit_posteriors(bins.visits(changes), weights, usual)
        return replace(alone.audit, probabilities=posteriors[alone.rows])

    single = {} if bins.changes is None else {SINGLE_COUNTS: together(None)}
    return replace(
        alone,
        name="real_pairs_with_visits",
        audit=together(bins.changes),
        rivals=single | {PHOTO: alone.audit},
    )


def symmetric_errors_with_visits(bins: JudgedBins, model: VisitModel) -> Cases:
    """Return visits, each with the counts next to its own but for that of the visit before."""
    visits = KnownVisits(bins, model)
    wrong_records = [
        np.setdiff1d(_one_item_off(bins.true[row], bins), known)
        for row, known in zip(visits.rows, visits.known, strict=True)
    ]
    return that_can_be_wrong(
        Cases(
            "symmetric_errors_with_visits",
            visits.rows,
            wrong_records,
            visits.audit,
            visits.rivals,
        )
    )


class KnownVisits:
    """Visits of which the count of a neighbouring visit is known, another one than theirs.

    rows, neighbours: int (num_cases,), into the test bins; known: int (num_cases,), the column of
    the neighbour's count; audit, rivals: what is known of them, wrong records being those of the
    error model that say a change.
    """

    def __init__(self, bins: JudgedBins, model: VisitModel) -> None:
        self.steps = np.flatnonzero(bins.true[bins.steps[:, 0]] != bins.true[bins.steps[:, 1]])
        before, after = bins.steps[self.steps].T
        self.rows, self.neighbours = np.concatenate([[after, before], [before, after]], axis=1)
        self.known = bins.true[self.neighbours]
        usual = model.error_model.record_probabilities(bins.counts)
        self.records = _of_a_change(usual, self.known)
        self.audit = self._given_neighbour(bins, model, bins.changes)
        single = self._given_neighbour(bins, model, None)
        self.rivals = ({} if bins.changes is None else {SINGLE_COUNTS: single}) | {
            PHOTO: _of_photo(bins, model, self.rows),
            RECORDS: Knowledge(usual[self.known], self.records),
        }

    def _given_neighbour(
        self, bins: JudgedBins, model: VisitModel, changes: np.ndarray | None
    ) -> Knowledge:
        usual, weights = model.usual(bins.counts), weights_of(model, changes)
        joints = step_joints(bins.visits(changes), weights, usual)[self.steps]
        cases, middle = np.arange(len(self.known)), len(self.steps)
        ahead = joints[cases[:middle], self.known[:middle]]
        back = joints[cases[:middle], :, self.known[middle:]]
        given = np.concatenate([ahead, back])
        given[cases, self.known] = 0.0  # all are told that there was a change
        return Knowledge(rows_to_one(given), self.records)


def _of_a_change(shares: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return how likely each wrong record is that does not equal the neighbour's.

    Args:
        shares: how often each is written where the bin holds each count, of any scale: float, that
            broadcasts to (num_cases, num_counts, num_counts).
        known: int (num_cases,), the column of the neighbour's count.

    Returns: float (num_cases, num_counts, num_counts), as Knowledge takes it.
    """
    num_cases, num_counts = len(known), shares.shape[-1]
    records = np.array(np.broadcast_to(shares, (num_cases, num_counts, num_counts)))
    records *= 1 - np.eye(num_counts)
    records[np.arange(num_cases), :, known] = 0.0
    return rows_to_one(records.reshape(-1, num_counts)).reshape(records.shape)


def weights_of(model: VisitModel, changes: np.ndarray | None) -> ChainWeights:
    """Return how much each kind of evidence counts; changes: as in JudgedBins."""
    if changes is not None:
        return model.weights
    return model.settings.weights_without_changes if model.settings else BELIEVED_WITHOUT_CHANGES


def _of_photo(bins: JudgedBins, model: VisitModel, rows: np.ndarray) -> Knowledge:
    return Knowledge(bins.probabilities[rows], model.error_model.record_probabilities(bins.counts))


def _one_item_off(column: int, bins: JudgedBins) -> np.ndarray:
    return np.array([c for c in (column - 1, column + 1) if 0 <= c < len(bins.counts)])


def that_can_be_wrong(cases: Cases) -> Cases:
    """Return the cases that some wrong record is left for."""
    kept = np.flatnonzero([len(columns) > 0 for columns in cases.wrong_records])

    def of_kept(known: Knowledge) -> Knowledge:
        of_cases = known.record_probabilities
        return Knowledge(
            known.probabilities[kept], of_cases[kept] if of_cases.ndim == 3 else of_cases
        )

    return Cases(
        cases.name,
        cases.rows[kept],
        [cases.wrong_records[case] for case in kept],
        of_kept(cases.audit),
        {name: of_kept(known) for name, known in cases.rivals.items()},
        cases.shares and [cases.shares[case] for case in kept],
    )
