"""What marks teach an audit, where the truth is known and the audit chose what people looked at."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from auditing.decisions import risk_without_check, wrong_probability
from auditing.recalibration import (
    RECALIBRATION,
    Recalibration,
    fit_recalibration,
    read_recalibration,
    write_recalibration,
)
from auditing.verdicts import Judge
from auditing.wrong_rate import WrongRate
from visits.error_model import ErrorModel

COUNTS = (1, 2, 3, 4, 5)
NUM_BINS, NUM_MARKS = 6_000, 600
TRUE_RATE, TRUE_SHARPNESS, TRUE_BREADTH = 0.15, 0.5, 2.0


def a_judge(rate: float = 0.05) -> Judge:
    return Judge(COUNTS, ErrorModel(), WrongRate(rate), costs=None, review_budget=0.1)


def warehouse(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what photos say, twice as sure as they should be; true counts; records, columns."""
    generator = np.random.default_rng(seed)
    honest = generator.dirichlet(np.full(5, 0.4), NUM_BINS)
    true = (generator.random((NUM_BINS, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(0, 4)
    truth = Recalibration(breadth=TRUE_BREADTH)
    wrong = truth.record_probabilities(ErrorModel().record_probabilities(COUNTS))
    recorded = true.copy()
    for row in np.flatnonzero(generator.random(NUM_BINS) < TRUE_RATE):
        recorded[row] = generator.choice(5, p=wrong[true[row]])
    sure = honest ** (1 / TRUE_SHARPNESS)
    return sure / sure.sum(axis=1, keepdims=True), true, recorded


def fitted_to(
    probabilities: np.ndarray,
    true: np.ndarray,
    recorded: np.ndarray,
    rows: np.ndarray,
    possible: np.ndarray | None = None,
) -> Recalibration:
    expected = np.array(COUNTS)[recorded[rows]]

    def posteriors(candidate: Recalibration) -> np.ndarray:
        assert candidate.wrong_rate is not None
        judge = replace(a_judge(), recalibration=candidate, wrong_rate=candidate.wrong_rate)
        return judge.posterior(np.arange(len(rows)), expected, probabilities[rows])

    if possible is None:
        possible = np.equal.outer(true[rows], np.arange(5))
    num_wrong = int((true[rows] != recorded[rows]).sum())
    start = Recalibration(wrong_rate=WrongRate(0.05))
    return fit_recalibration(posteriors, possible, num_wrong, start)


def chosen_by_the_audit(probabilities: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    posterior = a_judge().posterior(np.arange(NUM_BINS), np.array(COUNTS)[recorded], probabilities)
    return np.argsort(-risk_without_check(posterior, recorded))[:NUM_MARKS]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_the_audit_chose_to_look_at_does_not_mislead_it(seed: int) -> None:
    probabilities, true, recorded = warehouse(seed)
    rows = chosen_by_the_audit(probabilities, recorded)
    among_marks = (true[rows] != recorded[rows]).mean()
    assert among_marks > 2 * TRUE_RATE  # what somebody who counts the marks would take it for
    fitted = fitted_to(probabilities, true, recorded, rows)
    rate = fitted.wrong_rate
    assert rate is not None
    assert rate.low is not None
    assert rate.high is not None
    assert rate.value == pytest.approx(TRUE_RATE, abs=0.05)
    assert rate.low < TRUE_RATE < rate.high
    assert fitted.sharpness == pytest.approx(TRUE_SHARPNESS, abs=0.12)
    assert fitted.breadth > 1.2
    assert fitted.num_wrong == round(among_marks * NUM_MARKS)


def test_bins_that_nobody_looked_at_are_judged_more_honestly() -> None:
    probabilities, true, recorded = warehouse(3)
    rows = chosen_by_the_audit(probabilities, recorded)
    fitted = fitted_to(probabilities, true, recorded, rows)
    others = np.setdiff1d(np.arange(NUM_BINS), rows)
    expected = np.array(COUNTS)[recorded[others]]
    is_wrong = true[others] != recorded[others]

    def nats(judge: Judge) -> float:
        posterior = judge.posterior(np.arange(len(others)), expected, probabilities[others])
        suspicion = wrong_probability(posterior, recorded[others]).clip(1e-9, 1 - 1e-9)
        return float(-np.log(np.where(is_wrong, suspicion, 1 - suspicion)).mean())

    assert fitted.wrong_rate is not None
    told = replace(a_judge(), recalibration=fitted, wrong_rate=fitted.wrong_rate)
    assert nats(told) < 0.95 * nats(a_judge())


def test_few_marks_change_little() -> None:
    probabilities, true, recorded = warehouse(4)
    fitted = fitted_to(probabilities, true, recorded, np.arange(3))
    assert fitted.sharpness == pytest.approx(1, abs=0.35)
    assert fitted.breadth == pytest.approx(1, abs=0.35)
    assert fitted.wrong_rate is not None
    assert 0.01 < fitted.wrong_rate.value < 0.2


def test_records_that_were_found_wrong_and_not_counted_say_how_many_there_are() -> None:
    probabilities, true, recorded = warehouse(5)
    rows = np.arange(NUM_MARKS)
    is_right = true[rows] == recorded[rows]
    alone = np.equal.outer(true[rows], np.arange(5))
    others = np.not_equal.outer(recorded[rows], np.arange(5))
    possible = np.where(is_right[:, None], alone, others)
    fitted = fitted_to(probabilities, true, recorded, rows, possible)
    assert fitted.wrong_rate is not None
    assert fitted.wrong_rate.value == pytest.approx(1 - is_right.mean(), abs=0.03)


def test_it_is_read_as_it_was_written_and_by_its_own_model_alone(tmp_path: Path) -> None:
    written = Recalibration(0.8, 1.4, WrongRate(0.07, 0.04, 0.12, True), 90, 31)
    assert read_recalibration(tmp_path, "a model") is None
    write_recalibration(tmp_path, written, "a model")
    assert read_recalibration(tmp_path, "a model") == written
    with pytest.raises(ValueError, match="of another model than lies beside it: remove it"):
        read_recalibration(tmp_path, "another model")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"sharpness": 0.8', '"sharpness": -1'), ('"value": 0.07', '"value": 1.5'), ("{", "[")],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, old: str, new: str) -> None:
    written = Recalibration(0.8, 1.4, WrongRate(0.07, 0.04, 0.12, True), 90, 31)
    write_recalibration(tmp_path, written, "a model")
    path = tmp_path / RECALIBRATION
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"is damaged .*: remove it, or write it anew"):
        read_recalibration(tmp_path, "a model")


def test_an_interval_stays_one_where_every_record_was_wrong() -> None:
    probabilities, true, recorded = warehouse(6)
    rows = np.flatnonzero(true != recorded)[:300]
    rate = fitted_to(probabilities, true, recorded, rows).wrong_rate
    assert rate is not None
    assert rate.low is not None
    assert rate.high is not None
    assert 0.5 < rate.low < rate.value < rate.high < 1
    unknown = fitted_to(probabilities, true, recorded, rows[:1]).wrong_rate
    assert unknown is not None
    assert not unknown.is_learned
