import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from items.sizes import SIZES, item_targets


def test_targets_are_logarithms_of_all_items_together_the_largest_and_the_smallest() -> None:
    named = (*SIZES, "distinct")
    targets = dict(zip(named, item_targets([2, 1], [10.0, 300.0], [0.5, 2.0]), strict=True))
    assert targets == pytest.approx(
        {
            "volume": math.log(320),
            "largest": math.log(300),
            "smallest": math.log(10),
            "weight": math.log(3),
            "distinct": 2,
        }
    )


@pytest.mark.parametrize(
    ("volumes", "weights", "missing"),
    [
        ([10.0, None], [1.0, 1.0], ["volume", "largest", "smallest"]),
        ([10.0, 20.0], [None, 1.0], ["weight"]),
        (None, [1.0, 1.0], ["volume", "largest", "smallest"]),
        ([10.0], [1.0, 1.0, 1.0], [*SIZES]),
        ([], [], [*SIZES]),
        (None, None, [*SIZES]),
    ],
)
def test_what_an_item_lacks_is_missing_of_the_bin(
    volumes: list[float | None] | None, weights: list[float | None] | None, missing: list[str]
) -> None:
    *targets, distinct = item_targets([2, 1], volumes, weights)
    assert distinct == 2
    assert [
        name for name, value in zip(SIZES, targets, strict=True) if math.isnan(value)
    ] == missing


@pytest.mark.parametrize("quantities", [None, [], [0], [0, -1], [None, 2]])
def test_of_a_bin_without_items_nothing_is_known(quantities: list[int | None] | None) -> None:
    volumes = None if quantities is None else [5.0] * len(quantities)
    assert np.isnan(item_targets(quantities, volumes, volumes)).all()


def test_items_of_which_there_are_none_do_not_count() -> None:
    assert item_targets([0, 2], [None, 3.0], [9.0, 1.0]) == item_targets([2], [3.0], [1.0])


@given(
    st.lists(
        st.tuples(st.integers(1, 200), st.floats(0.05, 8000.0), st.floats(0.001, 100.0)),
        min_size=1,
        max_size=200,
    )
)
def test_the_order_of_the_items_is_no_matter(items: list[tuple[int, float, float]]) -> None:
    quantities, volumes, weights = (list(column) for column in zip(*items, strict=True))
    targets = item_targets(quantities, volumes, weights)
    backwards = item_targets(quantities[::-1], volumes[::-1], weights[::-1])
    assert targets == pytest.approx(backwards)
    named = dict(zip(SIZES, targets, strict=False))
    assert named["smallest"] <= named["largest"] <= named["volume"] + 1e-9
