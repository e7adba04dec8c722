"""Give a pretrained transformer positions for photos of another size than it was trained on.

A ViT adds to what it sees in each patch of a photo what it has learned of the patch's place, and
has as many places as its photos had patches. Those of a larger photo are interpolated between them.
"""

import copy
import math

import torch
from torch.nn import functional
from transformers import AutoModelForImageClassification, PreTrainedModel

# Tokens in front of the patches that have a position, too: that of the class, and DeiT's of the
# teacher.
MAX_TOKENS_IN_FRONT = 2


def fitted_to(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """Return a pretrained model that takes photos of this size, and whose config says so.

    It is the model itself where its config says this size or none, and where something else than
    positions on a square grid follows from the size: it may take the photos as it is, as BEiT with
    its biases between places does, and one of them will tell.

    Args:
        image_size: edge of the square photos, pixels.
    """
    config = copy.deepcopy(model.config)
    # Models of text and images keep the size with their half for images.
    of_images = getattr(config, "vision_config", config)
    own = getattr(of_images, "image_size", None)
    if own in (None, image_size, [image_size] * 2, (image_size,) * 2):
        return model
    of_images.image_size = image_size if isinstance(own, int) else [image_size] * 2
    try:
        fitted = AutoModelForImageClassification.from_config(config, dtype=model.dtype)
    except Exception:  # the libraries raise nearly anything for a size that a network cannot have
        return model
    weights, wanted = model.state_dict(), fitted.state_dict()
    if weights.keys() != wanted.keys():
        return model
    others = [name for name in weights if weights[name].shape != wanted[name].shape]
    for name in others:
        positions = interpolated(weights[name], wanted[name].shape) if "position" in name else None
        if positions is None:
            return model
        weights[name] = positions
    fitted.load_state_dict(weights)
    return fitted.train(model.training)


def interpolated(positions: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """Return what is known of places on one square grid for those of another one.

    Bicubic, as transformers does it where it is asked to, and for fewer places without aliasing, as
    timm does it. Source: Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021, section 3.2.

    Args:
        positions: float (..., num_places, num_features); tokens in front of the patches stay.
        shape: the same, of another number of places.

    Returns: None where these are no square grids.
    """
    if len(positions.shape) != len(shape) or positions.shape[-1] != shape[-1]:
        return None
    for in_front in range(MAX_TOKENS_IN_FRONT + 1):
        edge, new_edge = (math.isqrt(size - in_front) for size in (positions.shape[-2], shape[-2]))
        if (edge**2, new_edge**2) == (positions.shape[-2] - in_front, shape[-2] - in_front):
            break
    else:
        return None
    tokens, places = positions.split([in_front, edge**2], dim=-2)
    grid = places.reshape(-1, edge, edge, shape[-1]).permute(0, 3, 1, 2)
    grid = functional.interpolate(
        grid.float(), (new_edge, new_edge), mode="bicubic", antialias=new_edge < edge
    )
    places = grid.flatten(2).transpose(1, 2).reshape(*shape[:-2], new_edge**2, shape[-1])
    return torch.cat([tokens, places.to(positions.dtype)], dim=-2)


def uncovered_pixels(model: PreTrainedModel, image_size: int) -> tuple[int, int]:
    """Return how many pixels right and below no patch covers, and the edge of a patch.

    Some networks pad what a patch lacks: a photo tells, the last column of which is another one.
    """
    config = getattr(model.config, "vision_config", model.config)
    patch = getattr(config, "patch_size", None)
    if not isinstance(patch, int) or image_size % patch == 0:
        return 0, 0
    photos = torch.zeros(2, 3, image_size, image_size)
    photos[1, :, :, -1] = 1.0
    is_training = model.training
    with torch.no_grad():
        one, other = model.eval()(pixel_values=photos).logits
    model.train(is_training)
    return (image_size % patch, patch) if torch.equal(one, other) else (0, 0)
