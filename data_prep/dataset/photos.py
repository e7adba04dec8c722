"""Turn one photo from the bucket into the JPEG that the dataset stores."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image, ImageChops, ImageFile, ImageOps

from dataset.equal_photos import photo_hash

# One resampler, one quality, named once: another resampler moves a probability by 0.03-0.05.
# Serving resizes with the same one, through the model folder's image processor.
RESAMPLE = Image.Resampling.BILINEAR
JPEG_QUALITY = 95
# Larger ones are no photos of this camera (0.3 megapixels), and decoding them is an attack surface.
MAX_PIXELS = 25_000_000
# What is smaller or longer shows no bin. The endpoint has the same bounds.
MIN_SIDE = 16  # pixels, of the shorter side
MAX_ASPECT = 8  # longer side to shorter
FORMATS = ("JPEG", "PNG")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # the first bytes of these
# Bits of a camera's sample that is stored in 16. The endpoint has the same.
GREY_DEPTHS = (8, 10, 12, 14, 16)

assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated photo must not pass as a whole one"


class UnusablePhotoError(Exception):
    """The photo cannot be used; the message is the reason, for the list of what was set aside."""


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo as stored: `jpeg`, image_size x image_size, and `histogram`, int (3, 256), pixels.

    `hash` is that of equal_photos.photo_hash: no bytes for a flat photo.
    """

    jpeg: bytes
    histogram: np.ndarray
    hash: bytes


def prepare_photo(content: bytes, image_size: int) -> PreparedPhoto:
    """Decode, check and resize one photo.

    A JPEG that already has the right form is stored as it is: encoding twice only loses detail.

    Args:
        content: the file's bytes.
        image_size: edge of the square that is stored, pixels. The photo is squeezed, not cropped:
            a crop can cut an item away and falsify the count.

    Raises: UnusablePhotoError: not a JPEG or PNG, damaged, truncated, or of a size or shape that no
        photo of a bin has.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as photo:
            _check_size(*photo.size)
            decoded = _decode(photo, content)
            keep_bytes = (
                photo.format == "JPEG"
                and photo.mode == "RGB"
                and photo.size == (image_size, image_size)
                and photo.getexif().get(0x0112, 1) == 1  # 0x0112: Orientation, 1: upright
            )
            pixels = decoded if keep_bytes else _resize(decoded, image_size)
            jpeg = content if keep_bytes else _encode(pixels)
            return PreparedPhoto(jpeg, histogram_of(pixels), photo_hash(pixels))
    except Image.UnidentifiedImageError as error:
        if content.startswith(SIGNATURES):
            raise UnusablePhotoError("damaged photo: its header cannot be read") from error
        raise UnusablePhotoError("not a JPEG or PNG photo") from error
    except Image.DecompressionBombError as error:
        raise UnusablePhotoError(f"larger than {MAX_PIXELS // 1_000_000} megapixels") from error
    except UnusablePhotoError:
        raise
    # A damaged file makes Pillow raise nearly anything; one photo must never end a run.
    except Exception as error:
        raise UnusablePhotoError(f"damaged photo: {error}") from error


def histogram_of(pixels: Image.Image) -> np.ndarray:
    """Return how many pixels of an RGB photo have each value, int (3, 256)."""
    return np.array(pixels.histogram(), dtype=np.int64).reshape(3, 256)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusablePhotoError(f"larger than {MAX_PIXELS // 1_000_000} megapixels")
    if min(width, height) < MIN_SIDE:
        raise UnusablePhotoError(f"a side of less than {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnusablePhotoError(f"more than {MAX_ASPECT} times as long as wide")


def _decode(photo: ImageFile.ImageFile, content: bytes) -> Image.Image:
    """Return a photo with its pixels; a JPEG of three colours in one pass that sees all damage.

    Raises: Exception: nearly any, for a damaged file.
    """
    if photo.format == "JPEG" and photo.mode == "RGB":
        # Whatever is wrong, what follows says it in Pillow's words.
        with contextlib.suppress(ValueError):
            decoded = Image.fromarray(simplejpeg.decode_jpeg(content, strict=True))
            decoded.info = photo.info  # which way is up
            return decoded
    photo.load()
    if photo.format != "PNG":
        _check_whole(content)
    return photo


def _check_whole(content: bytes) -> None:
    """Raise ValueError where libjpeg only warns: it paints grey what a damaged JPEG lacks.

    Pillow does not show these warnings. In grey and at an eighth of its size a photo is read to its
    end in a fifth of the time that making its pixels takes.
    """
    form = {"colorspace": "GRAY", "fastdct": True, "fastupsample": True}
    form |= {"min_height": 1, "min_width": 1}
    try:
        simplejpeg.decode_jpeg(content, **form, strict=True)
    except ValueError as warning:
        try:
            simplejpeg.decode_jpeg(content, **form, strict=False)
        except ValueError:
            return  # a form that it does not know at all: Pillow is to judge
        raise warning


def _resize(photo: Image.Image, image_size: int) -> Image.Image:
    # In place, and converted only where needed: a copy of every full photo takes time.
    ImageOps.exif_transpose(photo, in_place=True)
    upright = photo if photo.mode == "RGB" and not photo.has_transparency_data else as_rgb(photo)
    return upright.resize((image_size, image_size), RESAMPLE)


def as_rgb(photo: Image.Image) -> Image.Image:
    """Return a photo of any mode in colour, as a viewer shows it on a white page."""
    if photo.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        samples = np.asarray(photo)
        # Twelve bits as they came from the sensor would be black: 15 of 255 at most.
        depth = next(depth for depth in GREY_DEPTHS if samples.max() < 2**depth)
        photo = Image.fromarray((samples >> (depth - 8)).astype(np.uint8))
    elif photo.mode == "CMYK" and "adobe" not in photo.info:
        # Adobe stores CMYK inverted, and Pillow takes every file for one of Adobe's.
        photo = ImageChops.invert(photo)
    if not photo.has_transparency_data:
        return photo.convert("RGB")
    # Under transparent pixels any colour may hide, black most often: white is what people see.
    photo = photo.convert("RGBA")
    page = Image.new("RGBA", photo.size, "white")
    return Image.alpha_composite(page, photo).convert("RGB")


def _encode(pixels: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pixels.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def channel_mean_and_std(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel, (3,) each, on a scale of 0 to 1.

    Args:
        histogram: int (3, 256), how many pixels have each value.
    """
    values = np.arange(256) / 255
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    mean = shares @ values
    return mean, np.sqrt(shares @ values**2 - mean**2)
