"""What data_prep counts as two visits of a bin, training, audits and endpoints take for such."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from catalog.bin_visits import neighbouring_visits
from visits.neighbours import visit_steps

IDS = st.one_of(
    st.integers(0, 120).map(str),
    st.integers(0, 99).map("{:05d}".format),
    st.sampled_from(["x", "1a", "-3", "²"]),
)


@given(st.lists(st.tuples(IDS, st.sampled_from("abc")), unique_by=lambda row: row[0]))
def test_both_find_the_same_neighbours(rows: list[tuple[str, str]]) -> None:
    ids, groups = [row[0] for row in rows], [row[1] for row in rows]
    arrays = [pa.chunked_array([pa.array(values, pa.string())]) for values in (ids, groups)]
    counted = neighbouring_visits(*arrays)
    assert sorted(visit_steps(ids, list(groups)).tolist()) == sorted(counted.tolist())
