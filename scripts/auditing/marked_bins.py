"""An audit's bins that people have looked at, and what that says of its judge: a recalibration."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from auditing.bins import BinSource
from auditing.checked_bins import CheckedBins
from auditing.parts import Part
from auditing.recalibration import Recalibration, fit_recalibration
from auditing.verdicts import Judge
from auditing.visits_of_bins import SeenVisits
from auditing.wrong_rate import DEFAULT_WRONG_RATE, WrongRate
from serving.bin_counter import BinCounter

ROUNDS = 2  # how often these bins hold each count depends on what is fitted, a little


@dataclass(frozen=True)
class MarkedBins:
    """Bins with a photo, whose records are still those that people looked at.

    Args:
        rows: int (num_marks,), of the source.
        expected: int (num_marks,), their records, of the counts that the model knows.
        possible: bool (num_marks, num_counts), as in fit_recalibration.
        num_wrong: how many of the records were found wrong.
        num_unused: marks that say nothing of these bins as they are.
    """

    rows: np.ndarray
    expected: np.ndarray
    possible: np.ndarray
    num_wrong: int
    num_unused: int


def marked_bins(
    found: CheckedBins, expected: np.ndarray, seen: SeenVisits, counts: tuple[int, ...]
) -> MarkedBins:
    """Return the bins of which marks say something.

    Args:
        expected: int (num_rows,), the records. counts: what the model knows.

    Raises: ValueError: they say nothing of any.
    """
    is_known = np.isin(expected, counts) & ~np.isnan(seen.probabilities).any(axis=1)
    # A record that was written since says nothing of what was found then.
    is_same = {row: recorded == expected[row] for row, recorded in found.recorded.items()}
    rows = np.array([row for row in sorted(is_same) if is_same[row] and is_known[row]], dtype=int)
    if len(rows) == 0:
        raise ValueError(
            "no mark is of a bin that is here, with the record that it has here and a photo: give "
            "the audit that was marked."
        )
    holds = np.array([found.counts.get(row, -1) for row in rows.tolist()])
    # A count that the model does not know says that the record is wrong, and no more.
    possible = np.where(
        np.isin(holds, counts)[:, None],
        np.equal.outer(holds, counts),
        np.not_equal.outer(expected[rows], counts),
    )
    num_wrong = int((holds != expected[rows]).sum())
    return MarkedBins(rows, expected[rows], possible, num_wrong, len(is_same) - len(rows))


def recalibrated(
    marked: MarkedBins,
    source: BinSource,
    seen: SeenVisits,
    parts: Callable[[], Iterable[Part]],
    counter: BinCounter,
    unchanged_rate: float | None,
) -> Recalibration:
    """Return the recalibration that marks ask for.

    Args:
        parts: all of the audit, from the first one on, each time that it is called.
        unchanged_rate: as in Judge.knowing_visits.
    """
    order = source.visits.of_bins_with(marked.rows)
    fitted = Recalibration(wrong_rate=WrongRate(DEFAULT_WRONG_RATE))
    for _ in range(ROUNDS):
        judge = Judge(
            counts=counter.counts,
            error_model=counter.visit_model.error_model,
            wrong_rate=_rate_of(fitted),
            costs=None,
            review_budget=None,
            item_settings=counter.item_settings,
            recalibration=fitted,
        ).learning_from_records(parts(), source.num_bins, is_rate_given=True)

        def posteriors(candidate: Recalibration, knowing: Judge = judge) -> np.ndarray:
            rate = _rate_of(candidate)
            knowing = replace(knowing, recalibration=candidate, wrong_rate=rate)
            if len(order.rows):
                knowing = knowing.knowing_visits(
                    seen, source.expected, order, counter.visit_model, unchanged_rate
                )
            return knowing.posterior(marked.rows, marked.expected, seen.probabilities[marked.rows])

        fitted = fit_recalibration(posteriors, marked.possible, marked.num_wrong, fitted)
    return fitted


def _rate_of(recalibration: Recalibration) -> WrongRate:
    assert recalibration.wrong_rate is not None
    return recalibration.wrong_rate
