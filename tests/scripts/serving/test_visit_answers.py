"""Two visits of a bin in one answer, on drawn evidence."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from auditing.decisions import count_posterior
from auditing.wrong_rate import DEFAULT_WRONG_RATE
from serving.bin_requests import Previous, Question
from serving.request_errors import RequestError
from serving.visit_answers import (
    BY_COUNTS,
    BY_HEAD,
    WRONG_RATE,
    VisitAnswer,
    check_previous,
    record_likelihood,
    visit_answer,
)
from visits.chain import ChainWeights, Visits, possible_changes, visit_posteriors
from visits.error_model import ErrorModel
from visits.settings import ChangeSettings, VisitModel

COUNTS = (1, 2, 3, 4, 5)
CHANGES = possible_changes(COUNTS)
ERROR_MODEL = ErrorModel({(1, 2): 40, (2, 3): 60, (3, 5): 20})
SETTINGS = ChangeSettings(
    COUNTS, 8, learned_rate=0.3, unchanged_rate=0.02, weights=ChainWeights(0.6, 0.7, 0.4)
)
MODEL, WITHOUT_HEAD = VisitModel(ERROR_MODEL, SETTINGS), VisitModel(ERROR_MODEL)
BEFORE, NOW = np.random.default_rng(3).dirichlet(np.ones(len(COUNTS)), 2)
SAID = np.random.default_rng(4).dirichlet(np.ones(len(CHANGES)))


def answer(model: VisitModel = MODEL, rate: float | None = None, **known: Any) -> VisitAnswer:
    """Return the answer for the drawn evidence; `known` is of the visit before."""
    said = None if model.settings is None else SAID
    return visit_answer(
        np.stack([BEFORE, NOW]), said, Previous("body", b"", **known), rate, model, COUNTS
    )


@pytest.mark.parametrize("rate", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("known", [{}, {"count": 4}, {"expected_quantity": 2}])
@pytest.mark.parametrize("model", [MODEL, WITHOUT_HEAD], ids=["head", "no head"])
def test_the_counts_are_those_of_the_chain(
    model: VisitModel, known: dict[str, Any], rate: float | None
) -> None:
    if model is WITHOUT_HEAD and rate is None:
        rate = 0.1
    found = answer(model=model, rate=rate, **known)
    previous = Previous("body", b"", **known)
    no_change = np.full((1, len(CHANGES)), np.nan)
    visits = Visits(
        np.stack([BEFORE, NOW]),
        np.array([[0, 1]]),
        model.changes(SAID[None], rate) if model.settings else no_change,
        COUNTS,
    )
    records = np.stack([record_likelihood(previous, model, COUNTS), np.ones(len(COUNTS))])
    chain = visit_posteriors(visits, model.weights, model.usual(COUNTS, rate), records)
    np.testing.assert_allclose(found.counts, chain[1], atol=1e-12)
    assert found.changes.sum() == pytest.approx(1)
    # The mean change is what the mean count has moved by.
    before, now = chain @ np.array(COUNTS)
    assert found.changes @ np.array(CHANGES) == pytest.approx(now - before, abs=1e-9)


def test_of_a_count_that_is_known_the_change_is_the_count_now() -> None:
    found = answer(count=4)
    of_change = dict(zip(CHANGES, found.changes, strict=True))
    assert [of_change[count - 4] for count in COUNTS] == pytest.approx(list(found.counts))
    assert sum(of_change[change] for change in (-4, 2, 3, 4)) == 0


def test_without_a_head_photo_and_usual_change_are_two_independent_witnesses() -> None:
    usual = WITHOUT_HEAD.usual(COUNTS, 0.1)
    of_steps = np.sqrt(usual * usual.T) / 0.9  # both directions of a step are one fact
    np.fill_diagonal(of_steps, 0)
    np.fill_diagonal(of_steps, of_steps.sum() / len(COUNTS) * 0.1 / 0.9)
    of_step = of_steps[3]
    expected = NOW * of_step / (NOW * of_step).sum()
    found = answer(model=WITHOUT_HEAD, rate=0.1, count=4)
    np.testing.assert_allclose(found.counts, expected, atol=1e-9)


def test_a_record_says_less_than_a_count_and_more_than_nothing() -> None:
    known, record, nothing = answer(count=5), answer(expected_quantity=5), answer()
    gained = known.counts - nothing.counts
    assert np.abs(record.counts - nothing.counts).max() > 0.001
    assert np.abs(record.counts - known.counts).max() > 0.001
    assert (record.counts - nothing.counts) @ gained > 0


def test_a_record_is_weighed_as_the_audit_weighs_it() -> None:
    assert WRONG_RATE == DEFAULT_WRONG_RATE
    likelihood = record_likelihood(Previous("body", b"", expected_quantity=2), MODEL, COUNTS)
    audited = count_posterior(
        NOW[None], np.array([1]), ERROR_MODEL.record_probabilities(COUNTS), DEFAULT_WRONG_RATE
    )[0]
    joint = NOW * likelihood
    np.testing.assert_allclose(joint / joint.sum(), audited)


def test_both_directions_of_a_pair_are_one_fact() -> None:
    visits = np.stack([BEFORE, NOW])
    photo = Previous("body", b"")
    ahead = visit_answer(visits, SAID, photo, None, MODEL, COUNTS)
    back = visit_answer(visits[::-1], SAID[::-1], photo, None, MODEL, COUNTS)
    np.testing.assert_allclose(ahead.changes, back.changes[::-1])


def test_how_often_nothing_changes_is_the_models_unless_the_question_says_it() -> None:
    unchanged = CHANGES.index(0)
    shares = [answer(rate=rate).changes[unchanged] for rate in (0, 0.1, 0.5, 0.9, 1)]
    assert shares == sorted(shares)
    assert shares[0] < 1e-6
    assert shares[-1] > 1 - 1e-6
    by_model = answer()
    assert by_model.unchanged_rate == 0.02
    np.testing.assert_array_equal(by_model.changes, answer(rate=0.02).changes)


def test_the_answer_says_whether_the_photos_were_compared() -> None:
    assert answer().told_by == BY_HEAD
    assert answer(model=WITHOUT_HEAD, rate=0.1).told_by == BY_COUNTS


@pytest.mark.parametrize(
    ("model", "question", "reason"),
    [
        (MODEL, Question("body", b"", None, Previous("body", b"", count=0)), '"count" of 1 to 5'),
        (MODEL, Question("body", b"", 1, Previous("body", b"", count=6)), '"count" of 1 to 5'),
        (
            MODEL,
            Question("body", b"", 1, Previous("body", b"", expected_quantity=9), 0.2),
            '"expected_quantity" of 1 to 5 items only',
        ),
        (WITHOUT_HEAD, Question("body", b"", 1, Previous("body", b"", count=2)), "--learn_changes"),
    ],
)
def test_what_the_model_cannot_tell_is_refused(
    model: VisitModel, question: Question, reason: str
) -> None:
    counter: Any = SimpleNamespace(counts=COUNTS, tells_changes=model.settings is not None)
    alone = replace(question, previous=None, unchanged_rate=None)
    with pytest.raises(RequestError) as raised:
        check_previous([alone, question], counter)
    assert raised.value.status == 400
    assert reason in raised.value.reason
    check_previous([alone], counter)
    assert question.previous
    known = replace(question, previous=Previous("body", b"", count=2), unchanged_rate=0.2)
    check_previous([known], counter)
