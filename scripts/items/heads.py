"""The item heads: what a photo says of a bin's items beside their number.

Of each of SIZES a mean and a spread of its logarithm, so that a head says how sure it is, and the
number of distinct items as a distribution. Source of learning the spread: Nix and Weigend,
Estimating the mean and variance of the target probability distribution, ICNN 1994.

Answers are those of items.answers, targets those of items.sizes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from items.settings import HEADS_SETTINGS, HEADS_WEIGHTS, ItemSettings, read_settings
from items.sizes import SAME, SIZES
from side_heads import ITEM_HEADS, SideHead, load_side_head, num_position_features

WIDTH = 256
DROPOUT = 0.2
# Of the logarithm of a spread, in standard deviations of the targets: one photo that a head is
# ever so sure about does not decide where the others go.
LEAST, MOST = -3.0, 1.0
NOTHING = -1  # a column that stands for none


class ItemHeads(SideHead):
    """Says how large, how heavy and how many different the items in a photo are.

    Args:
        num_features: of a position in the network's last layer.
        max_distinct: the greatest number of distinct items that is told.
    """

    center: torch.Tensor
    scale: torch.Tensor
    log_spread: torch.Tensor

    def __init__(self, num_features: int, max_distinct: int) -> None:
        super().__init__(num_features)
        self.max_distinct = max_distinct
        self.norm = nn.LayerNorm(num_features)
        self.dense = nn.Linear(num_features, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.answers = nn.Linear(WIDTH, 2 * len(SIZES) + max_distinct)
        # Mean and standard deviation of the targets in training, from which is learned how far off
        # a photo is; and what is added to the logarithm of each spread.
        self.register_buffer("center", torch.zeros(len(SIZES)))
        self.register_buffer("scale", torch.ones(len(SIZES)))
        self.register_buffer("log_spread", torch.zeros(len(SIZES)))

    def start_from(self, targets: torch.Tensor) -> None:
        """Take what the targets in training usually are for what is said without a photo.

        Args:
            targets: float (num_photos, len(SIZES) + 1), of items.sizes.item_targets.
        """
        for column in range(len(SIZES)):
            known = targets[:, column][~targets[:, column].isnan()]
            if len(known):
                self.center[column] = known.mean()
            if len(known) > 1 and (deviation := known.std()) > SAME:
                self.scale[column] = deviation
        self.log_spread.copy_(self.scale.log())

    def forward(self) -> torch.Tensor:
        """Return the answers to the photos that this thread asked the model about last."""
        parts = functional.gelu(self.dense(self.norm(self.seen_positions())))
        raw = self.answers(self.dropout(parts.mean(dim=1)))
        means, spreads, distinct = raw.split([len(SIZES), len(SIZES), self.max_distinct], dim=1)
        means = self.center + self.scale * means
        return torch.cat([means, self.log_spread + spreads.clamp(LEAST, MOST), distinct], dim=1)

    @torch.no_grad()
    def calibrate(self, spread_factors: torch.Tensor, temperature: float) -> None:
        """Multiply the spreads of all answers from now on, divide the logits of distinct items.

        Args:
            spread_factors: float (len(SIZES),).
        """
        self.log_spread.add_(spread_factors.log().to(self.log_spread))
        for parameter in self.answers.parameters():
            parameter[2 * len(SIZES) :].div_(temperature)


def item_loss(answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how unlikely what is known of each photo's items is, float (num_photos,).

    The negative log likelihood, a mean over all targets, in which missing ones count nothing.

    Args:
        answers: as ItemHeads returns them.
        targets: as in ItemHeads.start_from, NaN where they are missing.
    """
    means, spreads, distinct = answers.split(
        [len(SIZES), len(SIZES), answers.shape[1] - 2 * len(SIZES)], dim=1
    )
    number = targets[:, -1]
    of_sizes = _normal_loss(means, spreads, targets[:, :-1])
    is_told = number <= distinct.shape[1]  # NaN is not
    column = torch.where(is_told, number - 1, NOTHING).long()
    of_distinct = functional.cross_entropy(distinct, column, reduction="none", ignore_index=NOTHING)
    return (of_sizes.sum(dim=1) + of_distinct) / targets.shape[1]


def volume_change_loss(answers: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Return how unlikely the changes of volume between two photos each are, float (num_pairs,).

    Args:
        answers: float (num_pairs, 2), what is said of the logarithm of how many times as large all
            items together are afterwards, and the logarithm of how far off that may be.
        changes: float (num_pairs,), these logarithms; NaN where nobody knows, which costs nothing.
    """
    return _normal_loss(answers[:, 0], answers[:, 1], changes)


def _normal_loss(
    means: torch.Tensor, log_spreads: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """Return the negative log likelihood of values, of the same shape; 0 for a NaN."""
    is_known = ~values.isnan()
    # A NaN would reach the gradient through a product with 0.
    distances = (torch.where(is_known, values, means.detach()) - means) / log_spreads.exp()
    return torch.where(is_known, distances.square() / 2 + log_spreads, 0.0)


def attach_item_heads(model: Any, max_distinct: int, image_size: int) -> ItemHeads:
    """Give a model item heads of its own, with random weights.

    Args:
        image_size: edge of the photos that the model takes, pixels.

    Raises: ValueError: the model does not say what it sees where.
    """
    model.item_heads = ItemHeads(num_position_features(model, image_size), max_distinct)
    model.item_heads.watch(model)
    return model.item_heads


def load_item_heads(model: Any, folder: Path, image_size: int) -> ItemSettings:
    """Give a model the item heads that lie in a folder.

    Returns: what they are.
    Raises: ValueError: a file is missing or damaged, or the heads are not this model's.
    """
    settings = read_settings(folder)
    if settings is None:
        raise ValueError(f"{folder / HEADS_SETTINGS} is missing: copy the model folder again.")
    heads = attach_item_heads(model, settings.max_distinct, image_size)
    load_side_head(heads, folder / HEADS_WEIGHTS)
    return settings


def item_heads_of(model: Any) -> ItemHeads | None:
    """Return a model's item heads, None where it has none."""
    return getattr(model, ITEM_HEADS, None)
