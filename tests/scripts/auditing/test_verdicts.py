import numpy as np
import pytest

from auditing import verdicts as audit_verdicts
from auditing.decisions import CHECK, OK, WRONG, Costs
from auditing.error_model import ErrorModel
from auditing.parts import Part
from auditing.verdicts import Judge, Verdict, checking_order
from auditing.wrong_rate import WrongRate

COUNTS = (1, 2, 3)


def part(rows: list[tuple[int, list[float]]], first: int = 0) -> Part:
    """Return bins of expected quantity and probabilities; without probabilities, with a problem."""
    return Part(
        first=first,
        ids=[str(first + row) for row in range(len(rows))],
        recorded=[str(expected) for expected, _ in rows],
        expected=np.array([expected for expected, _ in rows]),
        problem=["" if probabilities else "no photo" for _, probabilities in rows],
        note=["" for _ in rows],
        items=[[] for _ in rows],
        probabilities=np.array([p or [np.nan] * 3 for _, p in rows]).reshape(-1, 3),
    )


def judge(**changes: object) -> Judge:
    values = {"costs": Costs(20, 1), "review_budget": None, "wrong_rate": WrongRate(0.1), **changes}
    return Judge(counts=COUNTS, error_model=ErrorModel(), **values)  # type: ignore[arg-type]


def verdicts(parts: list[Part], by: Judge) -> list[Verdict]:
    return list(by.verdicts(parts, by.spend(parts)))


AGREES, DIFFERS, DOUBTFUL = [0.01, 0.98, 0.01], [0.0001, 0.0001, 0.9998], [0.5, 0.2, 0.3]


def test_each_bin_gets_the_cheapest_decision_with_its_reason() -> None:
    rows = [(2, AGREES), (2, DIFFERS), (2, DOUBTFUL), (7, AGREES), (2, [])]
    found = verdicts([part(rows)], judge())
    assert [verdict.decision for verdict in found] == [OK, WRONG, CHECK, CHECK, ""]
    assert [verdict.suggested for verdict in found] == [None, 3, None, None, None]
    assert found[3].reason == "expected quantity 7 is outside the model's counts 1 to 3"
    assert found[4].reason == "no photo"
    assert np.isnan(found[3].wrong_probability)
    assert found[3].most_likely == 2
    assert found[0].saving == 0
    assert found[2].saving == pytest.approx(20 * found[2].wrong_probability - 1)
    assert found[4].cells()[2:9] == ["", "", "", "", "", "", ""]


def test_a_budget_is_spent_over_all_parts_and_not_on_bins_that_nobody_can_judge() -> None:
    rows = [(1, DOUBTFUL), (2, AGREES), (9, AGREES), (2, DOUBTFUL), (3, DOUBTFUL), (3, [])]
    by = judge(costs=None, review_budget=0.5)
    in_one = verdicts([part(rows)], by)
    in_two = verdicts([part(rows[:3]), part(rows[3:], first=3)], by)
    assert [verdict.decision for verdict in in_two] == [verdict.decision for verdict in in_one]
    judged = [verdict for verdict in in_one if not np.isnan(verdict.wrong_probability)]
    assert [verdict.decision for verdict in judged].count(CHECK) == 2
    assert in_one[2].decision == CHECK  # beyond the budget
    least_checked = min(v.wrong_probability for v in judged if v.decision == CHECK)
    assert least_checked >= max(v.wrong_probability for v in judged if v.decision == OK)


def test_a_judge_who_knows_the_records_leans_towards_what_they_say() -> None:
    # The photos say 1 and 3 alike; nearly all records say 1.
    rows = [(3 if row % 20 == 0 else 1, [0.48, 0.04, 0.48]) for row in range(2000)] + [(1, [])]
    parts = [part(rows[:700]), part(rows[700:], first=700)]
    plain = judge()
    knowing = plain.learning_from_records(parts, len(rows), is_rate_given=True)
    assert knowing.count_weights is not None
    assert knowing.count_weights[0] > 2 * knowing.count_weights[2]
    before, after = verdicts(parts, plain), verdicts(parts, knowing)
    assert after[0].wrong_probability > before[0].wrong_probability  # says 3
    assert after[1].wrong_probability < before[1].wrong_probability  # says 1
    assert after[1].probabilities == before[1].probabilities  # the photo says what it says


def test_a_rate_that_was_given_stays_and_another_is_the_records_own() -> None:
    # The photos are right and sure; a quarter of the records says one of the other counts.
    sure = np.eye(3) * 0.97 + 0.01
    rows = [
        ((row + (row % 4 == 0) * (1 + row % 8 // 4)) % 3 + 1, list(sure[row % 3]))
        for row in range(600)
    ]
    told, learning = (
        judge(wrong_rate=WrongRate(0.05)).learning_from_records([part(rows)], 600, is_rate_given)
        for is_rate_given in (True, False)
    )
    assert told.wrong_rate == WrongRate(0.05)
    assert learning.wrong_rate.is_learned
    assert learning.wrong_rate.low is not None
    assert learning.wrong_rate.low > 0.15


def test_a_count_is_suggested_where_it_is_certain_whatever_the_budget() -> None:
    unsure = [0.0, 0.4, 0.6]
    nearly, sure = [0.0, 0.1, 0.9], [0.0, 0.001, 0.999]
    rows = [(2, unsure), (2, nearly), (2, sure)] * 4
    for by in (
        judge(costs=None, review_budget=0.0, wrong_rate=WrongRate(0.3)),
        judge(costs=None, review_budget=0.25, wrong_rate=WrongRate(0.3)),
        judge(costs=Costs(1, 9), wrong_rate=WrongRate(0.3)),  # a check never pays
    ):
        found = verdicts([part(rows)], by)
        assert {verdict.decision for verdict in found[0::3]} <= {OK, CHECK}
        assert {verdict.decision for verdict in found[1::3]} <= {OK, CHECK}
        assert {verdict.decision for verdict in found[2::3]} == {WRONG}
        assert found[2].suggested == 3
        assert found[2].reason == "the bin holds another count with a probability of 99.7%"


def test_of_many_bins_a_sample_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(1 if row % 4 == 0 else 3, [0.4, 0.2, 0.4]) for row in range(2000)]
    monkeypatch.setattr(audit_verdicts, "MOST_LEARNED", 500)
    sampled = judge().learning_from_records([part(rows)], len(rows), is_rate_given=False)
    first_of_four = [part(rows[::4])]
    monkeypatch.setattr(audit_verdicts, "MOST_LEARNED", 2000)
    assert sampled == judge().learning_from_records(first_of_four, 500, is_rate_given=False)


def test_a_person_sees_first_what_saves_most() -> None:
    decision = [OK, CHECK, CHECK, "", WRONG, OK]
    saving = np.array([0.0, 2.0, np.nan, np.nan, 5.0, 0.0])
    suspicion = np.array([0.01, 0.3, np.nan, np.nan, 0.9, 0.04])
    assert checking_order(decision, saving, suspicion).tolist() == [4, 1, 2, 3, 5, 0]
