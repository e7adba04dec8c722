import pytest

from bin_groups import group_bins, next_id, previous_ids, share_an_asin


@pytest.mark.parametrize(
    ("bin_id", "follower"),
    [("00001", "00002"), ("1", "2"), ("9", "10"), ("09999", "10000"), ("99999", "100000")],
)
def test_an_id_is_followed_in_its_own_numbering(bin_id: str, follower: str) -> None:
    assert next_id(bin_id) == follower
    assert bin_id in previous_ids(follower)


@pytest.mark.parametrize("bin_id", ["", "abc", "1a", "-1", "²", "٣", "1.0"])
def test_an_id_that_is_no_number_has_no_neighbours(bin_id: str) -> None:
    assert next_id(bin_id) is None
    assert previous_ids(bin_id) == []


def test_an_id_after_a_change_of_width_follows_two_numberings() -> None:
    assert previous_ids("10000") == ["09999", "9999"]
    assert previous_ids("00000") == []


def test_consecutive_bins_that_share_an_item_form_one_group_named_after_the_first() -> None:
    groups = group_bins(
        {"00003": ["B", "C"], "00002": ["A", "B"], "00001": ["A"], "00004": ["D"], "00006": ["D"]}
    )
    assert groups == {
        "00001": "00001",
        "00002": "00001",
        "00003": "00001",
        "00004": "00004",
        "00006": "00006",
    }


def test_two_numberings_of_the_same_numbers_stay_apart() -> None:
    groups = group_bins({"1": ["A"], "00002": ["A"], "2": ["A"]})
    assert groups == {"1": "1", "2": "1", "00002": "00002"}


def test_runs_that_meet_where_the_width_changes_become_one_group() -> None:
    groups = group_bins({"09999": ["A"], "9999": ["B"], "10000": ["A", "B"]})
    assert set(groups.values()) == {"09999"}


def test_empty_bins_share_nothing() -> None:
    assert not share_an_asin([], [])
    assert group_bins({"1": [], "2": []}) == {"1": "1", "2": "2"}
