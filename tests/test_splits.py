import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import InputError
from splits import assign_splits, split_fractions

COUNTS_BY_GROUP = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    min_size=1,
    max_size=60,
)


def many_groups(num_groups: int = 2500) -> dict[str, list[int]]:
    generator = random.Random(0)
    return {
        f"{number:05d}": generator.choices(range(1, 6), (11, 22, 26, 23, 18), k=size)
        for number, size in enumerate(generator.choices((1, 2, 3, 9), (5, 3, 2, 1), k=num_groups))
    }


def shares(groups: dict[str, list[int]], split_of: dict[str, str]) -> dict[str, Counter[int]]:
    held: dict[str, Counter[int]] = {}
    for group, counts in groups.items():
        held.setdefault(split_of[group], Counter()).update(counts)
    return held


@pytest.mark.parametrize("seed", range(5))
def test_each_count_has_its_share_in_each_split_within_two_points(seed: int) -> None:
    groups = many_groups()
    fractions = {"train": 0.8, "validation": 0.1, "test": 0.1}
    held = shares(groups, assign_splits(groups, fractions, seed))
    overall = sum(held.values(), Counter())
    for split, counts in held.items():
        assert counts.total() / overall.total() == pytest.approx(fractions[split], abs=0.005)
        for count, number in overall.items():
            share = counts[count] / counts.total()
            assert share == pytest.approx(number / overall.total(), abs=0.02)


@given(COUNTS_BY_GROUP, st.integers(0, 9))
def test_the_splits_depend_on_names_and_seed_not_on_the_order_of_reading(
    groups: dict[str, list[int]], seed: int
) -> None:
    fractions = {"train": 0.6, "test": 0.4}
    reversed_groups = dict(reversed(groups.items()))
    assert assign_splits(groups, fractions, seed) == assign_splits(reversed_groups, fractions, seed)


def test_another_seed_gives_other_splits() -> None:
    groups = many_groups(100)
    fractions = {"train": 0.5, "test": 0.5}
    assert assign_splits(groups, fractions, 1) != assign_splits(groups, fractions, 2)


def test_a_test_fraction_of_one_leaves_only_the_test_split() -> None:
    assert split_fractions(None, 1.0) == {"test": 1.0}
    assert set(assign_splits(many_groups(50), {"test": 1.0}, 0).values()) == {"test"}


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.6), (1.0, 0.1)])
def test_fractions_beyond_one_are_refused(validation: float, test: float) -> None:
    with pytest.raises(InputError, match="exceed 1 together"):
        split_fractions(validation, test)


def test_a_rest_of_rounding_is_no_split() -> None:
    assert set(split_fractions(0.3, 0.7)) == {"validation", "test"}
