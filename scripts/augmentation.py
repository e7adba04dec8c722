"""What happens to a batch of photos on the device, between the workers and the model.

Workers hand over uint8; a quarter of the bytes of float32 cross to the device, and one pass there
does what would keep a core busy for each photo.
"""

import torch


def random_flip(pixel_values: torch.Tensor) -> torch.Tensor:
    """Mirror each photo left to right with probability one half: it cannot change a count.

    Args:
        pixel_values: (batch, 3, height, width), of any type.
    """
    mirrored = torch.rand(pixel_values.shape[0], device=pixel_values.device) < 0.5
    return torch.where(mirrored[:, None, None, None], pixel_values.flip(-1), pixel_values)


def normalize(pixel_values: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """Turn bytes into what the model was trained on, as its image processor does.

    Args:
        pixel_values: uint8 (batch, 3, height, width).
        mean, std: of each channel, on a scale of 0 to 1.

    Returns: float32 (batch, 3, height, width).
    """
    channels = (1, -1, 1, 1)
    scale = torch.tensor(std, device=pixel_values.device).mul(255).reshape(channels)
    offset = torch.tensor(mean, device=pixel_values.device).mul(255).reshape(channels)
    return (pixel_values.float() - offset) / scale
