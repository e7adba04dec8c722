"""What happens to a batch of photos on the device, between the workers and the model.

Workers hand over uint8; a quarter of the bytes of float32 cross to the device, and one pass there
does what would keep a core busy for each photo. Nothing here can change a count: no photo loses an
edge, and what is erased is smaller than an item. All randomness is that of the device's own
generator, which checkpoints hold.

Photos of one run (visits/batches.py) are flipped and turned alike, so that what differs is what was
put or taken; where no photo belongs to another, each is a run.
"""

import math

import torch
from torch.distributions import Beta
from torch.nn import functional

# How far a photo may be changed, on a scale where 0 leaves it alone.
MAX_ROTATION = math.radians(8)
MIN_SCALE = 0.8
MAX_SHEAR = 0.08
MAX_BRIGHTNESS = 0.3  # offset and contrast in standard deviations of the photos
MAX_CONTRAST = 0.3
MAX_SATURATION = 0.3
MAX_TINT = 0.1
BLURRED_SHARE = 0.25
# Edges of an erased patch as a share of the photo's: the smallest items are larger.
PATCH_EDGES = (0.03, 0.08)
PATCHES = 3
# How far photos of one bin are moved apart, a share of how far any two are. Two visits hardly: they
# lie apart already, half of them by 8 pixels of 224 and more. A photo that is shown twice does not,
# and is moved as far: half of them by 7 pixels and more.
APART, APART_SEEN_TWICE = 0.05, 0.7
MIXUP_ALPHA = 0.2  # Zhang et al., mixup: Beyond empirical risk minimization, ICLR 2018


def random_flip(pixel_values: torch.Tensor, run: torch.Tensor) -> torch.Tensor:
    """Mirror each run of photos left to right with probability one half: it cannot change a count.

    Args:
        pixel_values: (batch, 3, height, width), of any type.
        run: int64 (batch,), which run each photo is in, from 0 on.
    """
    mirrored = torch.rand(pixel_values.shape[0], device=pixel_values.device)[run] < 0.5
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
    # In place, on a copy: a third of the time.
    return pixel_values.to(torch.float32, copy=True).sub_(offset).div_(scale)


def random_geometry(
    pixel_values: torch.Tensor, run: torch.Tensor, apart: torch.Tensor | None = None
) -> torch.Tensor:
    """Turn, shear, shrink and shift each photo inside its frame, and keep all of it in sight.

    What it leaves of the frame is filled with the mean colour.

    Args:
        pixel_values: float (batch, 3, height, width), normalized.
        run: as in random_flip.
        apart: float (batch,), how far each is moved apart from the others of its run, a share of
            how far any two are; None: not at all.
    """
    moves = random_moves(run, apart)
    grid = functional.affine_grid(moves, list(pixel_values.shape), align_corners=False)
    return functional.grid_sample(pixel_values, grid, align_corners=False)


def random_moves(run: torch.Tensor, apart: torch.Tensor | None = None) -> torch.Tensor:
    """Return matrices for `affine_grid`, float (num_photos, 2, 3): frame to photo, both -1 to 1.

    All four corners of a photo stay in its frame.

    Args: as in random_geometry.
    """

    def nearly(numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers of the runs, (..., num_photos), moved apart."""
        return numbers if apart is None else numbers.lerp(torch.rand_like(numbers), apart)

    # A strength of its own for each run: some stay nearly as they are, as all are in evaluation.
    strength, angle, shear, size = nearly(torch.rand(4, len(run), device=run.device)[:, run])
    angle = (2 * angle - 1) * strength * MAX_ROTATION
    shear = (2 * shear - 1) * strength * MAX_SHEAR
    scale = 1 - size * strength * (1 - MIN_SCALE)
    cosine, sine = angle.cos(), angle.sin()
    forward = torch.stack(
        [torch.stack([cosine, shear - sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1
    )
    # How far the photo's corners reach along each axis: further than 1 is out of the frame.
    reach = forward.abs().sum(dim=2).amax(dim=1)
    forward = forward * (scale / reach.clamp(min=1))[:, None, None]
    room = 1 - forward.abs().sum(dim=2)
    shift = (2 * nearly(torch.rand(len(run), 2, device=run.device)[run].T).T - 1) * room
    backward = torch.linalg.inv(forward)
    return torch.cat([backward, -backward @ shift[:, :, None]], dim=2)


def random_colour(pixel_values: torch.Tensor) -> torch.Tensor:
    """Change light, contrast and colours of each photo, blur some, and erase small patches.

    Args:
        pixel_values: float (batch, 3, height, width), normalized.
    """
    num_photos, num_channels = pixel_values.shape[:2]
    device = pixel_values.device
    brightness, contrast, saturation = 2 * torch.rand(3, num_photos, 1, 1, device=device) - 1
    tint = 2 * torch.rand(num_photos, num_channels, 1, device=device) - 1
    saturation = 1 + saturation * MAX_SATURATION
    identity = torch.eye(num_channels, device=device)
    # All of it is linear in the channels: one small matrix and one offset a photo.
    mixing = saturation * identity + (1 - saturation) / num_channels
    mixing = mixing * (1 + contrast * MAX_CONTRAST)
    offset = brightness * MAX_BRIGHTNESS + tint * MAX_TINT
    changed = torch.baddbmm(offset, mixing, pixel_values.flatten(2)).reshape(pixel_values.shape)
    return _erase_patches(_blur_some(changed))


def _blur_some(pixel_values: torch.Tensor) -> torch.Tensor:
    """Average each pixel of some photos with its neighbours; changes its argument."""
    num_photos, device = len(pixel_values), pixel_values.device
    # Not the first ones: those are shown twice where changes are learned.
    chosen = torch.randperm(num_photos, device=device)[: round(BLURRED_SHARE * num_photos)]
    sharp = pixel_values[chosen]
    blurred = functional.avg_pool2d(sharp, 3, stride=1, padding=1, count_include_pad=False)
    strength = torch.rand(len(chosen), 1, 1, 1, device=device)
    pixel_values[chosen] = sharp.lerp(blurred, strength)
    return pixel_values


def _erase_patches(pixel_values: torch.Tensor) -> torch.Tensor:
    """Fill up to PATCHES small rectangles of each photo with the mean colour, in place."""
    num_photos, _, height, width = pixel_values.shape
    device = pixel_values.device
    smallest, largest = PATCH_EDGES
    is_in = []
    for length in (height, width):
        edge = smallest + (largest - smallest) * torch.rand(num_photos, PATCHES, 1, device=device)
        start = torch.rand(num_photos, PATCHES, 1, device=device) * (1 - edge)
        place = (torch.arange(length, device=device) + 0.5) / length
        is_in.append((place >= start) & (place < start + edge))
    rows, columns = is_in
    erased = (rows[:, :, :, None] & columns[:, :, None, :]).any(dim=1, keepdim=True)
    return pixel_values.masked_fill_(erased, 0.0)


def mixing_shares(run: torch.Tensor) -> torch.Tensor:
    """Return how much of its partner is mixed into each photo, float (batch,), alike in a run.

    Source: Zhang et al., as above.
    """
    alpha = torch.full((len(run), 1), MIXUP_ALPHA, device=run.device)
    return Beta(alpha, alpha).sample()[run, 0]


def mixed(values: torch.Tensor, partner: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Mix each photo of a batch with another one; what is to be said of them is mixed alike.

    Targets say with which probability a bin holds each count; a mean of two counts, which neither
    photo shows, is nowhere in them.

    Args:
        values: float (batch, ...): photos or targets.
        partner: int64 (batch,), rows of `values`. share: float (batch,), of mixing_shares.
    """
    return torch.lerp(values, values[partner], share.reshape(-1, *[1] * (values.dim() - 1)))
