"""What training minimizes: losses that know how far apart two counts are.

All of them act on plain logits and take soft targets, so that photos that were mixed have one too.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional


def item_distances(counts: Sequence[int]) -> torch.Tensor:
    """Return by how many items each two counts differ, float (num_counts, num_counts)."""
    items = torch.tensor(counts, dtype=torch.float32)
    return (items[:, None] - items[None, :]).abs()


def balanced_weights(labels: torch.Tensor, num_counts: int) -> torch.Tensor:
    """Return a weight for each count, such that all counts weigh the same over these bins.

    Args:
        labels: int (num_bins,), label ids of the training split.

    Returns: float (num_counts,). Their mean over the bins is 1; a count without bins weighs 0.
    """
    frequencies = torch.bincount(labels, minlength=num_counts).float()
    num_present = int((frequencies > 0).sum())
    return torch.where(frequencies > 0, len(labels) / (num_present * frequencies), 0.0)


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the cross entropy of each bin.

    Args:
        logits: float (num_bins, num_counts).
        targets: float (num_bins, num_counts), rows sum to 1.
        label_smoothing: share of each target that is spread over all counts alike.

    Returns: float (num_bins,).
    """
    return functional.cross_entropy(
        logits, targets, reduction="none", label_smoothing=label_smoothing
    )


def soft_labels(targets: torch.Tensor, distances: torch.Tensor, weight: float) -> torch.Tensor:
    """Return targets of which a share lies on the neighbouring counts.

    A neighbour d items away gets exp(-d) of what the count itself gets. Source: Diaz and Marathe,
    Soft labels for ordinal regression, CVPR 2019; the share that stays on the count itself is ours,
    since neighbours alone cost accuracy.

    Args:
        targets: float (num_bins, num_counts), rows sum to 1.
        distances: items, float (num_counts, num_counts).
        weight: the share, 0 to 1.

    Returns: as targets.
    """
    return torch.lerp(targets, targets @ (-distances).softmax(dim=1), weight)


def squared_earth_movers_distance(
    logits: torch.Tensor, targets: torch.Tensor, distances: torch.Tensor
) -> torch.Tensor:
    """Return how far, squared, probability has to be moved, step by step from count to count.

    The squared difference of both cumulative distributions, summed over the steps between counts,
    each as long as it is in items. Source: Hou, Yu and Samaras, Squared earth mover's distance
    loss for training deep neural networks, 2016.

    Args:
        logits, targets: as in cross_entropy.
        distances: as in soft_labels.

    Returns: float (num_bins,), 0 where the distributions are the same.
    """
    excess = (logits.softmax(dim=1) - targets).cumsum(dim=1)[:, :-1]
    return excess.square() @ distances.diagonal(offset=1)


def counting_loss(
    name: str,
    logits: torch.Tensor,
    targets: torch.Tensor,
    distances: torch.Tensor,
    neighbour_weight: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Return one of the three losses of each bin, float (num_bins,).

    Args:
        name: cross_entropy, soft_labels, or emd.
        logits, targets, label_smoothing: as in cross_entropy.
        distances: as in soft_labels.
        neighbour_weight: share of what knows of neighbours, 0 to 1; the rest is cross entropy.
    """
    if name == "soft_labels":
        targets = soft_labels(targets, distances, neighbour_weight)
    loss = cross_entropy(logits, targets, label_smoothing)
    if name == "emd":
        distance = squared_earth_movers_distance(logits, targets, distances)
        loss = torch.lerp(loss, distance, neighbour_weight)
    return loss
