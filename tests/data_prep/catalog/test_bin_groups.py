import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.bin_groups import group_bins, neighbouring_ids, next_ids

ASINS = st.lists(st.sampled_from("ABC"), max_size=2)


def follower(bin_id: str) -> str | None:
    return next_ids(pa.array([bin_id])).to_pylist()[0]


def neighbours(bin_id: str) -> set[str]:
    return set(neighbouring_ids(pa.array([bin_id])).to_pylist())


def groups(asins_by_id: dict[str, list[str]]) -> dict[str, str]:
    asins = pa.array(asins_by_id.values(), pa.list_(pa.string()))
    found = group_bins(pa.array(asins_by_id, pa.string()), asins)
    return dict(zip(asins_by_id, found.to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("bin_id", "following"),
    [("00001", "00002"), ("1", "2"), ("9", "10"), ("09999", "10000"), ("99999", "100000")]
    + [("0" * 17 + "9", "0" * 16 + "10")],
)
def test_an_id_is_followed_in_its_own_numbering(bin_id: str, following: str) -> None:
    assert follower(bin_id) == following
    assert following in neighbours(bin_id)
    assert bin_id in neighbours(following)


@pytest.mark.parametrize("bin_id", ["", "abc", "1a", "-1", "²", "٣", "1.0", "1\n", "9" * 19])
def test_an_id_that_is_no_number_has_no_neighbours(bin_id: str) -> None:
    assert follower(bin_id) is None
    assert neighbours(bin_id) == set()


def test_an_id_after_a_change_of_width_follows_two_numberings() -> None:
    assert neighbours("10000") == {"09999", "9999", "10001"}
    assert neighbours("00000") == {"00001"}


@settings(max_examples=30)
@given(st.from_regex("[0-9]{1,18}", fullmatch=True))
def test_neighbours_are_those_that_follow_or_are_followed(bin_id: str) -> None:
    for near in neighbours(bin_id):
        assert near == follower(bin_id) or follower(near) == bin_id
    assert follower(bin_id) in neighbours(bin_id)


def test_consecutive_bins_that_share_an_item_form_one_group_named_after_the_first() -> None:
    found = groups(
        {"00003": ["B", "C"], "00002": ["A", "B"], "00001": ["A"], "00004": ["D"], "00006": ["D"]}
    )
    assert found == {
        "00001": "00001",
        "00002": "00001",
        "00003": "00001",
        "00004": "00004",
        "00006": "00006",
    }


def test_two_numberings_of_the_same_numbers_stay_apart() -> None:
    assert groups({"1": ["A"], "00002": ["A"], "2": ["A"]}) == {
        "1": "1",
        "2": "1",
        "00002": "00002",
    }


def test_runs_that_meet_where_the_width_changes_become_one_group() -> None:
    found = groups({"09999": ["A"], "9999": ["B"], "10000": ["A", "B"]})
    assert set(found.values()) == {"09999"}


def test_empty_bins_share_nothing() -> None:
    assert groups({"1": [], "2": []}) == {"1": "1", "2": "2"}
    assert groups({}) == {}


def test_a_run_of_thousands_is_one_group() -> None:
    found = groups({f"{number:05d}": ["A"] for number in reversed(range(5000))})
    assert set(found.values()) == {"00000"}


@given(st.dictionaries(st.sampled_from([*map(str, range(12)), "08", "09", "x"]), ASINS))
def test_groups_are_what_walking_along_each_run_gives(asins_by_id: dict[str, list[str]]) -> None:
    group_of = {bin_id: {bin_id} for bin_id in asins_by_id}
    for bin_id, asins in asins_by_id.items():
        following = follower(bin_id)
        if following in asins_by_id and set(asins) & set(asins_by_id[following]):
            group_of[bin_id] |= group_of[following]
            for member in group_of[bin_id]:
                group_of[member] = group_of[bin_id]
    for bin_id, found in groups(asins_by_id).items():
        if bin_id == "x":
            assert found == "x"
        else:
            assert found == min(group_of[bin_id], key=lambda name: (int(name), name))


def test_the_numbers_of_a_large_bucket_do_not_overflow() -> None:
    # Bins times different items pass 2^31; of every three bins the first two share one.
    ids = [f"{number:06d}" for number in range(60_000)]
    asins = [[f"A{number - (number % 3 == 1)}"] for number in range(60_000)]
    found = group_bins(pa.array(ids), pa.array(asins)).to_pylist()
    assert found == [ids[number - (number % 3 == 1)] for number in range(60_000)]
