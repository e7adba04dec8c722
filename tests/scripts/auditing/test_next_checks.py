import numpy as np

from auditing.next_checks import entropy, most_telling

NAN = np.nan


def chosen(
    risk: list[float],
    uncertainty: list[float],
    number: int,
    bins: list[int] | None = None,
    checked: tuple[int, ...] = (),
) -> list[int]:
    is_checked = np.isin(np.arange(len(risk)), checked)
    numbers = np.array(bins or range(len(risk)))
    values = np.array(risk), np.array(uncertainty)
    return most_telling(*values, is_checked, numbers, number).tolist()


def test_a_bin_is_chosen_by_what_it_may_save_and_by_what_the_photo_does_not_tell() -> None:
    # The third is not the first by either, but well ahead by both.
    assert chosen([0.9, 0.1, 0.8, 0.2], [0.1, 0.9, 0.8, 0.2], 2) == [2, 0]
    # What is large by its unit weighs no more.
    assert chosen([0.9, 0.1, 0.8, 0.2], [100, 900, 800, 200], 2) == [2, 0]


def test_visits_of_a_bin_are_one_and_none_of_a_bin_that_is_checked_anyway() -> None:
    values = [0.9, 0.8, 0.7, 0.6, 0.5]
    assert chosen(values, values, 2, bins=[7, 7, 8, 9, 8]) == [0, 2]
    assert chosen(values, values, 2, bins=[7, 7, 8, 9, 8], checked=(1,)) == [2, 3]


def test_bins_of_which_nothing_can_be_said_are_left_out_and_fewer_bins_give_fewer() -> None:
    assert chosen([NAN, 0.1, NAN], [NAN, 0.5, NAN], 3) == [1]
    assert chosen([NAN], [NAN], 3) == []


def test_equal_bins_are_taken_in_their_order() -> None:
    assert chosen([0.5] * 4, [0.5] * 4, 3) == [0, 1, 2]


def test_entropy_is_that_of_the_distribution() -> None:
    found = entropy(np.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]]))
    assert np.allclose(found, [0, np.log(2), -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))])
