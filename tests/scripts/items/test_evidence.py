import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from items.evidence import (
    BELIEVED,
    MOST_CONTENTS,
    NO_ITEMS,
    Powers,
    RecordedItems,
    counts_with_items,
    fit_powers,
    item_evidence,
    missing_items,
    possible_contents,
    recorded_items,
    usual_items,
)
from items.sizes import SIZES
from usual_items import USUAL

COUNTS = (1, 2, 3)
MAX_DISTINCT = 3
# Two small items alike, and a large one.
RECORD = RecordedItems((2, 1), (10.0, 100.0), (0.5, 2.0))
INDEPENDENT = Powers(1.0, 1.0, 1.0, 1.0)


def answers(volume: float, weight: float, distinct: list[float], spread: float = 0.5) -> np.ndarray:
    """Return what item heads say of one photo, (1, 2 * len(SIZES) + MAX_DISTINCT)."""
    means = {"volume": volume, "largest": 3.0, "smallest": 2.0, "weight": weight}
    told = [means[name] for name in SIZES] + [math.log(spread)] * len(SIZES)
    return np.array([told + np.log(distinct).tolist()])


def density(value: float, mean: float, spread: float) -> float:
    return math.exp(-(((value - mean) / spread) ** 2) / 2) / spread


def test_a_bin_holds_the_record_or_some_of_it_or_more() -> None:
    assert possible_contents(RECORD, 3, USUAL).sizes.tolist() == [[120, 3, 2]]
    assert sorted(possible_contents(RECORD, 2, USUAL).sizes.tolist()) == [
        [20, 1, 1],
        [110, 2.5, 2],
        [110, 2.5, 2],
    ]
    more = possible_contents(replace(RECORD, quantities=(1, 1)), 3, USUAL).sizes
    assert sorted(more[:, 0]) == pytest.approx([110 + volume for volume in USUAL.volumes])
    assert (more[:, 2] == 3).all()
    assert possible_contents(NO_ITEMS, 2, USUAL).sizes.shape == (0, 3)


def test_evidence_is_how_much_likelier_the_photo_makes_these_sizes_than_they_are() -> None:
    told = answers(4.7, 0.9, [0.2, 0.7, 0.1])
    probabilities = np.array([[0.5, 0.3, 0.2]])
    found = counts_with_items(probabilities, item_evidence(told, [RECORD], USUAL), INDEPENDENT)
    expected = []
    for column, count in enumerate(COUNTS):
        ratios = []
        for volume, weight, distinct in possible_contents(RECORD, count, USUAL).sizes:
            ratio = 1.0
            for which, (size, mean) in enumerate(((volume, 4.7), (weight, 0.9))):
                usual = (USUAL.means[column][which], USUAL.spreads[column][which])
                ratio *= density(math.log(size), mean, 0.5) / density(math.log(size), *usual)
            number = int(distinct) - 1
            ratios.append(ratio * [0.2, 0.7, 0.1][number] / USUAL.distinct[column][number])
        expected.append(probabilities[0, column] * np.mean(ratios))
    assert found[0] == pytest.approx(np.array(expected) / np.sum(expected))


def test_a_bin_that_looks_emptier_than_its_record_lacks_something() -> None:
    probabilities = np.array([[0.02, 0.49, 0.49]])  # the count is silent

    def found(volume: float) -> list[float]:
        told = answers(math.log(volume), 0.5, [1 / 3] * 3, spread=0.2)
        evidence = item_evidence(told, [RECORD], USUAL)
        return counts_with_items(probabilities, evidence, BELIEVED)[0].tolist()

    # All three; without the large one; with a larger one.
    assert found(120)[2] > 0.5
    assert found(20)[1] > 0.9
    assert found(120)[2] > found(80)[2] > found(20)[2]


def test_a_record_that_tells_nothing_changes_nothing() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2]])
    told = answers(4.7, 0.9, [0.2, 0.7, 0.1])
    evidence = item_evidence(told, [NO_ITEMS], USUAL)
    assert counts_with_items(probabilities, evidence, BELIEVED) == pytest.approx(probabilities)
    # Where sizes are not known, the number of distinct items is all there is.
    unknown = RecordedItems((3,), (math.nan,), (math.nan,))
    volumes, weights, distinct = np.moveaxis(
        item_evidence(told, [unknown], USUAL).logarithms[0], 2, 0
    )
    assert set(volumes[~np.isnan(volumes)]) == set(weights[~np.isnan(weights)]) == {0.0}
    assert distinct[2, 0] == pytest.approx(math.log(0.2 / USUAL.distinct[2][0]))


def test_the_items_that_are_missing_are_those_of_the_contents_that_the_photo_speaks_for() -> None:
    # By its volume the large item is gone; by its number two are left.
    told = answers(math.log(20), 0.0, [0.9, 0.05, 0.05], spread=0.1)[0]
    fewer = np.array([0.1, 0.7, 0.2])
    small, large = missing_items(told, RECORD, fewer, USUAL, INDEPENDENT)
    assert large > 0.75
    # Of a single item that is left it must be a small one: then one such is gone, too.
    assert small == pytest.approx(0.1, abs=0.02)
    # Nobody who is sure of the record misses anything.
    assert missing_items(told, RECORD, np.eye(3)[2], USUAL, INDEPENDENT).tolist() == [0, 0]
    assert missing_items(told, NO_ITEMS, fewer, USUAL, INDEPENDENT).shape == (0,)


def test_an_empty_bin_has_no_sizes_and_is_as_likely_as_the_photo_says() -> None:
    records = drawn_records(300)
    usual = usual_items(records, (0, 1, 2), MAX_DISTINCT)
    assert usual is not None
    evidence = item_evidence(answers(4.7, 0.9, [0.2, 0.7, 0.1]), [RECORD], usual)
    assert set(evidence.logarithms[0, 0][~np.isnan(evidence.logarithms[0, 0])]) == {0.0}
    found = counts_with_items(np.array([[0.0, 0.5, 0.5]]), evidence, BELIEVED)
    assert found[0, 0] < 1e-6


@given(
    st.lists(
        st.tuples(
            st.integers(1, 30), st.floats(0.05, 8000) | st.none(), st.floats(0.001, 100) | st.none()
        ),
        max_size=8,
    ),
    st.floats(-2, 12),
)
def test_whatever_a_record_names_the_answer_is_a_distribution(
    items: list[tuple[int, float | None, float | None]], volume: float
) -> None:
    columns = [list(column) for column in zip(*items, strict=True)] if items else [[], [], []]
    record = recorded_items(sum(columns[0]), *columns)
    evidence = item_evidence(answers(volume, 0.9, [0.2, 0.7, 0.1]), [record], USUAL)
    found = counts_with_items(np.array([[0.5, 0.5, 0.0]]), evidence, BELIEVED)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()


def test_lists_of_another_length_and_items_of_which_there_are_none_tell_nothing() -> None:
    record = recorded_items(3, [2, 0, 1], [3.0, 9.0, None], [1.0])
    assert record.quantities == (2, 1)
    assert record.volumes[0] == 3
    assert np.isnan([record.volumes[1], *record.weights]).all()
    assert recorded_items(2, None, None, None) == NO_ITEMS


@pytest.mark.parametrize("quantities", [[1, None], [1, 2], [3, -1], [2**31 - 1, 2]])
def test_quantities_that_are_not_those_of_the_count_tell_nothing(
    quantities: list[int | None],
) -> None:
    assert recorded_items(2, quantities, [1.0, 1.0], [1.0, 1.0]) == NO_ITEMS


def drawn_records(num_records: int) -> list[RecordedItems]:
    generator = np.random.default_rng(0)
    records = []
    for _ in range(num_records):
        num_distinct = int(generator.integers(1, 4))
        volumes = generator.lognormal(4, 1, num_distinct)
        records.append(RecordedItems((1,) * num_distinct, tuple(volumes), tuple(volumes / 50)))
    return records


def test_what_is_usual_is_what_records_have() -> None:
    records = drawn_records(3000)
    usual = usual_items(records, COUNTS, MAX_DISTINCT)
    assert usual is not None
    totals = [np.log(sum(r.volumes)) for r in records if len(r.volumes) == 2]
    assert usual.means[1][0] == pytest.approx(np.mean(totals))
    assert usual.spreads[1][0] == pytest.approx(np.std(totals))
    assert usual.distinct[2][2] > 0.99  # three, all of which differ
    assert np.sum(usual.distinct, axis=1) == pytest.approx(1)
    assert list(usual.volumes) == sorted(usual.volumes)
    assert math.log(usual.volumes[MOST_CONTENTS // 2]) == pytest.approx(4, abs=0.1)
    # Too few, or none that tell a size.
    assert usual_items([r for r in records if len(r.volumes) < 3], COUNTS, MAX_DISTINCT) is None
    silent = [replace(record, volumes=(math.nan,) * len(record.volumes)) for record in records]
    assert usual_items(silent, COUNTS, MAX_DISTINCT) is None


@pytest.mark.parametrize("shows_volume", [True, False])
def test_powers_follow_what_the_witnesses_are_worth(shows_volume: bool) -> None:
    records = drawn_records(1300)
    usual = usual_items(records, COUNTS, MAX_DISTINCT)
    assert usual is not None
    generator = np.random.default_rng(1)
    own = records[:600]
    # Wrong are those of another number.
    other = [
        next(r for r in records[600 + row :] if len(r.volumes) != len(record.volumes))
        for row, record in enumerate(own)
    ]
    told = np.concatenate(
        [
            answers(
                math.log(sum(record.volumes)) if shows_volume else generator.normal(4.5, 1),
                generator.normal(0, 1),
                [1 / 3] * 3,
                spread=0.2,
            )
            for record in own
        ]
    )
    held_against = [*own, *other]
    evidence = item_evidence(np.concatenate([told, told]), held_against, usual)
    given_powers = (
        np.full((1200, 3), 1 / 3),
        evidence,
        evidence.recorded,
        np.arange(1200) < 600,
        (np.ones((3, 3)) - np.eye(3)) / 2,
    )
    powers = fit_powers(*given_powers)
    assert powers.weight < 0.1  # noise
    assert powers.volume > 0.3 if shows_volume else powers.volume < 0.1
    assert powers.record == pytest.approx(1, abs=0.3)


def test_as_many_records_are_said_to_be_right_as_are() -> None:
    """Without their own factor, right records would be doubted too little, or too much."""
    generator = np.random.default_rng(2)
    records = drawn_records(800)
    usual = usual_items(records, COUNTS, MAX_DISTINCT)
    assert usual is not None
    told = np.concatenate(
        [
            answers(math.log(sum(r.volumes)) + generator.normal(0, 0.5), 0.9, [1 / 3] * 3)
            for r in records
        ]
    )
    held_against = [*records, *records[1:], records[0]]
    is_right = np.arange(1600) < 800
    evidence = item_evidence(np.concatenate([told, told]), held_against, usual)
    photos = np.full((1600, 3), 1 / 3)
    wrong_records = (np.ones((3, 3)) - np.eye(3)) / 2
    powers = fit_powers(photos, evidence, evidence.recorded, is_right, wrong_records)
    likely = counts_with_items(photos, evidence, powers)
    right = likely[np.arange(1600), evidence.recorded]
    wrong = (likely * wrong_records[:, evidence.recorded].T).sum(axis=1)
    assert (right / (right + wrong)).mean() == pytest.approx(0.5, abs=0.02)
