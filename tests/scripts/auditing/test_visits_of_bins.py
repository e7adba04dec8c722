from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from auditing import visits_of_bins
from auditing.visits_of_bins import (
    SeenVisits,
    VisitColumns,
    VisitOrder,
    chains_at_once,
    earlier_visits,
    evidence_of_visits,
    order_of_visits,
    visit_summary,
    visits_text,
)
from visits.chain import ChainWeights, Visits, visit_posteriors
from visits.error_model import ErrorModel
from visits.settings import ChangeSettings, VisitModel

COUNTS = (1, 2, 3)
SETTINGS = ChangeSettings(
    COUNTS, 8, learned_rate=0.3, unchanged_rate=0.1, weights=ChainWeights(0.6, 0.7, 0.2)
)
MODEL = VisitModel(ErrorModel({(1, 2): 30, (2, 3): 10}), SETTINGS)


def test_the_visits_of_a_bin_follow_each_other_wherever_their_rows_are() -> None:
    order = order_of_visits(["9", "3", "10", "5", "2", "1"], ["a", "b", "a", None, "b", "c"])
    everything = np.ones(6, dtype=bool)
    assert order.steps(everything).tolist() == [[0, 2], [4, 1]]
    assert earlier_visits(order.steps(everything), 6).tolist() == [-1, 4, 0, -1, -1, -1]


def test_visits_that_are_left_out_are_stepped_over() -> None:
    order = order_of_visits([str(k) for k in range(1, 8)], list("aaaabba"))
    taken = np.array([True, False, False, True, True, False, True])
    assert order.steps(taken).tolist() == [[0, 3], [3, 6]]
    assert order.steps(np.zeros(7, dtype=bool)).tolist() == []


def ordered(bins: list[str], visits: list[str] | None) -> tuple[VisitOrder, dict[int, str]]:
    """Return the order of a table's rows; visits: None where there is no such column."""
    columns = VisitColumns(is_numbered=visits is not None)
    for name, visit in zip(bins, visits or [""] * len(bins), strict=True):
        columns.add(name, visit)
    return columns.order()


def test_a_table_orders_visits_by_number_and_names_what_it_cannot_place() -> None:
    bins = ["A", "A", "A", "B", "B", "B", "", "", "C", "A"]
    visits = ["10", "9", "two", "1", "1.0", "3", "", "5", "7", "20261129170000"]
    order, faults = ordered(bins, visits)
    assert order.steps(np.ones(10, dtype=bool)).tolist() == [[1, 0], [0, 9]]
    assert faults == {
        2: "visit 'two' is not a whole number from 0 on",
        3: "the bin 'B' has more than one visit 1",
        4: "the bin 'B' has more than one visit 1",
        7: "visit '5' is of no bin",
    }


def test_a_bin_that_is_there_twice_needs_numbers() -> None:
    order, faults = ordered(["A", "", "B", ""], None)
    assert (order.steps(np.ones(4, dtype=bool)).tolist(), faults) == ([], {})
    with pytest.raises(
        ValueError, match="the bin 'A' is there more than once: a column visit must"
    ):
        ordered(["A", "B", "A"], None)


def drawn(
    lengths: Sequence[int], seed: int = 0
) -> tuple[SeenVisits, np.ndarray, np.ndarray, np.ndarray]:
    """Return what photos say of bins with so many visits, their steps, records and likelihoods."""
    generator = np.random.default_rng(seed)
    num_rows = sum(lengths)
    rows = generator.permutation(num_rows)
    ids, groups = [""] * num_rows, [""] * num_rows
    for name, of_bin in enumerate(np.split(rows, np.cumsum(lengths)[:-1])):
        for place, row in enumerate(of_bin.tolist()):
            ids[row], groups[row] = str(place), str(name)
    steps = order_of_visits(ids, groups).steps(np.ones(num_rows, dtype=bool))
    answers = np.full((num_rows, 5), np.nan)
    answers[steps[:, 1]] = generator.dirichlet(np.ones(5), len(steps))
    seen = SeenVisits(
        generator.dirichlet(np.ones(3), num_rows),
        earlier_visits(steps, num_rows),
        answers,
        pa.array([f"id{row}" for row in range(num_rows)], pa.large_string()),
    )
    return seen, steps, generator.integers(1, 4, num_rows), generator.random((num_rows, 3)) + 0.1


def test_chains_computed_a_few_at_a_time_say_what_they_say_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(visits_of_bins, "MOST_AT_ONCE", 12)
    lengths = [1, 2, 2, 9, 3, 1, 2, 40, 5, 2, 2, 3]
    seen, steps, recorded, records = drawn(lengths)
    groups = list(chains_at_once(steps))
    assert len(groups) > 4
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(steps)))
    found = evidence_of_visits(
        seen, steps, recorded, seen.probabilities, records, MODEL, COUNTS, None
    )
    changes = MODEL.changes(seen.answers[steps[:, 1]])
    visits = Visits(seen.probabilities, steps, changes, COUNTS)
    together = visit_posteriors(visits, MODEL.weights, MODEL.usual(COUNTS), records)
    in_steps = np.unique(steps)
    assert found.posteriors[in_steps] == pytest.approx(together[in_steps])
    alone = np.setdiff1d(np.arange(sum(lengths)), in_steps)
    assert len(alone) == 2
    assert np.isnan(found.posteriors[alone]).all()


def test_evidence_is_of_the_visit_before_and_of_a_first_visit_the_one_after() -> None:
    seen, _, recorded, records = drawn([3])
    steps = np.array([[0, 1], [1, 2]])
    answers = np.full((3, 5), np.nan)
    answers[1] = [0.7, 0.1, 0.0, 0.1, 0.1]  # two fewer than at row 0
    answers[2] = [0.0, 0.1, 0.1, 0.2, 0.6]  # two more than at row 1
    seen = SeenVisits(seen.probabilities, np.array([-1, 0, 1]), answers, seen.ids)
    found = evidence_of_visits(
        seen, steps, recorded, seen.probabilities, records, MODEL, COUNTS, None
    )
    first, second, third = (found.neighbour_of(row) for row in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.id, first.is_before, first.change) == ("id1", False, 2)
    assert (second.id, second.is_before, second.change) == ("id0", True, -2)
    assert (third.id, third.is_before, third.change) == ("id1", True, 2)
    assert first.probability == second.probability == pytest.approx(0.7, abs=0.1)


def test_photos_say_nothing_of_a_step_that_was_not_compared() -> None:
    seen, _, recorded, records = drawn([3])
    # Row 1 is left out, and row 2 was compared with it.
    seen = SeenVisits(seen.probabilities, np.array([-1, 0, 1]), seen.answers, seen.ids)
    found = evidence_of_visits(
        seen, np.array([[0, 2]]), recorded, seen.probabilities, records, MODEL, COUNTS, None
    )
    near = found.neighbour_of(2)
    assert near is not None
    assert (near.id, near.change) == ("id0", None)
    assert np.isnan(near.probability)
    assert found.num_compared == 0
    without = visit_posteriors(
        Visits(seen.probabilities, np.array([[0, 2]]), np.full((1, 5), np.nan), COUNTS),
        MODEL.weights,
        MODEL.usual(COUNTS),
        records,
    )
    assert found.posteriors[[0, 2]] == pytest.approx(without[[0, 2]])


def test_a_model_without_a_head_takes_equal_records_for_rare_and_not_for_impossible() -> None:
    seen, steps, recorded, _ = drawn([2])
    seen = SeenVisits(np.full((2, 3), 1 / 3), np.full(2, -1), np.full((2, 5), np.nan), seen.ids)
    # Both records say 2, and are right with 95 %.
    records = np.tile([0.025, 0.95, 0.025], (2, 1))

    def of_two(pairs: dict[tuple[int, int], int], rate: float | None) -> float:
        model = VisitModel(ErrorModel(pairs))
        found = evidence_of_visits(
            seen, steps, recorded, seen.probabilities, records, model, COUNTS, rate
        )
        return float(found.posteriors[0, 1])

    known, few, many = of_two({}, 0.9), of_two({}, None), of_two({(1, 2): 900, (2, 3): 900}, None)
    assert known > few > many > 0.1


def test_equal_records_are_reported_unless_the_rate_is_known() -> None:
    seen, steps, _, records = drawn([2, 2])
    equal = np.array([1, 1, 1, 1])
    evidence = evidence_of_visits(
        seen, steps, equal, seen.probabilities, records, MODEL, COUNTS, None
    )
    text = visits_text(visit_summary(evidence, MODEL, None))
    assert "Nothing changed in 10.0% of the steps, says the model." in text
    assert "Of their records 100.0% are equal" in text
    assert "give --unchanged_rate" in text
    known = visits_text(visit_summary(evidence, MODEL, 0.6))
    assert "Nothing changed in 60.0% of the steps, as given." in known
    assert "equal" not in known
