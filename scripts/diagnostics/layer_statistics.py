"""Gradients, weights and outputs of a model's layers, a few numbers each.

What is asked of all layers crosses from the device to the host at once: a GPU is waited for once.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

# Where activation functions are at home; what else lies there has parameters, or is never silent.
ACTIVATION_HOMES = ("torch.nn.modules.activation", "transformers.activations")
# A unit whose largest output is below this share of its layer's largest says nothing.
SILENT = 1e-3
# So many photos of a batch show which units are silent, at a share of what all would take.
PHOTOS_LOOKED_AT = 16


def trained_layers(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the trainable parameters by the module that owns them, the lowest layer first."""
    owned = {
        name: [p for p in module.parameters(recurse=False) if p.requires_grad]
        for name, module in model.named_modules()
    }
    return {name: parameters for name, parameters in owned.items() if parameters}


def activation_functions(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that are activation functions, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        # Attention is at home there too, and has parameters.
        if type(module).__module__ in ACTIVATION_HOMES and not list(module.parameters())
    }


@torch.no_grad()
def weights_and_gradients(
    layers: Sequence[Sequence[nn.Parameter]], gradient_scale: float
) -> dict[str, list[float]]:
    """Return a figure a layer: gradient_rms, gradient_max, weight_mean, weight_std.

    Gradients are those of all of a layer's parameters, as far as they have one; weights those of
    the largest of them, which leaves out biases.

    Args:
        gradient_scale: what gradients were multiplied with, as fp16 wants it.
    """
    rows = []
    for parameters in layers:
        weight = max(parameters, key=lambda parameter: parameter.numel()).float()
        gradients = [p.grad.float().flatten() for p in parameters if p.grad is not None]
        gradient = torch.cat(gradients) if gradients else weight.new_full((1,), torch.nan)
        rms = torch.linalg.vector_norm(gradient) / gradient.numel() ** 0.5
        largest = torch.linalg.vector_norm(gradient, torch.inf)
        mean = weight.mean()
        spread = torch.linalg.vector_norm(weight - mean) / weight.numel() ** 0.5
        rows.append(torch.stack([rms / gradient_scale, largest / gradient_scale, mean, spread]))
    columns = torch.stack(rows, dim=1).tolist()
    names = ("gradient_rms", "gradient_max", "weight_mean", "weight_std")
    return dict(zip(names, columns, strict=True))


def gradient_norm(layers: Sequence[Sequence[nn.Parameter]], gradient_rms: Sequence[float]) -> float:
    """Return the norm of all gradients together, from those of the layers."""
    sizes = [sum(p.numel() for p in of_layer if p.grad is not None) for of_layer in layers]
    return sum(n * rms**2 for n, rms in zip(sizes, gradient_rms, strict=True) if n) ** 0.5


class SilentUnits:
    """Measures which share of each activation function's units says nothing, while it listens.

    A unit is a channel of a photo's feature map, or a position of a token's features; it is silent
    where no photo and no place of the batch moves it.
    """

    def __init__(self, functions: Sequence[nn.Module]) -> None:
        self.functions = functions
        self.seconds = 0.0  # that the last looks took
        self._shares: dict[int, torch.Tensor] = {}
        self._hooks: list[RemovableHandle] = []

    def listen(self) -> None:
        """Look at the outputs of what runs from now on."""
        self.stop()  # a step that failed, for want of memory, may be made again
        self._shares, self.seconds = {}, 0.0
        for index, function in enumerate(self.functions):
            self._hooks.append(function.register_forward_hook(self._hook(index)))

    def stop(self) -> list[float]:
        """Stop, and return the shares, 0 to 1; nan for a function that did not run."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if not self._shares:
            return [torch.nan] * len(self.functions)
        nothing = torch.full_like(next(iter(self._shares.values())), torch.nan)
        shares = [self._shares.get(index, nothing) for index in range(len(self.functions))]
        return torch.stack(shares).tolist()

    def _hook(self, index: int) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def look(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            start = time.perf_counter()
            self._shares[index] = silent_share(output)
            self.seconds += time.perf_counter() - start

        return look


@torch.no_grad()
def silent_share(output: torch.Tensor) -> torch.Tensor:
    """Return the share of silent units, a scalar.

    Args:
        output: (batch, channels, height, width), or (batch, ..., features).
    """
    unit_dimension = 1 if output.ndim == 4 else output.ndim - 1
    others = [d for d in range(output.ndim) if d != unit_dimension]
    some = output[:PHOTOS_LOOKED_AT]
    largest = torch.maximum(some.amax(dim=others), -some.amin(dim=others)).float()
    return (largest <= SILENT * largest.amax()).float().mean()
