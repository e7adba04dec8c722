import numpy as np
import pytest
import torch

from visits.batches import (
    VisitPairs,
    VisitSampler,
    num_seen_twice,
    run_layout,
    share_unchanged,
    with_unchanged,
)

IDS = ["3", "1", "9", "2", "7", "8", "x"]
GROUPS = ["a", "a", None, "a", "b", "b", None]


def test_the_visits_of_a_bin_stand_side_by_side_in_an_order_that_each_epoch_draws() -> None:
    sampler = VisitSampler(IDS, GROUPS, seed=5)
    orders = [list(sampler) for _ in range(20)]
    for order in orders:
        assert sorted(order) == list(range(7))
        for run in ([1, 3, 0], [4, 5]):
            start = order.index(run[0])
            assert order[start : start + len(run)] == run
    assert len({tuple(order) for order in orders}) > 10
    # One that goes on draws the order of its epoch, whatever was drawn before.
    late = VisitSampler(IDS, GROUPS, seed=5)
    late.set_epoch(7)
    assert list(late) == orders[7]
    assert [list(VisitSampler(IDS, GROUPS, seed=6)) for _ in range(1)] != orders[:1]


def test_runs_of_one_length_are_partners_visit_by_visit() -> None:
    layout = run_layout(["a", "a", None, "b", "b", "c", None, "d", "d", "d", "e", "e"])
    assert layout["run"].tolist() == [0, 0, 1, 2, 2, 3, 4, 5, 5, 5, 6, 6]
    assert layout["later"].tolist() == [1, 4, 8, 9, 11]
    #                                   a a -> e  . -> .  b -> a  c  . -> c
    assert layout["partner"].tolist() == [10, 11, 6, 0, 1, 2, 5, 7, 8, 9, 3, 4]


def test_photos_that_belong_to_nobody_are_mixed_with_the_one_before() -> None:
    layout = run_layout([None] * 4)
    assert layout["run"].tolist() == [0, 1, 2, 3]
    assert layout["partner"].tolist() == [3, 0, 1, 2]
    assert layout["later"].tolist() == []


def test_the_first_photos_of_a_batch_are_there_twice_as_pairs_of_their_own() -> None:
    groups = ["a", "a", *[None] * 30]
    batch = {
        "pixel_values": torch.arange(32.0),
        "labels": torch.arange(32) % 5,
        **run_layout(groups),
    }
    longer = with_unchanged(batch)
    assert num_seen_twice(32) == 2
    assert longer["pixel_values"].tolist() == [*range(32), 0, 1]
    assert longer["labels"].tolist() == [*(batch["labels"].tolist()), 0, 1]
    pairs = zip(longer["earlier"].tolist(), longer["later"].tolist(), strict=True)
    assert list(pairs) == [(0, 1), (0, 32), (1, 33)]
    assert longer["seen_twice"].tolist() == [32, 33]
    # Flipped, turned and mixed as the photo that they show.
    assert longer["run"][32:].tolist() == longer["run"][:2].tolist()
    assert longer["partner"][32:].tolist() == longer["partner"][:2].tolist()
    assert num_seen_twice(3) == 1


@pytest.mark.parametrize("batch_size", [2, 5, 8, 16, 24, 64])
def test_the_share_of_unchanged_pairs_is_that_of_the_batches(batch_size: int) -> None:
    groups = [None if number % 3 == 0 else str(number // 3) for number in range(4800)]
    ids = [str(number) for number in range(4800)]
    sampler = VisitSampler(ids, groups, seed=1)
    num_twice = num_steps = 0
    order = list(sampler)
    for first in range(0, 4800, batch_size):
        batch = [groups[row] for row in order[first : first + batch_size]]
        num_twice += num_seen_twice(len(batch))
        num_steps += len(run_layout(batch)["later"])
    share = share_unchanged(len(sampler.runs) // 2, 4800, batch_size)
    assert share == pytest.approx(num_twice / (num_twice + num_steps), rel=0.02)


def test_a_pair_has_both_photos() -> None:
    photos = [{"pixel_values": number, "labels": 10 * number} for number in range(4)]
    pairs = VisitPairs(photos, np.array([[2, 0], [1, 3]]))
    assert len(pairs) == 2
    assert pairs[0] == {
        "pixel_values": 0,
        "labels": 0,
        "earlier_pixel_values": 2,
        "earlier_labels": 20,
    }
