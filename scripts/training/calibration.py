"""Make probabilities mean what they say: one temperature, fitted on validation, in the classifier.

A temperature divides all logits: it changes no bin's most likely count, only how sure the model is.
Source: Guo et al., On calibration of modern neural networks, ICML 2017.
"""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from count_distribution import confidence_levels

# A model that is right, or wrong, about every photo would ask for a temperature without end.
LOWEST, HIGHEST = 0.05, 20.0


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the softmax, float64, of the same shape (num_bins, num_counts)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature with the least negative log likelihood, from LOWEST to HIGHEST.

    The likelihood is concave in the temperature's inverse, so the root of its slope, found by
    halving, is the only one.

    Args:
        logits: float (num_bins, num_counts).
        labels: int (num_bins,), label ids.
    """
    wide = logits.astype(np.float64)
    of_truth = wide[np.arange(len(labels)), labels].mean()
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(60):
        middle = np.sqrt(low * high)
        expected = (np.exp(log_probabilities(wide * middle)) * wide).sum(axis=1).mean()
        low, high = (middle, high) if expected <= of_truth else (low, middle)
    return float(1 / np.sqrt(low * high))


def calibration_figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return `loss`, the mean negative log likelihood, and `error`, the calibration error.

    The error is the distance between confidence and accuracy, averaged over ten levels of
    confidence, each weighted by its bins. Source: Naeini et al., Obtaining well calibrated
    probabilities using Bayesian binning, AAAI 2015.

    Args: as in fitted_temperature.
    """
    logarithms = log_probabilities(logits)
    confidence = np.exp(logarithms.max(axis=1))
    is_right = logits.argmax(axis=1) == labels
    excess = np.bincount(confidence_levels(confidence), weights=confidence - is_right)
    return {
        "loss": float(-logarithms[np.arange(len(labels)), labels].mean()),
        "error": float(np.abs(excess).sum() / len(labels)),
    }


def before_and_after(
    split: str, logits: np.ndarray, labels: np.ndarray, temperature: float
) -> dict[str, float]:
    """Return the figures of a split without and with a temperature, named for a run's results.

    Args:
        logits: float (num_bins, num_counts), before the temperature.
    """
    scaled = {"before": logits, "after": logits / temperature}
    return {
        f"calibration_{split}_{name}_{moment}": value
        for moment, of_moment in scaled.items()
        for name, value in calibration_figures(of_moment, labels).items()
    }


@torch.no_grad()
def fold_temperature(model: PreTrainedModel, temperature: float, image_size: int) -> None:
    """Divide the classifier's weights and biases, and so its logits, by a temperature.

    Which linear layers are the classifier is found out by trying: some layers within a network have
    as many outputs as there are counts, and a distilled one has two classifiers.

    Args:
        image_size: edge of the photos that the model takes, pixels.

    Raises: ValueError: the logits are not those of linear layers with an output for each count; the
        model is as it was.
    """
    linear = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    wanted = _drawn_logits(model, image_size) / temperature
    for heads in (linear[-1:], linear[-2:]):
        kept = [(p, p.clone()) for head in heads for p in head.parameters()]
        for parameter, _ in kept:
            parameter.div_(temperature)
        # Not the bits: sums are rounded, those near zero by more than they are themselves.
        tolerance = 1e-2 * float(wanted.abs().max())
        if torch.allclose(_drawn_logits(model, image_size), wanted, atol=tolerance, rtol=0):
            return
        for parameter, value in kept:
            parameter.copy_(value)
    raise ValueError(f"{type(model).__name__} ends in no linear layer")


def _drawn_logits(model: PreTrainedModel, image_size: int) -> torch.Tensor:
    """Return the logits of two photos of noise, in full precision, (2, num_counts)."""
    parameter = next(model.parameters())
    noise = torch.randn((2, 3, image_size, image_size), generator=torch.Generator().manual_seed(0))
    is_training = model.training
    # The class's own forward: accelerate wraps the instance's in autocast.
    logits = type(model).forward(model.eval(), pixel_values=noise.to(parameter)).logits
    model.train(is_training)
    return logits.float()
