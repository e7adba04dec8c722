from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from auditing import verdicts as audit_verdicts
from auditing.checked_bins import CheckedBins
from auditing.decisions import CHECK, OK, WRONG, Costs
from auditing.parts import Part
from auditing.verdicts import Judge, Verdict, checking_order
from auditing.visits_of_bins import SeenVisits, order_of_visits
from auditing.wrong_rate import WrongRate
from visits.chain import ChainWeights
from visits.error_model import ErrorModel
from visits.settings import ChangeSettings, VisitModel

COUNTS = (1, 2, 3)


def part(rows: list[tuple[int, list[float]]], first: int = 0) -> Part:
    """Return bins of expected quantity and probabilities; without probabilities, with a problem."""
    probabilities = np.array([p or [np.nan] * 3 for _, p in rows]).reshape(-1, 3)
    return Part(
        first=first,
        ids=[str(first + row) for row in range(len(rows))],
        recorded=[str(expected) for expected, _ in rows],
        expected=np.array([expected for expected, _ in rows]),
        problem=["" if probabilities else "no photo" for _, probabilities in rows],
        note=["" for _ in rows],
        items=[[] for _ in rows],
        probabilities=probabilities,
        with_items=probabilities,
        item_answers=None,
        compared=np.full(len(rows), -1),
        changes=np.full((len(rows), 5), np.nan),
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


def knowing(
    rows: list[tuple[int, list[float]]], by: Judge, changes: list[float] | None = None
) -> list[Verdict]:
    """Return the verdicts about rows of which the first three show one bin, in their order."""
    answers = np.full((len(rows), 5), np.nan)
    compared = np.full(len(rows), -1)
    if changes is not None:
        answers[1:3], compared[1:3] = changes, [0, 1]
    probabilities = np.array([p or [np.nan] * 3 for _, p in rows])
    ids = pa.array([str(row) for row in range(len(rows))], pa.large_string())
    order = order_of_visits("123" + "9" * (len(rows) - 3), ["a"] * 3 + [None] * (len(rows) - 3))
    weights = ChainWeights(photo=0.5, change=1.0, usual=0.2)
    settings = ChangeSettings(COUNTS, 8, learned_rate=0.2, unchanged_rate=0.2, weights=weights)
    by = by.knowing_visits(
        SeenVisits(probabilities, compared, answers, ids),
        np.array([expected for expected, _ in rows]),
        order,
        VisitModel(ErrorModel(), settings),
        None,
    )
    return verdicts([part(rows[:2]), part(rows[2:], first=2)], by)


SAME = [0.02, 0.03, 0.9, 0.03, 0.02]  # what two photos say


def test_visits_of_a_bin_are_judged_together_and_others_as_before() -> None:
    rows = [(2, AGREES), (2, AGREES), (3, DOUBTFUL), (3, DOUBTFUL), (2, DIFFERS)]
    alone = verdicts([part(rows)], judge())
    together = knowing(rows, judge(), SAME)
    # The photos say that nothing changed, so that the bin holds two as before, whatever is written.
    assert together[2].wrong_probability > alone[2].wrong_probability + 0.2
    assert together[0].reason == "the photos and records of its visits agree well enough"
    assert together[3:] == alone[3:]
    assert [near and near.id for near in (v.neighbour for v in together)] == [
        *("1", "0", "1"),
        *(None, None),
    ]
    assert together[2].cells()[10:12] == ["1", "0"]
    assert together[3].cells()[10:] == [""] * 7


def test_a_bin_that_was_counted_is_known_and_so_is_what_follows_from_it() -> None:
    rows = [(2, DOUBTFUL), (2, DOUBTFUL), (3, DOUBTFUL), (2, AGREES), (1, AGREES), (7, []), (2, [])]
    by_hand = CheckedBins(counts={0: 1, 3: 2, 4: 2, 5: 7, 6: 3})
    for by in (judge(), judge(costs=None, review_budget=0.5), judge(costs=Costs(1, 0))):
        before, after = knowing(rows, by, SAME), knowing(rows, replace(by, by_hand=by_hand), SAME)
        assert [verdict.decision for verdict in after[3:]] == [OK, WRONG, OK, WRONG]
        assert [verdict.suggested for verdict in after[3:]] == [None, 2, None, 3]
        assert after[4].reason == "counted by hand: 2"
        assert after[0].decision == WRONG
        assert [after[row].wrong_probability for row in (0, 3, 4)] == [1, 0, 1]
        assert after[4].saving == (by.costs or Costs(1, 0)).missed_error
        # Later visits look like the first one, which holds one: so neither two nor three is right,
        # and the less is known of that, the further away it is.
        risen = [after[row].wrong_probability - before[row].wrong_probability for row in (1, 2)]
        assert risen[0] > 0.1
        assert risen[0] > risen[1] > 0.03


def test_a_count_that_the_model_does_not_know_parts_a_bins_visits() -> None:
    rows = [(2, AGREES), (2, DOUBTFUL), (2, DOUBTFUL)]
    by = replace(judge(), by_hand=CheckedBins(counts={1: 9}))
    first, counted, last = knowing(rows, by, SAME)
    assert (counted.decision, counted.suggested, counted.neighbour) == (WRONG, 9, None)
    # They follow each other now, and nobody compared their photos.
    assert first.neighbour is not None
    assert last.neighbour is not None
    assert (first.neighbour.id, last.neighbour.id, last.neighbour.change) == ("2", "0", None)


def test_a_record_that_a_person_found_wrong_is_wrong_whatever_the_photo_shows() -> None:
    sure = [0.0, 1.0, 0.0]
    rows = [(2, AGREES), (2, AGREES), (2, AGREES), (2, AGREES), (2, sure)]
    by_hand = CheckedBins(refuted={1: 2, 3: 2, 4: 2})
    for by in (judge(), judge(costs=None, review_budget=0.0)):
        found = knowing(rows, replace(by, by_hand=by_hand), SAME)
        for row in (1, 3, 4):
            assert found[row].wrong_probability == pytest.approx(1, abs=1e-6)
            assert found[row].decision == CHECK
            assert found[row].reason.endswith("found wrong by hand, and not counted")


def test_a_record_that_was_corrected_since_a_person_found_it_wrong_is_judged_as_any_other() -> None:
    rows = [(2, AGREES), (2, AGREES)]
    (_, plain) = verdicts([part(rows)], judge())
    (_, marked) = verdicts([part(rows)], replace(judge(), by_hand=CheckedBins(refuted={1: 3})))
    assert marked.decision == OK
    assert "found wrong" not in marked.reason
    assert 0 < marked.wrong_probability < plain.wrong_probability  # one count less that it may be


def test_a_row_that_has_no_place_among_its_bins_visits_says_so() -> None:
    by = replace(judge(), visit_faults={0: "visit 'x' is no number"})
    first, second = verdicts([part([(2, AGREES), (2, AGREES)])], by)
    assert first.reason.endswith("; visit 'x' is no number: judged without its other visits")
    assert first.decision == second.decision == OK


def test_a_person_sees_first_what_saves_most() -> None:
    decision = [OK, CHECK, CHECK, "", WRONG, OK]
    saving = np.array([0.0, 2.0, np.nan, np.nan, 5.0, 0.0])
    suspicion = np.array([0.01, 0.3, np.nan, np.nan, 0.9, 0.04])
    assert checking_order(decision, saving, suspicion).tolist() == [4, 1, 2, 3, 5, 0]
    assert checking_order(decision, saving, suspicion, {4: 2}).tolist() == [1, 2, 3, 5, 0, 4]


def test_no_bin_is_chosen_to_learn_from_of_which_a_visit_is_checked_anyway() -> None:
    # The first two rows show one bin, as the next two do; the last is alone.
    rows = [(9, AGREES), (2, DOUBTFUL), (2, DOUBTFUL), (3, DOUBTFUL), (1, DOUBTFUL)]
    bins = np.array([0, 0, 1, 1, 2])
    checked = np.zeros(4, dtype=bool)
    by = judge(costs=None, review_budget=0.0)
    assert by.choosing_to_learn([part(rows)], checked, bins, 9).to_learn_from in (
        frozenset({2, 4}),
        frozenset({3, 4}),
    )
    refuted = replace(by, by_hand=CheckedBins(refuted={2: 2}))
    assert refuted.choosing_to_learn([part(rows)], checked, bins, 9).to_learn_from == {4}
