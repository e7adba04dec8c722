import pytest
import torch
from torch.nn import functional

from recipe.losses import (
    balanced_weights,
    counting_loss,
    item_distances,
    soft_labels,
    squared_earth_movers_distance,
)

DISTANCES = item_distances((1, 2, 3, 4, 5))


def one_hot(*labels: int) -> torch.Tensor:
    return functional.one_hot(torch.tensor(labels), 5).float()


def sure_of(*labels: int) -> torch.Tensor:
    return 100 * one_hot(*labels)


def test_cross_entropy_of_hard_labels_is_torchs_own() -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 5
    for smoothing in (0.0, 0.1):
        loss = counting_loss("cross_entropy", logits, one_hot(*labels), DISTANCES, 0.5, smoothing)
        expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(loss.mean(), expected)


def test_soft_labels_keep_their_sum_and_fall_with_the_distance_in_items() -> None:
    softened = soft_labels(one_hot(1, 4), DISTANCES, 0.5)
    torch.testing.assert_close(softened.sum(dim=1), torch.ones(2))
    assert softened[0].argmax() == 1
    assert softened[0, 0] == softened[0, 2] > softened[0, 3] > softened[0, 4] > 0
    # Half stays on the label itself, whatever the neighbours get.
    assert softened[1, 4] > 0.5


def test_counts_that_are_far_apart_are_no_neighbours() -> None:
    distances = item_distances((1, 2, 10))
    softened = soft_labels(functional.one_hot(torch.tensor([1]), 3).float(), distances, 1.0)
    assert softened[0, 0] > 0.2
    assert softened[0, 2] < 0.001


@pytest.mark.parametrize("loss", ["soft_labels", "emd"])
def test_without_weight_on_neighbours_a_loss_is_the_cross_entropy(loss: str) -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    targets = one_hot(*(torch.arange(20) % 5))
    expected = counting_loss("cross_entropy", logits, targets, DISTANCES, 0.0)
    torch.testing.assert_close(counting_loss(loss, logits, targets, DISTANCES, 0.0), expected)


@pytest.mark.parametrize("loss", ["soft_labels", "emd"])
def test_being_two_items_off_costs_more_than_one(loss: str) -> None:
    costs = counting_loss(loss, sure_of(0, 1, 2, 3), one_hot(0, 0, 0, 0), DISTANCES, 0.5)
    assert costs[0] < costs[1] < costs[2] < costs[3]


def test_the_earth_movers_distance_counts_items_not_labels() -> None:
    # All of the probability one step away: over 1 item, and over 8.
    distances = item_distances((1, 2, 10))
    targets = functional.one_hot(torch.tensor([1, 1]), 3).float()
    logits = 100 * functional.one_hot(torch.tensor([0, 2]), 3).float()
    moved = squared_earth_movers_distance(logits, targets, distances)
    torch.testing.assert_close(moved, torch.tensor([1.0, 8.0]))
    right = squared_earth_movers_distance(sure_of(3), one_hot(3), DISTANCES)
    torch.testing.assert_close(right, torch.zeros(1))


def test_the_loss_of_soft_labels_is_linear_in_the_targets_so_that_mixed_photos_compose() -> None:
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    one, other = one_hot(0), one_hot(3)
    losses = [
        counting_loss("soft_labels", logits, targets, DISTANCES, 0.7)
        for targets in (one, other, 0.3 * one + 0.7 * other)
    ]
    torch.testing.assert_close(losses[2], 0.3 * losses[0] + 0.7 * losses[1])


def test_balanced_weights_give_every_count_that_occurs_the_same_sum() -> None:
    labels = torch.tensor([0] * 10 + [1] * 30 + [4] * 5)
    weights = balanced_weights(labels, 5)
    sums = [float(weights[labels[labels == label]].sum()) for label in (0, 1, 4)]
    assert sums == pytest.approx([15.0, 15.0, 15.0])
    assert weights[2] == weights[3] == 0
    assert float(weights[labels].mean()) == pytest.approx(1.0)
