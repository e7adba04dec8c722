"""Which photos show a bin one after the other, and what changed between them."""

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.bin_visits import Visits, count_visits, neighbouring_visits

Rows = Sequence[tuple[str, int, str | None]]


def table_of(rows: Rows) -> pa.Table:
    """Return bins, each given as id, count and group."""
    columns = {"id": pa.string(), "count": pa.int32(), "bin_group": pa.string()}
    return pa.Table.from_pylist(
        [dict(zip(columns, row, strict=True)) for row in rows], schema=pa.schema(columns)
    )


def pairs_of(rows: Rows) -> set[tuple[str, str]]:
    bins = table_of(rows)
    pairs = neighbouring_visits(bins["id"], bins["bin_group"])
    return {(rows[earlier][0], rows[later][0]) for earlier, later in pairs.tolist()}


@pytest.mark.parametrize("step", [1, -1])
def test_visits_follow_each_other_in_the_order_of_their_numbers(step: int) -> None:
    rows = [("99998", 1, "99998"), ("99999", 4, "99998"), ("100000", 3, "99998")][::step]
    assert pairs_of(rows) == {("99998", "99999"), ("99999", "100000")}
    assert count_visits(table_of(rows)) == Visits({3: 1}, {3: 1, -1: 1})


def test_the_change_is_what_the_later_visit_has_more() -> None:
    assert count_visits(table_of([("00002", 1, "00001"), ("00001", 5, "00001")])).changes == {-4: 1}


def test_a_photo_that_is_not_there_does_not_part_two_visits() -> None:
    visits = count_visits(table_of([("00001", 2, "00001"), ("00003", 2, "00001")]))
    assert visits.changes == {0: 1}
    assert (visits.num_bins_again, visits.num_pairs) == (1, 1)


def test_bins_that_follow_each_other_have_no_visits_in_common() -> None:
    rows = [("00001", 1, "00001"), ("00002", 2, "00002"), ("00003", 3, "00002")]
    assert pairs_of(rows) == {("00002", "00003")}
    assert count_visits(table_of(rows)).bins == {1: 1, 2: 1}


def test_a_photo_of_no_known_group_is_the_one_visit_of_its_bin() -> None:
    visits = count_visits(table_of([("00001", 1, None), ("00002", 2, None), ("00003", 3, "00003")]))
    assert visits == Visits({1: 3}, {})
    assert visits.num_bins_again == 0


def test_no_bins_have_no_visits() -> None:
    assert count_visits(table_of([])) == Visits({}, {})


BINS = st.dictionaries(
    st.integers(99_980, 100_020).map(lambda number: f"{number:05d}"),
    st.tuples(st.integers(1, 5), st.sampled_from(["99980", "99990", "100000", "100010"])),
)


@given(BINS)
def test_visits_are_what_walking_through_each_group_gives(
    bins: dict[str, tuple[int, str]],
) -> None:
    counts_of: dict[str, list[int]] = {}
    for bin_id in sorted(bins, key=int):
        count, group = bins[bin_id]
        counts_of.setdefault(group, []).append(count)
    visits = count_visits(table_of([(bin_id, *bins[bin_id]) for bin_id in bins]))
    assert visits.bins == Counter(len(counts) for counts in counts_of.values())
    assert visits.changes == Counter(
        counts[place + 1] - counts[place]
        for counts in counts_of.values()
        for place in range(len(counts) - 1)
    )
