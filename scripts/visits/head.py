"""The change head: two visits' photos, position by position, as a distribution over changes.

A photo is projected once, whatever number of pairs it is in; a pair costs additions. Both
directions of a pair are one fact: the two projections enter by their sum and their difference, and
the answer to (before, after) is the mirror of that to (after, before), by construction.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from side_heads import CHANGE_HEAD, SideHead, load_side_head, num_position_features
from visits.chain import possible_changes
from visits.settings import HEAD_SETTINGS, HEAD_WEIGHTS, ChangeSettings, read_settings

WIDTH = 256
DROPOUT = 0.2


class ChangeHead(SideHead):
    """Compares two photos of a bin.

    Args:
        num_features: of a position in the network's last layer.
        num_changes: how many changes the counts allow, an odd number: they are symmetric.
    """

    def __init__(self, num_features: int, num_changes: int) -> None:
        super().__init__(num_features)
        self.norm = nn.LayerNorm(num_features)
        self.common = nn.Linear(num_features, WIDTH)
        self.difference = nn.Linear(num_features, WIDTH, bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.classifier = nn.Linear(WIDTH, num_changes)

    def projected(self) -> torch.Tensor:
        """Return what the head needs of each photo that this thread asked the model about last.

        Returns: float (num_photos, num_positions, 2 * WIDTH).
        """
        positions = self.norm(self.seen_positions())
        return torch.cat([self.common(positions), self.difference(positions)], dim=-1)

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return the logits of the changes, float (num_pairs, num_changes).

        Args:
            before, after: float (num_pairs, num_positions, 2 * WIDTH), of `projected`.
        """
        common = before[..., :WIDTH] + after[..., :WIDTH]
        difference = after[..., WIDTH:] - before[..., WIDTH:]
        ahead, back = (self._logits(common + sign * difference) for sign in (1, -1))
        return (ahead + back.flip(-1)) / 2

    @torch.no_grad()
    def divide_logits(self, temperature: float) -> None:
        """Divide the logits of all answers from now on, exactly: by the last layer's weights."""
        for parameter in self.classifier.parameters():
            parameter.div_(temperature)

    def _logits(self, mixed: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.gelu(mixed).mean(dim=1)
        hidden = nn.functional.gelu(self.dense(self.dropout(pooled)))
        return self.classifier(self.dropout(hidden))


def attach_head(model: Any, num_changes: int, image_size: int) -> None:
    """Give a model a change head of its own, with random weights.

    Args:
        image_size: edge of the photos that the model takes, pixels.

    Raises: ValueError: the model does not say what it sees where.
    """
    model.change_head = ChangeHead(num_position_features(model, image_size), num_changes)
    model.change_head.watch(model)


def load_head(model: Any, folder: Path, image_size: int) -> ChangeSettings:
    """Give a model the change head that lies in a folder.

    Returns: how its answers are to be taken.
    Raises: ValueError: a file is damaged, or the head is not this model's.
    """
    settings = read_settings(folder)
    if settings is None:
        raise ValueError(f"{folder / HEAD_SETTINGS} is missing: copy the model folder again.")
    attach_head(model, len(possible_changes(settings.counts)), image_size)
    if (num_features := model.change_head.num_features) != settings.num_features:
        raise ValueError(
            f"{folder / HEAD_SETTINGS} belongs to another model (its head takes "
            f"{settings.num_features} features of a position, and this model has {num_features}): "
            "copy the model folder again."
        )
    load_side_head(model.change_head, folder / HEAD_WEIGHTS)
    return settings


def head_of(model: Any) -> ChangeHead | None:
    """Return a model's change head, None where it has none."""
    return getattr(model, CHANGE_HEAD, None)
