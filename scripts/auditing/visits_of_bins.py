"""Which rows of an audit show one bin, and what all of its visits say together.

The theory is visits.chain's; here it is done for a million rows: with a few arrays of numbers a
row, and chains of about one length at a time.
"""

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from items.evidence import RecordedItems
from items.settings import ItemSettings
from visits.chain import Visits, possible_changes, visit_posteriors
from visits.neighbours import visit_steps
from visits.settings import VisitModel

# Seconds since 1970 have ten digits, a date and a time in one fourteen.
VISIT_NUMBER = re.compile(r"([0-9]{1,18})(\.0*)?", re.ASCII)
MOST_AT_ONCE = 20_000  # visits whose chains are computed together


@dataclass(frozen=True)
class VisitOrder:
    """The visits of each bin, one after the other.

    Args:
        rows: int (num_visits,), those of a bin side by side, the earliest first.
        bins: int (num_visits,), a number for each bin.
    """

    rows: np.ndarray
    bins: np.ndarray

    def bin_of_rows(self, num_rows: int) -> np.ndarray:
        """Return a number for the bin of each row, int (num_rows,); a row without visits has its
        own.
        """
        numbers = -1 - np.arange(num_rows)
        numbers[self.rows] = self.bins
        return numbers

    def of_bins_with(self, rows: np.ndarray) -> "VisitOrder":
        """Return the visits of those bins alone that one of these rows shows."""
        is_one = np.isin(self.bins, self.bins[np.isin(self.rows, rows)])
        return VisitOrder(self.rows[is_one], self.bins[is_one])

    def steps(self, is_taken: np.ndarray) -> np.ndarray:
        """Return each two visits that follow each other if the others had not been.

        Args:
            is_taken: bool (num_rows,), of all rows.

        Returns: int (num_steps, 2), rows, the earlier one first; those of a bin side by side.
        """
        taken = is_taken[self.rows]
        rows, bins = self.rows[taken], self.bins[taken]
        follows = bins[1:] == bins[:-1]
        return np.column_stack([rows[:-1][follows], rows[1:][follows]])


def order_of_visits(ids: Sequence[str], groups: Sequence[str | None]) -> VisitOrder:
    """Return the order of the visits of those bins that are there more than once.

    Args: as in visits.neighbours.visit_steps.
    """
    steps = visit_steps(ids, groups)
    is_first = starts_of_bins(steps)
    is_row = np.ones((len(steps), 2), dtype=bool)
    is_row[:, 0] = is_first  # else it is the row that the step before led to
    bins = np.repeat(np.cumsum(is_first) - 1, 2).reshape(-1, 2)
    return VisitOrder(steps[is_row], bins[is_row])


def starts_of_bins(steps: np.ndarray) -> np.ndarray:
    """Return which steps are the first of their bin, bool (num_steps,)."""
    is_first = np.ones(len(steps), dtype=bool)
    is_first[1:] = steps[1:, 0] != steps[:-1, 1]
    return is_first


class VisitColumns:
    """The order that a stranger's csv gives its rows, from row to row: 16 bytes of each are kept.

    Args:
        is_numbered: whether there is a column that numbers the visits of a bin.
    """

    def __init__(self, is_numbered: bool) -> None:
        self.is_numbered = is_numbered
        self.number_of_bin: dict[str, int] = {}
        self.bins, self.visits = array("q"), array("q")
        self.faults: dict[int, str] = {}

    def add(self, name: str, visit: str) -> None:
        """Add the next row.

        Args:
            name: of its bin; empty where it has none.
            visit: a number that grows from one visit of a bin to the next.
        """
        name, visit = name.strip(), visit.strip()
        number = VISIT_NUMBER.fullmatch(visit)
        is_placed = bool(name and (number or not self.is_numbered))
        if name and not is_placed:
            self.faults[len(self.bins)] = f"visit {visit[:40]!r} is not a whole number from 0 on"
        elif visit and not name:
            self.faults[len(self.bins)] = f"visit {visit[:40]!r} is of no bin"
        known = self.number_of_bin
        self.bins.append(known.setdefault(name, len(known)) if is_placed else -1)
        self.visits.append(int(number[1]) if number else 0)

    def order(self) -> tuple[VisitOrder, dict[int, str]]:
        """Return the order, and row -> what is wrong with it: such a row has no neighbour.

        Raises: ValueError: a bin is there twice, and nothing says in which order.
        """
        bins, visits = (np.array(column, dtype=np.int64) for column in (self.bins, self.visits))
        rows = np.lexsort((visits, bins))
        rows = rows[bins[rows] >= 0]
        is_same = np.zeros(len(rows) + 1, dtype=bool)  # as the row before it in this order
        is_same[1:-1] = (np.diff(bins[rows]) == 0) & (np.diff(visits[rows]) == 0)
        doubtful = rows[is_same[1:] | is_same[:-1]]
        faults = dict(self.faults)
        if len(doubtful):
            names = list(self.number_of_bin)
            if not self.is_numbered:
                raise ValueError(
                    f"the bin {names[bins[doubtful[0]]][:40]!r} is there more than once: a column "
                    "visit must number its photos in their order, or --no_visits judges each alone."
                )
            for row in doubtful.tolist():
                name = names[bins[row]][:40]
                faults[row] = f"the bin {name!r} has more than one visit {visits[row]}"
            rows = rows[~np.isin(rows, doubtful)]
        return VisitOrder(rows, bins[rows]), dict(sorted(faults.items()))


@dataclass(frozen=True)
class Neighbour:
    """The visit before; of a bin's first visit the one after.

    Args:
        change: the count here less that of the neighbour, as the photos most likely say; None where
            no two photos were compared.
        probability: of this change; NaN without it.
    """

    row: int
    id: str
    is_before: bool
    change: int | None
    probability: float


@dataclass(frozen=True)
class VisitEvidence:
    """What is known of the rows that have neighbours.

    Args:
        posteriors: float (num_rows, num_counts), given all visits of the bin; NaN without
            neighbours.
        neighbours: int (num_rows,), the row of the Neighbour; -1 without.
        is_before: bool (num_rows,), whether that is the visit before.
        changes: int (num_rows,), and probabilities: float (num_rows,), of Neighbour; NaN without.
        ids: (num_rows,), large strings.
        num_compared: steps that two photos say something of.
        num_steps, num_bins: steps, and bins that have one.
        num_equal: steps whose two records are the same.
    """

    posteriors: np.ndarray
    neighbours: np.ndarray
    is_before: np.ndarray
    changes: np.ndarray
    probabilities: np.ndarray
    ids: pa.ChunkedArray | pa.Array
    num_compared: int
    num_steps: int
    num_bins: int
    num_equal: int

    def neighbour_of(self, row: int) -> Neighbour | None:
        """Return a row's neighbour, None where it has none."""
        other = int(self.neighbours[row])
        if other < 0:
            return None
        probability = float(self.probabilities[row])
        return Neighbour(
            row=other,
            id=self.ids[other].as_py(),
            is_before=bool(self.is_before[row]),
            change=None if np.isnan(probability) else int(self.changes[row]),
            probability=probability,
        )


@dataclass(frozen=True)
class SeenItems:
    """What photos and records say of items, of all rows.

    Args:
        answers: float (num_rows, ...), of items.answers; NaN where there is no photo.
        records: (num_rows,), of record_lines.recorded_columns.
    """

    answers: np.ndarray
    records: pa.Table

    def records_of(self, rows: np.ndarray) -> list[RecordedItems]:
        """Return the items that the records of some rows name."""
        columns = self.records.take(pa.array(rows)).to_pydict().values()
        return [RecordedItems(*map(tuple, of_row)) for of_row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class SeenVisits:
    """What photos say, of all rows.

    Args:
        probabilities: float (num_rows, num_counts), by photo and recorded items; NaN where there is
            no photo.
        compared: int (num_rows,), the row of the earlier visit whose photo was compared; -1 none.
        answers: float (num_rows, num_change_answers), what the change head said, as
            BinCounter.changes has it; NaN where nothing.
        ids: (num_rows,), large strings.
        items: None where the model says nothing of items.
    """

    probabilities: np.ndarray
    compared: np.ndarray
    answers: np.ndarray
    ids: pa.ChunkedArray | pa.Array
    items: SeenItems | None = None

    def said_of(self, steps: np.ndarray) -> np.ndarray:
        """Return the answers to each step, float (num_steps, num_change_answers); NaN: nothing."""
        earlier, later = steps.T
        answers = self.answers[later].astype(np.float64)
        answers[self.compared[later] != earlier] = np.nan
        return answers


def evidence_of_visits(
    seen: SeenVisits,
    steps: np.ndarray,
    recorded: np.ndarray,
    leaning: np.ndarray,
    records: np.ndarray,
    model: VisitModel,
    counts: tuple[int, ...],
    unchanged_rate: float | None,
    item_settings: ItemSettings | None = None,
) -> VisitEvidence:
    """Return what all visits of each bin say together.

    Args:
        steps: of VisitOrder.
        recorded: int (num_rows,), the expected quantities.
        leaning: float (num_rows, num_counts), what photos say, as often as these bins hold each
            count; the same for all counts where there is no photo.
        records: float (num_rows, num_counts), as in visits.chain.visit_posteriors.
        unchanged_rate: how often a visit finds nothing changed; None: what the model takes.
        item_settings: how what is said of items is held against records; None: it is not.
    """
    num_rows = len(leaning)
    said, num_changes = seen.said_of(steps), len(possible_changes(counts))
    changes = said if model.settings is None else model.changes(said, unchanged_rate)
    volumes = said[:, num_changes:] if said.shape[1] > num_changes else None
    usual = model.usual(counts, unchanged_rate)
    posteriors = np.full(leaning.shape, np.nan)
    for chosen in chains_at_once(steps):
        rows, places = np.unique(steps[chosen], return_inverse=True)
        places = places.reshape(-1, 2)
        others = None
        if seen.items is not None and item_settings is not None:
            others = item_settings.step_evidence(
                seen.items.answers[rows].astype(np.float64),
                seen.items.records_of(rows),
                places,
                None if volumes is None else volumes[chosen],
            )
        visits = Visits(leaning[rows], places, changes[chosen], counts, others)
        posteriors[rows] = visit_posteriors(visits, model.weights, usual, records[rows])

    earlier, later = steps.T
    first = starts_of_bins(steps)
    neighbours = np.full(num_rows, -1)
    # Of a bin's first visit the one after; of all others the one before.
    neighbours[earlier[first]] = later[first]
    neighbours[later] = earlier
    is_before = np.zeros(num_rows, dtype=bool)
    is_before[later] = True
    likeliest, how_likely = np.zeros(num_rows, dtype=np.int64), np.full(num_rows, np.nan)
    is_compared = ~np.isnan(changes).any(axis=1)
    column = np.where(is_compared[:, None], changes, 0.0).argmax(axis=1)
    item_changes = np.asarray(possible_changes(counts))[column]
    share = changes[np.arange(len(steps)), column]  # NaN where nothing was compared
    likeliest[earlier[first]], how_likely[earlier[first]] = -item_changes[first], share[first]
    likeliest[later], how_likely[later] = item_changes, share
    return VisitEvidence(
        posteriors=posteriors,
        neighbours=neighbours,
        is_before=is_before,
        changes=likeliest,
        probabilities=how_likely,
        ids=seen.ids,
        num_compared=int(is_compared.sum()),
        num_steps=len(steps),
        num_bins=int(first.sum()),
        num_equal=int((recorded[earlier] == recorded[later]).sum()),
    )


def chains_at_once(steps: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the places of steps whose chains are computed together: all those of some bins.

    Chains are filled up to the longest among them, so that these are at most twice as long as one
    another, and about MOST_AT_ONCE visits.
    """
    if len(steps) == 0:
        return
    bin_of_step = np.cumsum(starts_of_bins(steps)) - 1
    lengths = np.bincount(bin_of_step) + 1
    order = np.argsort(lengths, kind="stable")
    keys = np.empty((len(lengths), 2), dtype=np.int64)
    keys[order, 0] = np.ceil(np.log2(lengths[order]))
    keys[order, 1] = np.cumsum(lengths[order]) // MOST_AT_ONCE
    _, chunk_of_bin = np.unique(keys, axis=0, return_inverse=True)
    chunk_of_step = chunk_of_bin.reshape(-1)[bin_of_step]
    by_chunk = np.argsort(chunk_of_step, kind="stable")
    yield from np.split(by_chunk, np.flatnonzero(np.diff(chunk_of_step[by_chunk])) + 1)


def earlier_visits(steps: np.ndarray, num_rows: int) -> np.ndarray:
    """Return the row of the visit before each row, int (num_rows,); -1 where there is none."""
    earlier = np.full(num_rows, -1)
    earlier[steps[:, 1]] = steps[:, 0]
    return earlier


def visit_summary(
    evidence: VisitEvidence, model: VisitModel, unchanged_rate: float | None
) -> Mapping[str, object]:
    """Return what summary.json says of visits."""
    return {
        "bins_with_visits": evidence.num_bins,
        "steps": evidence.num_steps,
        "steps_compared_by_photos": evidence.num_compared,
        "steps_with_equal_records": evidence.num_equal,
        "unchanged_rate": model.unchanged_rate if unchanged_rate is None else unchanged_rate,
        "is_rate_given": unchanged_rate is not None,
    }


def visits_text(summary: Mapping[str, Any]) -> str:
    """Return how many bins were judged by more than one photo, and what was taken for granted."""
    rate, is_given = summary["unchanged_rate"], summary["is_rate_given"]
    equal = summary["steps_with_equal_records"] / summary["steps"]
    text = (
        f"Bins with more than one visit: {summary['bins_with_visits']:,}, with "
        f"{summary['steps']:,} steps from a visit to the next, of which photos tell "
        f"{summary['steps_compared_by_photos']:,}. Nothing changed in {rate:.1%} of the steps, "
        + ("as given." if is_given else "says the model.")
    )
    if is_given or equal <= rate:
        return text
    return (
        f"{text} Of their records {equal:.1%} are equal, so most of these are taken for wrong: "
        "give --unchanged_rate if you know it."
    )
