import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from items.evidence import (
    BELIEVED,
    MOST_CONTENTS,
    Powers,
    RecordedItems,
    UsualItems,
    counts_with_items,
    fit_powers,
    possible_contents,
    recorded_items,
    usual_items,
    witness_logarithms,
)
from items.sizes import SIZES

COUNTS = (1, 2, 3)
MAX_DISTINCT = 3
USUAL = UsualItems(
    counts=COUNTS,
    means=((4.0, 0.0), (4.5, 0.5), (5.0, 1.0)),
    spreads=((1.0, 1.0), (0.9, 0.8), (0.8, 0.6)),
    distinct=((0.9, 0.05, 0.05), (0.3, 0.6, 0.1), (0.2, 0.3, 0.5)),
    volumes=tuple(np.geomspace(5, 500, MOST_CONTENTS).tolist()),
    weights=tuple(np.geomspace(0.1, 5, MOST_CONTENTS).tolist()),
)
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
    assert possible_contents(RECORD, 3, USUAL).tolist() == [[120, 3, 2]]
    assert sorted(possible_contents(RECORD, 2, USUAL).tolist()) == [
        [20, 1, 1],
        [110, 2.5, 2],
        [110, 2.5, 2],
    ]
    more = possible_contents(replace(RECORD, quantities=(1, 1)), 3, USUAL)
    assert sorted(more[:, 0]) == pytest.approx([110 + volume for volume in USUAL.volumes])
    assert (more[:, 2] == 3).all()
    assert possible_contents(RecordedItems((), (), ()), 2, USUAL).shape == (0, 3)


def test_evidence_is_how_much_likelier_the_photo_makes_these_sizes_than_they_are() -> None:
    told = answers(4.7, 0.9, [0.2, 0.7, 0.1])
    probabilities = np.array([[0.5, 0.3, 0.2]])
    found = counts_with_items(probabilities, witness_logarithms(told, [RECORD], USUAL), INDEPENDENT)
    expected = []
    for column, count in enumerate(COUNTS):
        ratios = []
        for volume, weight, distinct in possible_contents(RECORD, count, USUAL):
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
        logarithms = witness_logarithms(told, [RECORD], USUAL)
        return counts_with_items(probabilities, logarithms, BELIEVED)[0].tolist()

    # All three; without the large one; with a larger one.
    assert found(120)[2] > 0.5
    assert found(20)[1] > 0.9
    assert found(120)[2] > found(80)[2] > found(20)[2]


def test_a_record_that_tells_nothing_changes_nothing() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2]])
    told = answers(4.7, 0.9, [0.2, 0.7, 0.1])
    logarithms = witness_logarithms(told, [RecordedItems((), (), ())], USUAL)
    assert counts_with_items(probabilities, logarithms, BELIEVED) == pytest.approx(probabilities)
    # Where sizes are not known, the number of distinct items is all there is.
    unknown = RecordedItems((3,), (math.nan,), (math.nan,))
    volumes, weights, distinct = np.moveaxis(witness_logarithms(told, [unknown], USUAL)[0], 2, 0)
    assert set(volumes[~np.isnan(volumes)]) == set(weights[~np.isnan(weights)]) == {0.0}
    assert distinct[2, 0] == pytest.approx(math.log(0.2 / USUAL.distinct[2][0]))


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
    logarithms = witness_logarithms(answers(volume, 0.9, [0.2, 0.7, 0.1]), [record], USUAL)
    found = counts_with_items(np.array([[0.5, 0.5, 0.0]]), logarithms, BELIEVED)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()


def test_lists_of_another_length_and_items_of_which_there_are_none_tell_nothing() -> None:
    record = recorded_items(3, [2, 0, 1], [3.0, 9.0, None], [1.0])
    assert record.quantities == (2, 1)
    assert record.volumes[0] == 3
    assert np.isnan([record.volumes[1], *record.weights]).all()
    assert recorded_items(2, None, None, None) == RecordedItems((), (), ())


@pytest.mark.parametrize("quantities", [[1, None], [1, 2], [3, -1], [2**31 - 1, 2]])
def test_quantities_that_are_not_those_of_the_count_tell_nothing(
    quantities: list[int | None],
) -> None:
    assert recorded_items(2, quantities, [1.0, 1.0], [1.0, 1.0]) == RecordedItems((), (), ())


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
    logarithms = witness_logarithms(np.concatenate([told, told]), held_against, usual)
    recorded = np.array([len(record.volumes) - 1 for record in held_against])
    given_powers = (
        np.full((1200, 3), 1 / 3),
        recorded,
        logarithms,
        np.arange(1200) < 600,
        (np.ones((3, 3)) - np.eye(3)) / 2,
    )
    powers = fit_powers(*given_powers)
    assert powers.weight < 0.1  # noise
    assert powers.volume > 0.3 if shows_volume else powers.volume < 0.1
