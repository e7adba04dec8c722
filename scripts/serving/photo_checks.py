"""Bytes from a stranger -> the pixels that the model was trained on, or a refusal.

The rules are those of data_prep/dataset/photos.py, written once more because this folder travels
alone (tests/contracts/test_photo_contract.py holds the two together), and one more against
attackers.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image, ImageChops, ImageFile, ImageOps

from serving.request_errors import RequestError

MAX_PIXELS = 25_000_000
FORMATS = ("JPEG", "PNG")  # by the file's own first bytes, whatever the request calls it
# A progressive JPEG needs about ten scans. A few bytes make a scan that takes the decoder through
# all pixels once more: 5 MB of them would keep a core busy for an hour.
MAX_SCANS = 100
START_OF_SCAN = b"\xff\xda"
# A see-through PNG of 25 megapixels takes 480 MB while it is decoded: photos above this size are
# taken one at a time, however many requests there are, and by one thread: of each thread that held
# one, glibc keeps the memory.
LARGE_PIXELS = 4_000_000
_one_large_photo = ThreadPoolExecutor(1)

assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated photo must not pass as a whole one"


def decode_photo(content: bytes, size: tuple[int, int], resample: int) -> np.ndarray:
    """Return a photo as training saw it, uint8 (height, width, 3).

    Args:
        content: the file's bytes.
        size: height and width that the model takes, pixels; the photo is squeezed, not cropped.
        resample: Pillow's code of the resampler, from the model folder's image processor.

    Raises: RequestError: as open_photo.
    """
    with _refusals():
        photo = _read_header(content)
        if photo.width * photo.height > LARGE_PIXELS:
            # Opened anew: this one would hold its pixels while this thread waits to go on.
            return _one_large_photo.submit(_decoded, _read_header(content), size, resample).result()
        return _decoded(photo, size, resample)


def squeezed(photo: Image.Image, size: tuple[int, int], resample: int) -> np.ndarray:
    """Return the pixels of an opened photo, as decode_photo does."""
    height, width = size
    return np.array(photo.resize((width, height), resample))


def open_photo(content: bytes) -> Image.Image:
    """Return a photo in colour and upright, whatever its mode.

    Raises: RequestError: not a JPEG or PNG (415), damaged or truncated (400), too large (413).
    """
    with _refusals():
        return _upright_colours(_read_header(content))


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Pillow raises for photos of strangers into refusals."""
    try:
        yield
    except Image.UnidentifiedImageError as error:
        raise RequestError(415, "The photo is not a JPEG or PNG file.") from error
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except (RequestError, MemoryError):
        raise
    # A damaged file makes Pillow raise nearly anything.
    except Exception as error:
        raise RequestError(400, "The photo is damaged or truncated.") from error


def _read_header(content: bytes) -> ImageFile.ImageFile:
    """Return a photo that is not decoded yet, if it may be."""
    with warnings.catch_warnings():
        # Pillow warns of what is refused here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        photo = Image.open(io.BytesIO(content), formats=FORMATS)
    if photo.width * photo.height > MAX_PIXELS:
        raise _too_large()
    if photo.format != "PNG" and content.count(START_OF_SCAN) > MAX_SCANS:
        raise RequestError(400, f"The photo has more than {MAX_SCANS} scans.")
    return photo


def _decoded(photo: Image.Image, size: tuple[int, int], resample: int) -> np.ndarray:
    return squeezed(_upright_colours(photo), size, resample)


def _upright_colours(photo: Image.Image) -> Image.Image:
    photo.load()
    # In place, and converted only if need be: a copy of 25 megapixels takes 100 MB.
    ImageOps.exif_transpose(photo, in_place=True)
    return photo if photo.mode == "RGB" and not photo.has_transparency_data else _as_rgb(photo)


def _as_rgb(photo: Image.Image) -> Image.Image:
    """Return a photo of any mode in colour, as a viewer shows it on a white page."""
    if photo.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        photo = Image.fromarray((np.asarray(photo) >> 8).astype(np.uint8))
    elif photo.mode == "CMYK" and "adobe" not in photo.info:
        # Adobe stores CMYK inverted, and Pillow takes every file for one of Adobe's.
        photo = ImageChops.invert(photo)
    if not photo.has_transparency_data:
        return photo.convert("RGB")
    photo = photo.convert("RGBA")
    page = Image.new("RGBA", photo.size, "white")
    return Image.alpha_composite(page, photo).convert("RGB")


def _too_large() -> RequestError:
    return RequestError(413, f"The photo has more than {MAX_PIXELS // 1_000_000} megapixels.")
