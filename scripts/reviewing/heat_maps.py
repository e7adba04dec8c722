"""Where in a photo a model sees what it counts: integrated gradients, of any family.

The photo is faded in from its mean colour, and the gradient of the answer at each pixel is averaged
on the way (Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017): times
what the pixel differs from the mean colour in, that is what it adds to the answer. No layer has to
be chosen for it, and none is always right: the last feature map of a small ResNet is coarse, and
the last attention of a ViT dwells on corners where nothing is.

The answer is how far the logits lean to larger counts: a place above 0 speaks for more items, one
below 0 for fewer, whatever the record says. The expected count would say the same where the model
doubts, and next to nothing where it is sure. Of two photos of a bin: ChangeHead.heat_maps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

EDGE = 14  # places: patches of 16 pixels in photos of 224
NUM_STEPS = 4  # of fading in; each costs an answer and its gradient


def heat_maps(model: Any, pixel_values: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return what each place adds to the lean to larger counts, float (num_photos, EDGE, EDGE).

    Args:
        model: an image classifier in evaluation mode.
        pixel_values: float (num_photos, 3, height, width), normalized.
        counts: (num_counts,), items, in the order of its logits.
    """
    blank = pixel_values.mean(dim=(2, 3), keepdim=True)
    difference = pixel_values - blank
    added = torch.zeros_like(pixel_values)
    for step in range(NUM_STEPS):
        faded = (blank + difference * (step + 0.5) / NUM_STEPS).requires_grad_()
        with torch.enable_grad():
            lean = lean_to_more(model(pixel_values=faded).logits, counts)
        (gradient,) = torch.autograd.grad(lean.sum(), faded)
        added += gradient * difference / NUM_STEPS
    of_pixels = added.sum(dim=1)
    # The mean over the pixels of a place, times how many there are.
    share = of_pixels[0].numel() / EDGE**2
    return functional.adaptive_avg_pool2d(of_pixels, EDGE) * share


def lean_to_more(logits: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """Return by how much a logit is larger than that of one item less, on average: (num_photos,).

    The slope of the line through the logits, by least squares.
    """
    items = logits.new_tensor(counts)
    items = items - items.mean()
    return logits @ items / items.square().sum()
