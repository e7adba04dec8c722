"""What a photo looks like, in a few numbers that do not ask what it shows."""

import io

import numpy as np
from PIL import Image, ImageOps

# In the order of photo_statistics. None but the first changes with the light's strength alone.
STATISTICS = ("brightness", "contrast", "sharpness", "warmth")
MIN_CONTRAST = 1 / 255  # below it nothing is to be seen


def photo_statistics(content: bytes, image_size: int) -> np.ndarray:
    """Return the statistics of a photo, float (4,).

    - brightness: mean of the luma (ITU-R BT.601), 0 to 1.
    - contrast: its standard deviation, over its mean.
    - sharpness: what neighbouring pixels differ by, root of the mean square, over the standard
      deviation: it falls where focus is lost.
    - warmth: red light less blue light, over all light.

    Args:
        content: JPEG or PNG.
        image_size: edge of the square that photos are brought to first, pixels: sharpness and
            contrast depend on it, and the endpoint does the same.

    Raises: OSError: it is no photo, or damaged.
    """
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    photo = upright.resize((image_size, image_size), Image.Resampling.BILINEAR)
    luma = np.asarray(photo.convert("L"), dtype=np.float32) / 255
    spread = max(float(luma.std()), MIN_CONTRAST)
    steps = np.concatenate([np.diff(luma, axis=axis).ravel() for axis in (0, 1)])
    red, green, blue = np.asarray(photo).reshape(-1, 3).mean(axis=0) / 255
    return np.array(
        [
            luma.mean(),
            spread / max(float(luma.mean()), MIN_CONTRAST),
            np.sqrt(np.mean(steps**2)) / spread,
            (red - blue) / max(red + green + blue, MIN_CONTRAST),
        ]
    )
