"""Heads beside a model: they see what its network makes of each part of a photo.

That is a ViT's patch tokens in its last layer, or a ResNet's feature map, before they are averaged
away. A head is a part of the model while it trains, so that optimizer, average and checkpoints have
it; in files it lies beside the model, which works without it.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import get_ident
from typing import Any

import safetensors.torch
import torch
from torch import nn

from one_line_parser import reason_of

CHANGE_HEAD, ITEM_HEADS = "change_head", "item_heads"
NAMES = (CHANGE_HEAD, ITEM_HEADS)


class SideHead(nn.Module):
    """A head that looks at what a network's last layer says of each position in a photo.

    Args:
        num_features: of a position.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.seen: dict[int, torch.Tensor] = {}  # of each thread: a server asks in several

    def watch(self, model: nn.Module) -> None:
        """Keep what the network says of each position whenever the model is asked.

        A hook, so that neither config nor weights nor answers of the model know of it.
        """
        network: Any = model.base_model
        network.register_forward_hook(self._keep)

    def _keep(self, network: nn.Module, inputs: Any, output: Any) -> None:
        self.seen[get_ident()] = output.last_hidden_state

    def seen_positions(self) -> torch.Tensor:
        """Return what was said of each photo that this thread asked the model about last, once.

        Returns: float (num_photos, num_positions, num_features).
        """
        # Taken out: what it holds would live on until the next batch.
        return position_features(self.seen.pop(get_ident()))


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


def num_position_features(model: Any, image_size: int) -> int:
    """Return how many features a model's last layer has of each position in a photo.

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
        return position_features(kept[0].last_hidden_state).shape[-1]
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} does not say what it sees where in a photo"
        ) from error
    finally:
        handle.remove()
        model.train(is_training)


def side_heads(model: Any) -> dict[str, SideHead]:
    """Return a model's heads by their names."""
    heads = {name: getattr(model, name, None) for name in NAMES}
    return {name: head for name, head in heads.items() if head is not None}


def weights_file(name: str) -> str:
    """Return the name of the file that holds a head's weights, beside the model's."""
    return f"{name}.safetensors"


def without_side_heads(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the model alone, as its own files have them."""
    beside = tuple(f"{name}." for name in NAMES)
    return {name: tensor for name, tensor in state.items() if not name.startswith(beside)}


def save_side_heads(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the heads' weights among those of a model beside the model, a file each.

    Raises: OSError, SafetensorError: a file cannot be written.
    """
    for head in NAMES:
        weights = {
            name.removeprefix(f"{head}."): tensor.contiguous()
            for name, tensor in state.items()
            if name.startswith(f"{head}.")
        }
        if weights:
            safetensors.torch.save_file(weights, str(folder / weights_file(head)))


def read_side_heads(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of all heads that a model has, named as in its state.

    Raises: OSError, SafetensorError: a file is not there, or damaged.
    """
    return {
        f"{head}.{name}": tensor
        for head in side_heads(model)
        for name, tensor in safetensors.torch.load_file(str(folder / weights_file(head))).items()
    }


def load_side_head(head: SideHead, path: Path) -> None:
    """Load a head's weights from one of the files of save_side_heads.

    Raises: ValueError: it is not there, damaged, or another head's.
    """
    try:
        head.load_state_dict(safetensors.torch.load_file(str(path)))
    except Exception as error:  # safetensors and torch raise what they like
        raise ValueError(
            f"{path} cannot be loaded ({reason_of(error)}): copy the model folder again."
        ) from error
