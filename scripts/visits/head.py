"""The change head: two visits' photos, position by position, as a distribution over changes.

A photo is projected once, whatever number of pairs it is in; a pair costs additions. Both
directions of a pair are one fact: the two projections enter by their sum and their difference, and
the answer to (before, after) is the mirror of that to (after, before), by construction.

Where sizes of items are learned, too, an answer has two numbers more: the logarithm of how many
times as large all items together are afterwards, and the logarithm of how far off that may be.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from side_heads import CHANGE_HEAD, SideHead, load_side_head, num_position_features
from visits.chain import possible_changes
from visits.settings import HEAD_SETTINGS, HEAD_WEIGHTS, ChangeSettings, read_settings

WIDTH = 256
DROPOUT = 0.2
LEAST, MOST = -3.0, 1.0  # of the logarithm of a spread


class ChangeHead(SideHead):
    """Compares two photos of a bin.

    Args:
        num_features: of a position in the network's last layer.
        num_changes: how many changes the counts allow, an odd number: they are symmetric.
        tells_volumes: whether answers say how the volume of all items has changed, too.
    """

    log_spread: torch.Tensor

    def __init__(self, num_features: int, num_changes: int, tells_volumes: bool = False) -> None:
        super().__init__(num_features)
        self.num_changes = num_changes
        self.norm = nn.LayerNorm(num_features)
        self.common = nn.Linear(num_features, WIDTH)
        self.difference = nn.Linear(num_features, WIDTH, bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.classifier = nn.Linear(WIDTH, num_changes)
        self.volumes = nn.Linear(WIDTH, 2) if tells_volumes else None
        if tells_volumes:  # what is added to the logarithm of each spread
            self.register_buffer("log_spread", torch.zeros(()))

    def projected(self) -> torch.Tensor:
        """Return what the head needs of each photo that this thread asked the model about last.

        Returns: float (num_photos, num_positions, 2 * WIDTH).
        """
        positions = self.norm(self.seen_positions())
        return torch.cat([self.common(positions), self.difference(positions)], dim=-1)

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return the logits of the changes, and where they are told those of volumes.

        Args:
            before, after: float (num_pairs, num_positions, 2 * WIDTH), of `projected`.

        Returns: float (num_pairs, num_changes), or (num_pairs, num_changes + 2).
        """
        return self._answers(*_common_and_difference(before, after))

    def heat_maps(
        self, before: torch.Tensor, after: torch.Tensor, changes: Sequence[int]
    ) -> torch.Tensor:
        """Return what speaks for more items afterwards, float (num_pairs, num_positions).

        That is what the two photos differ in at a position, times the gradient of how far the
        logits lean to larger changes: photos without any difference lean to none.

        Args:
            before, after: as in forward.
            changes: (num_changes,), items, of possible_changes.
        """
        common, difference = _common_and_difference(before, after)
        difference = difference.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._answers(common, difference)[:, : self.num_changes]
            lean = logits @ logits.new_tensor(changes)
        (gradient,) = torch.autograd.grad(lean.sum(), difference)
        return (difference.detach() * gradient).sum(dim=-1)

    def _answers(self, common: torch.Tensor, difference: torch.Tensor) -> torch.Tensor:
        ahead, back = (self._hidden(common + sign * difference) for sign in (1, -1))
        logits = (self.classifier(ahead) + self.classifier(back).flip(-1)) / 2
        if self.volumes is None:
            return logits
        of_ahead, of_back = self.volumes(ahead), self.volumes(back)
        times = (of_ahead[:, :1] - of_back[:, :1]) / 2
        spread = ((of_ahead[:, 1:] + of_back[:, 1:]) / 2).clamp(LEAST, MOST) + self.log_spread
        return torch.cat([logits, times, spread], dim=-1)

    @torch.no_grad()
    def divide_logits(self, temperature: float) -> None:
        """Divide the logits of all answers from now on, exactly: by the last layer's weights."""
        for parameter in self.classifier.parameters():
            parameter.div_(temperature)

    @torch.no_grad()
    def multiply_spreads(self, factor: float) -> None:
        """Multiply how far off each volume may be, of all answers from now on."""
        self.log_spread.add_(math.log(factor))

    def _hidden(self, mixed: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.gelu(mixed).mean(dim=1)
        return self.dropout(nn.functional.gelu(self.dense(self.dropout(pooled))))


def _common_and_difference(
    before: torch.Tensor, after: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what two photos have in common at each position, and what they differ in.

    Returns: float (num_pairs, num_positions, WIDTH), both.
    """
    return before[..., :WIDTH] + after[..., :WIDTH], after[..., WIDTH:] - before[..., WIDTH:]


def attach_head(model: Any, num_changes: int, image_size: int, tells_volumes: bool = False) -> None:
    """Give a model a change head of its own, with random weights.

    Args:
        image_size: edge of the photos that the model takes, pixels.
        tells_volumes: as in ChangeHead.

    Raises: ValueError: the model does not say what it sees where.
    """
    num_features = num_position_features(model, image_size)
    model.change_head = ChangeHead(num_features, num_changes, tells_volumes)
    model.change_head.watch(model)


def load_head(model: Any, folder: Path, image_size: int) -> ChangeSettings:
    """Give a model the change head that lies in a folder.

    Returns: how its answers are to be taken.
    Raises: ValueError: a file is damaged, or the head is not this model's.
    """
    settings = read_settings(folder)
    if settings is None:
        raise ValueError(f"{folder / HEAD_SETTINGS} is missing: copy the model folder again.")
    num_changes = len(possible_changes(settings.counts))
    attach_head(model, num_changes, image_size, settings.tells_volumes)
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
