"""The change head: two visits' photos, position by position, as a distribution over changes.

It sees what the network makes of each part of a photo in its last layer, before that is averaged
away: a ViT's patch tokens, a ResNet's feature map. A photo is projected once, whatever number of
pairs it is in; a pair costs additions. Both directions of a pair are one fact: the two projections
enter by their sum and their difference, and the answer to (before, after) is the mirror of that to
(after, before), by construction.

It is a part of the model while it trains, under the name change_head, so that optimizer, average
and checkpoints have it; in files it lies beside the model, which works without it.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import get_ident
from typing import Any

import safetensors.torch
import torch
from torch import nn

from one_line_parser import reason_of
from visits.chain import possible_changes
from visits.settings import HEAD_SETTINGS, HEAD_WEIGHTS, ChangeSettings, read_settings

PREFIX = "change_head."
WIDTH = 256
DROPOUT = 0.2


class ChangeHead(nn.Module):
    """Compares two photos of a bin.

    Args:
        num_features: of a position in the network's last layer.
        num_changes: how many changes the counts allow, an odd number: they are symmetric.
    """

    def __init__(self, num_features: int, num_changes: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.norm = nn.LayerNorm(num_features)
        self.common = nn.Linear(num_features, WIDTH)
        self.difference = nn.Linear(num_features, WIDTH, bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.classifier = nn.Linear(WIDTH, num_changes)
        self.seen: dict[int, torch.Tensor] = {}  # of each thread: a server asks in several

    def watch(self, model: nn.Module) -> None:
        """Keep what the network says of each position whenever the model is asked.

        A hook, so that neither config nor weights nor answers of the model know of it.
        """
        network: Any = model.base_model
        network.register_forward_hook(self._keep)

    def _keep(self, network: nn.Module, inputs: Any, output: Any) -> None:
        self.seen[get_ident()] = output.last_hidden_state

    def projected(self) -> torch.Tensor:
        """Return what the head needs of each photo that this thread asked the model about last.

        Returns: float (num_photos, num_positions, 2 * WIDTH).
        """
        # Taken out: what it holds would live on until the next batch.
        positions = self.norm(position_features(self.seen.pop(get_ident())))
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


def position_features(last_hidden_state: torch.Tensor) -> torch.Tensor:
    """Return the features of each position in a photo, float (num_photos, positions, features).

    Args:
        last_hidden_state: a feature map (num_photos, features, height, width), or tokens
            (num_photos, num_tokens, features), of which those that stand for no place in the square
            photo come first.

    Raises: ValueError: it is neither.
    """
    if last_hidden_state.dim() == 4:
        return last_hidden_state.flatten(2).transpose(1, 2)
    if last_hidden_state.dim() == 3:
        edge = int(last_hidden_state.shape[1] ** 0.5)
        return last_hidden_state[:, last_hidden_state.shape[1] - edge**2 :]
    raise ValueError(f"a last layer of shape {tuple(last_hidden_state.shape)} has no positions")


def attach_head(model: Any, num_changes: int, image_size: int) -> None:
    """Give a model a change head of its own, with random weights.

    Args:
        image_size: edge of the photos that the model takes, pixels.

    Raises: ValueError: the model does not say what it sees where.
    """
    kept: list[Any] = []
    handle = model.base_model.register_forward_hook(lambda *given: kept.append(given[2]))
    is_training = model.training
    try:
        with torch.no_grad():
            model.eval()(pixel_values=torch.zeros(1, 3, image_size, image_size))
        features = position_features(kept[0].last_hidden_state)
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} does not say what it sees where in a photo"
        ) from error
    finally:
        handle.remove()
        model.train(is_training)
    model.change_head = ChangeHead(features.shape[-1], num_changes)
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
    try:
        model.load_state_dict(without_head(model.state_dict()) | read_head(folder))
    except Exception as error:  # safetensors and torch raise what they like
        raise ValueError(
            f"{folder / HEAD_WEIGHTS} cannot be loaded ({reason_of(error)}): copy the model "
            "folder again."
        ) from error
    return settings


def head_of(model: Any) -> ChangeHead | None:
    """Return a model's change head, None where it has none."""
    return getattr(model, "change_head", None)


def without_head(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the model alone, as its files have them."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)}


def save_head(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the head's weights among those of a model beside the model; nothing where it has none.

    Raises: OSError, SafetensorError: the file cannot be written.
    """
    weights = {
        name.removeprefix(PREFIX): tensor.contiguous()
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }
    if weights:
        safetensors.torch.save_file(weights, str(folder / HEAD_WEIGHTS))


def read_head(folder: Path) -> dict[str, torch.Tensor]:
    """Return what save_head wrote, named as in the model's state.

    Raises: OSError, SafetensorError: the file is not there, or damaged.
    """
    weights = safetensors.torch.load_file(str(folder / HEAD_WEIGHTS))
    return {PREFIX + name: tensor for name, tensor in weights.items()}
