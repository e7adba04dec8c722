"""What keeps a large model from learning few photos by heart, and leaves its files as they are.

Layer-wise learning rates, drop path, and an average of the weights over the steps.
"""

import copy
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

# A layer learns at this share of the rate of the one above it. Source: Bao et al., BEiT, ICLR 2022.
LAYER_DECAY = 0.75
# The average reaches back over a tenth of the steps so far, however long the run: the exponent of
# which Karras et al., Analyzing and improving the training dynamics of diffusion models, CVPR 2024,
# find a relative width of 0.10.
AVERAGE_EXPONENT = 6.94

# The weights that training goes on with, where model.safetensors holds an average of them.
TRAINED_WEIGHTS = "trained_weights.safetensors"
# What a network of many unlike blocks has at most, as ConvNeXt is fine-tuned: with a level for each
# block the lowest would stand still. Source: Liu et al., A ConvNet for the 2020s, CVPR 2022.
MAX_UNLIKE_LEVELS = 12
NUMBERED = re.compile(r"(|.*\D)(\d+)")


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Return how deep each parameter lies: 0 where photos come in, most at the head.

    What counts is the network's main stack, the numbered modules that hold most of its parameters:
    the layers of a ViT, the stages of a ResNet, the blocks of an EfficientNet. What is defined
    before the stack takes the photos in, what is defined after it is the head.
    """
    stacks = _numbered_modules(model)
    if not stacks:
        return {name: 0 for name, _ in model.named_parameters()}
    main = max(stacks, key=lambda stack: (_num_weights(stacks[stack]), -len(stack)))
    numbers = sorted(stacks[main])
    beside = {  # such as the patch embeddings of each stage
        stack
        for stack in stacks
        if stack.rpartition(".")[0] == main.rpartition(".")[0] and sorted(stacks[stack]) == numbers
    }
    number_of = {
        name: number
        for stack in beside
        for number, parameters in stacks[stack].items()
        for name in parameters
    }
    forms = [sorted(tuple(p.shape) for p in module.values()) for module in stacks[main].values()]
    is_alike = all(form == forms[0] for form in forms)
    num_levels = len(numbers) if is_alike else min(len(numbers), MAX_UNLIKE_LEVELS)
    depths, depth_outside = {}, 0
    for name, _ in model.named_parameters():
        if name in number_of:
            depths[name] = 1 + numbers.index(number_of[name]) * num_levels // len(numbers)
            depth_outside = 1 + num_levels
        else:
            depths[name] = depth_outside
    return depths


def _numbered_modules(model: nn.Module) -> dict[str, dict[int, dict[str, nn.Parameter]]]:
    """Return the parameters of modules that are numbered side by side: blocks.0, or layer1."""
    found: dict[str, dict[int, dict[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")[:-1]
        for index, part in enumerate(parts):
            if match := NUMBERED.fullmatch(part):
                stack = ".".join([*parts[:index], match[1]]).rstrip(".")
                module = found.setdefault(stack, {}).setdefault(int(match[2]), {})
                module[name] = parameter
    return {stack: modules for stack, modules in found.items() if len(modules) > 1}


def _num_weights(modules: dict[int, dict[str, nn.Parameter]]) -> int:
    return sum(p.numel() for module in modules.values() for p in module.values())


def matrices(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return those of the named parameters that are matrices, which weight decay is for.

    Trainer leaves out biases and what it knows as a norm by its name or class, which BatchNorm and
    the scales of a layer are not.
    """
    wanted = set(names)  # some of which may be None, as in attention
    return [name for name, p in model.named_parameters() if name in wanted and p.ndim > 1]


def layer_groups(
    model: nn.Module, decayed: set[str], weight_decay: float, learning_rate: float
) -> list[dict[str, Any]]:
    """Return the optimizer's groups, the head's first: its rate is the one that logs show.

    Args:
        decayed: names of the parameters that `weight_decay` applies to.
        learning_rate: that of the head; each layer below it has LAYER_DECAY of the one above.
    """
    depths = layer_depths(model)
    head = max(depths.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (head - depths[name], name not in decayed)
            group = {
                "params": [],
                "lr": learning_rate * LAYER_DECAY ** key[0],
                "weight_decay": weight_decay if name in decayed else 0.0,
            }
            groups.setdefault(key, group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def add_drop_path(model: PreTrainedModel, share: float) -> None:
    """Have photos skip layers of a ViT at random in training; leave other models alone.

    A hook on each layer, so that neither config nor weights know of it. Source: Huang et al., Deep
    networks with stochastic depth, ECCV 2016.

    Args:
        share: of the photos that skip the last layer, 0 to below 1; the layers before it are
            skipped less, in proportion.
    """
    if model.config.model_type != "vit" or share == 0:
        return
    # Their name differs from release to release, their number does not.
    stacks = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    layers = next(stack for stack in stacks if len(stack) == model.config.num_hidden_layers)
    for index, layer in enumerate(layers):
        layer.register_forward_hook(_DropPath(share * (index + 1) / len(layers)))


class _DropPath:
    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(
        self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
    ) -> torch.Tensor:
        if not layer.training:
            return output
        hidden_states = inputs[0]
        kept = torch.rand(len(output), 1, 1, device=output.device) >= self.share
        # What the layer adds is scaled up where it is kept, so that its mean stays.
        scale = kept.to(output.dtype) / (1 - self.share)
        return torch.lerp(hidden_states.to(output.dtype), output, scale)


class WeightAverage(TrainerCallback):
    """A moving average of a model's weights and running statistics, one update a step.

    Args:
        model: on its device already.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Take this step's weights into the average."""
        assert model is not None
        self.update(model, state.global_step)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take weights into the average, as those of the given step, which counts from 1."""
        share = 1 - (1 - 1 / step) ** (AVERAGE_EXPONENT + 1)
        current = model.state_dict()
        for name, averaged in self.model.state_dict().items():
            if averaged.is_floating_point():
                averaged.lerp_(current[name], share)
            else:  # counts of batches
                averaged.copy_(current[name])
        forget_cached(self.model)


def forget_cached(model: nn.Module) -> None:
    """Have a model forget what it derived from its weights, which are others now.

    LeViT keeps its attention biases from one evaluation to the next, until it is trained.
    """
    is_training = model.training
    model.train()
    model.train(is_training)


def save_trained_weights(model: nn.Module, checkpoint: Path) -> None:
    """Write the weights that are not averaged into a checkpoint."""
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(weights, str(checkpoint / TRAINED_WEIGHTS))


def load_trained_weights(model: nn.Module, checkpoint: Path) -> None:
    """Read them back. Raises: RuntimeError: a weight is missing or there is one too many."""
    model.load_state_dict(safetensors.torch.load_file(str(checkpoint / TRAINED_WEIGHTS)))
