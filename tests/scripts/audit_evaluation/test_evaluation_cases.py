from dataclasses import replace

import numpy as np
import pytest

from audit_evaluation.cases import (
    BY_ERROR_MODEL,
    PHOTO,
    RECORDS,
    SINGLE_COUNTS,
    WRONG_SHARE,
    JudgedBins,
    JudgedItems,
    real_changes,
    real_pairs,
    real_pairs_with_visits,
    symmetric_errors,
    symmetric_errors_with_visits,
)
from audit_evaluation.item_cases import real_pairs_with_items
from audit_evaluation.kinds import cases_of
from drawn_visits import COUNTS, drawn_visits
from items.evidence import Powers, RecordedItems, usual_items
from items.settings import ItemSettings
from visits.chain import visit_posteriors
from visits.error_model import ErrorModel
from visits.settings import VisitModel

KNOWS_NOTHING = VisitModel(ErrorModel())


def bins_of(true: list[int], groups: list[str | None]) -> JudgedBins:
    return JudgedBins(
        ids=[str(row) for row in range(len(true))],
        groups=groups,
        true=np.array(true),
        probabilities=np.full((len(true), 5), 0.2),
        counts=COUNTS,
    )


def columns_of(cases_columns: list[np.ndarray]) -> list[list[int]]:
    return [sorted(columns.tolist()) for columns in cases_columns]


def test_a_wrong_record_of_a_pair_is_that_of_the_other_state() -> None:
    bins = bins_of([0, 2, 4, 1, 3, 3], ["1", "1", "1", "7", "8", None])
    cases = real_pairs(bins, KNOWS_NOTHING)
    assert cases.rows.tolist() == [0, 1, 2]
    assert columns_of(cases.wrong_records) == [[2], [0, 4], [2]]


def test_each_photo_is_held_against_the_items_of_both_records() -> None:
    bins = bins_of([0, 1, 1, 2, 4], ["1", "1", "1", "1", None])
    records = [RecordedItems((count,), (10.0,), (1.0,)) for count in (1, 2, 2, 3, 5)]
    all_alike = [RecordedItems((n,), (v,), (v,)) for n in COUNTS for v in (10, 10.2)]
    usual = usual_items(all_alike, COUNTS, 3)
    settings = ItemSettings(max_distinct=3, usual=usual, powers=Powers(1.0, 1.0, 0.0, 0.0))
    answers = np.zeros((5, 11))
    answers[:, 0] = np.log([10, 20, 20, 30, 50])  # what each photo shows, to the inch
    answers[:, 4] = np.log(0.01)
    items = JudgedItems(answers, records, settings)
    cases = real_pairs_with_items(bins, items, KNOWS_NOTHING)
    assert cases.rows.tolist() == [0, 1, 2, 3]
    assert columns_of(cases.wrong_records) == [[1], [0], [2], [1]]
    own = cases.audit.given(bins.true[cases.rows])
    assert own.argmax(axis=1).tolist() == [0, 1, 1, 2]
    wrong = cases.audit.given(np.array([columns[0] for columns in cases.wrong_records]))
    # Ten inches each, whichever of the two records names them.
    assert wrong.argmax(axis=1).tolist() == [0, 1, 1, 2]
    assert np.isnan(cases.audit.given(np.full(4, 4))).all()  # a record that no visit has
    bins = replace(bins, items=items)
    with pytest.raises(ValueError, match="only 4 test photos"):
        cases_of(bins, KNOWS_NOTHING)


def test_symmetric_errors_stay_among_the_counts() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    cases = symmetric_errors(bins, model)
    assert len(cases.rows) == 300
    for row, columns in zip(cases.rows, cases.wrong_records, strict=True):
        true = bins.true[row]
        assert sorted(columns) == [c for c in (true - 1, true + 1) if 0 <= c <= 4]


def test_a_tenth_of_the_records_is_wrong_in_each_draw() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    generator = np.random.default_rng(0)
    for cases in cases_of(bins, model):
        draws = [cases.draw(bins.true, generator) for _ in range(20)]
        for recorded in draws:
            wrong = np.flatnonzero(recorded != bins.true[cases.rows])
            assert len(wrong) == round(WRONG_SHARE * len(cases.rows))
            assert all(recorded[case] in cases.wrong_records[case] for case in wrong)
        assert len({tuple(recorded) for recorded in draws}) == 20


def test_each_two_visits_with_a_change_are_asked_about_both_ways() -> None:
    # The second and third visit of the first bin have one count.
    bins = bins_of([0, 2, 2, 1, 4, 3], ["1", "1", "1", "2", "2", None])
    cases = real_changes(bins, KNOWS_NOTHING)
    assert cases.rows.tolist() == [1, 4, 0, 3]
    # Neither what the bin holds nor what it held at the other visit.
    assert columns_of(cases.wrong_records) == [[1, 3, 4], [0, 2, 3], [1, 3, 4], [0, 2, 3]]


def test_wrong_changes_are_as_frequent_as_real_ones_from_the_count_before() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    cases = real_changes(bins, model)
    usual = model.error_model.record_probabilities(COUNTS)
    assert cases.shares is not None
    for case, row in enumerate(cases.rows):
        other = bins.true[row ^ 1]  # the bins are in pairs
        expected = {c: usual[other, c] for c in range(5) if c not in (other, bins.true[row])}
        assert cases.wrong_records[case].tolist() == list(expected)
        assert cases.shares[case] == pytest.approx(
            [share / sum(expected.values()) for share in expected.values()]
        )
        # And who knows the count before knows this.
        known = cases.audit.record_probabilities[case, bins.true[row]]
        assert known[cases.wrong_records[case]] == pytest.approx(cases.shares[case])


def test_no_record_equals_that_of_a_visit_that_is_known() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    generator = np.random.default_rng(0)
    for cases in (real_changes(bins, model), symmetric_errors_with_visits(bins, model)):
        other = bins.true[cases.rows ^ 1]
        for _ in range(20):
            assert (cases.draw(bins.true, generator) != other).all()
        everybody = np.arange(len(other))
        for name in ("audit", SINGLE_COUNTS, RECORDS):
            known = cases.audit if name == "audit" else cases.rivals[name]
            # Nobody wins by knowing that counts change: all who know the other count do.
            assert (known.probabilities[everybody, other] == 0).all()
            records = known.record_probabilities
            assert (records[everybody, :, other] == 0).all()
            assert records.sum(axis=2) == pytest.approx(np.ones((len(other), 5)))


def test_what_is_known_of_a_visit_is_what_a_chain_says_whose_other_count_is_known() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    settings = model.settings
    assert settings is not None
    cases = real_changes(bins, model)
    records = np.ones((len(bins.true), 5))
    usual = model.usual(COUNTS)
    for known, changes, weights in (
        (cases.audit, bins.changes, settings.weights),
        (cases.rivals[SINGLE_COUNTS], None, settings.weights_without_changes),
    ):
        for later in (True, False):
            given = records.copy()
            others = np.arange(0 if later else 1, len(bins.true), 2)
            given[others] = np.eye(5)[bins.true[others]]
            chain = visit_posteriors(bins.visits(changes), weights, usual, given)
            asked = cases.rows % 2 == later
            expected = chain[cases.rows[asked]]
            assert known.probabilities[asked] == pytest.approx(expected, abs=1e-6)


def test_symmetric_errors_with_visits_pass_over_the_count_of_the_other_visit() -> None:
    bins = bins_of([2, 3, 0, 1, 4, 1], ["1", "1", "2", "2", "3", "3"])
    cases = symmetric_errors_with_visits(bins, KNOWS_NOTHING)
    # Of the second bin's first visit one item off is one more alone, as the other visit found.
    assert cases.rows.tolist() == [1, 3, 5, 0, 4]
    assert columns_of(cases.wrong_records) == [[4], [2], [0, 2], [1], [3]]
    assert len(cases.audit.probabilities) == len(cases.rivals[PHOTO].probabilities) == 5


def test_real_pairs_with_visits_are_the_same_pairs_seen_with_the_bins_other_photos_alone() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    alone, cases = real_pairs(bins, model), real_pairs_with_visits(bins, model)
    draws = [c.draw(bins.true, np.random.default_rng(0)).tolist() for c in (alone, cases)]
    assert draws[0] == draws[1]
    assert (cases.rivals[PHOTO].probabilities == alone.audit.probabilities).all()
    settings = model.settings
    assert settings is not None
    together = visit_posteriors(bins.visits(bins.changes), settings.weights, model.usual(COUNTS))
    assert (cases.audit.probabilities == together[cases.rows]).all()


def test_without_a_head_single_counts_and_usual_changes_are_all_that_the_audit_knows() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    with_head, without = (
        {cases.name: cases for cases in cases_of(given, model)}
        for given in (bins, replace(bins, changes=None))
    )
    assert with_head.keys() == without.keys()
    for name in ("real_changes", "real_pairs_with_visits", "symmetric_errors_with_visits"):
        single = with_head[name].rivals[SINGLE_COUNTS]
        assert SINGLE_COUNTS not in without[name].rivals
        assert (without[name].audit.probabilities == single.probabilities).all()
        assert (with_head[name].audit.probabilities != single.probabilities).any()


def test_a_way_to_be_wrong_that_the_counts_do_not_allow_is_left_out() -> None:
    """With two counts a bin that changed holds the other one: no other change occurs."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1], size=40)
    groups = [str(row // 2) for row in range(40)]
    ids = [f"{row:02d}" for row in range(40)]
    bins = JudgedBins(ids, groups, np.array([0, 1] * 20), probabilities, (1, 2))
    names = [cases.name for cases in cases_of(bins, KNOWS_NOTHING)]
    assert names == ["real_pairs", "symmetric_errors", "real_pairs_with_visits"]


def test_too_few_photos_are_refused() -> None:
    bins, model = drawn_visits(1.0, 0.5, num_pairs=4)
    with pytest.raises(ValueError, match="only 8 test photos can get a record of real_pairs"):
        cases_of(bins, model)


def test_a_change_is_judged_by_the_way_wrong_records_come_about_and_by_the_error_model() -> None:
    bins, model = drawn_visits(1.0, 0.5)
    cases = real_changes(bins, model)
    plain = cases.rivals[BY_ERROR_MODEL]
    assert (plain.probabilities == cases.audit.probabilities).all()
    errors = model.error_model.record_probabilities(COUNTS)
    other = bins.true[cases.rows[0] ^ 1]
    expected = errors[0].copy()
    expected[other] = 0  # no record equals that of the other visit
    assert other != 0
    assert plain.record_probabilities[0, 0] == pytest.approx(expected / expected.sum())
    # The photo alone does not know what the bin held before.
    assert cases.rivals[PHOTO].record_probabilities.shape == (5, 5)


def test_bins_as_chains_say_nothing_of_changes_where_nobody_was_asked() -> None:
    bins, _ = drawn_visits(1.0, 0.5, num_pairs=3)
    visits = bins.visits(None)
    assert visits.steps.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert np.isnan(visits.changes).all()
