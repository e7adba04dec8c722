"""What a photo and the visit before say together: the count now, and how it has changed.

The theory is visits.chain's. What is known of the visit before is its record in the chain: a count
is known, an expected quantity is wrong as often as the audit takes it to be where records say
little, and then off as the error model says. The quantity that is expected now is no evidence: it
is what the answer judges.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.bin_counter import BinCounter, Seen
from serving.bin_requests import Previous, Question
from serving.request_errors import RequestError
from visits.chain import Visits, change_columns, possible_changes, step_joints
from visits.settings import VisitModel

WRONG_RATE = 0.05  # of records; the audit has the same (auditing/wrong_rate.py)
BY_HEAD, BY_COUNTS = "change head", "single counts"


@dataclass(frozen=True)
class VisitAnswer:
    """What is said of a question with a previous visit.

    Args:
        counts: float (num_counts,), how likely each count is now; sums to 1.
        changes: float (num_changes,), how likely each change is, in the order of possible_changes;
            sums to 1.
        unchanged_rate: what was taken for it.
        told_by: BY_HEAD where the two photos were compared, else BY_COUNTS.
    """

    counts: np.ndarray
    changes: np.ndarray
    unchanged_rate: float
    told_by: str


def check_previous(questions: Sequence[Question], counter: BinCounter) -> None:
    """Check what a request says of previous visits against what the model can tell.

    Raises: RequestError: it cannot be answered by this model (400).
    """
    for question in questions:
        if question.previous is None:
            continue
        for name in ("count", "expected_quantity"):
            if getattr(question.previous, name) not in (None, *counter.counts):
                low, high = counter.counts[0], counter.counts[-1]
                raise RequestError(
                    400, f'In "previous": the model knows a "{name}" of {low} to {high} items only.'
                )
        if question.unchanged_rate is None and not counter.tells_changes:
            raise RequestError(
                400,
                "This model has no change head, and does not know how often nothing changes "
                'between two visits: give "unchanged_rate", or train with --learn_changes.',
            )


def answers_with_visits(
    counter: BinCounter,
    questions: Sequence[Question],
    pixels: Sequence[np.ndarray],
    rows: Sequence[int],
) -> tuple[Seen, list[VisitAnswer | None]]:
    """Return what is said of each question, some of which have a previous visit.

    Args:
        pixels: uint8 (height, width, 3) each, as decode_photo returns them.
        rows: (num_photos,), where in `pixels` each photo of bin_requests.photos_of is.

    Returns: what the photo that is asked about shows, of each question; and its answer, None where
        it has no previous visit.
    """
    views = None
    if counter.tells_changes:
        seen, views = counter.look_for_changes(pixels)
    else:
        seen = counter.look(pixels)
    answers: list[VisitAnswer | None] = []
    asked = []
    left = iter(rows)
    for question in questions:
        now = next(left)
        asked.append(now)
        if question.previous is None:
            answers.append(None)
            continue
        before = next(left)
        said = None if views is None else counter.changes(views[[before]], views[[now]])[0]
        answers.append(
            visit_answer(
                seen.probabilities[[before, now]],
                said,
                question.previous,
                question.unchanged_rate,
                counter.visit_model,
                counter.counts,
            )
        )
    items = None if seen.items is None else seen.items[asked]
    return Seen(seen.probabilities[asked], items), answers


def visit_answer(
    probabilities: np.ndarray,
    said: np.ndarray | None,
    previous: Previous,
    unchanged_rate: float | None,
    model: VisitModel,
    counts: tuple[int, ...],
) -> VisitAnswer:
    """Return the answer to one question with a previous visit.

    Args:
        probabilities: float (2, num_counts), what each photo says alone: before, now.
        said: float (num_change_answers,), what the change head says; None: there is none.
        unchanged_rate: None: what the change head's settings have.
    """
    if unchanged_rate is None:
        assert model.settings is not None, "check_previous refuses it"
        unchanged_rate = model.settings.unchanged_rate
    if said is None:
        changes = np.full((1, len(possible_changes(counts))), np.nan)
    else:
        changes = model.changes(said[None], unchanged_rate)
    visits = Visits(probabilities, np.array([[0, 1]]), changes, counts)
    (joint,) = step_joints(visits, model.weights, model.usual(counts, unchanged_rate))
    joint = joint * record_likelihood(previous, model, counts)[:, None]
    joint /= joint.sum()
    return VisitAnswer(
        counts=joint.sum(axis=0),
        changes=np.bincount(change_columns(counts).ravel(), weights=joint.ravel()),
        unchanged_rate=unchanged_rate,
        told_by=BY_COUNTS if said is None else BY_HEAD,
    )


def record_likelihood(previous: Previous, model: VisitModel, counts: tuple[int, ...]) -> np.ndarray:
    """Return how likely what is known of the visit before is for each count, (num_counts,).

    1 for a count that was counted, and 0 for all others; (1 - w) [r = c] + w q(r | c) for a record,
    as in auditing/decisions.py; the same for all where nothing is known.
    """
    if previous.count is not None:
        return np.equal(counts, previous.count).astype(float)
    if previous.expected_quantity is None:
        return np.ones(len(counts))
    recorded = counts.index(previous.expected_quantity)
    wrong = model.error_model.record_probabilities(counts)[:, recorded]
    return (1 - WRONG_RATE) * np.eye(len(counts))[recorded] + WRONG_RATE * wrong
