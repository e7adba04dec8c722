"""Bytes from a stranger -> the pixels that the model was trained on, or a refusal.

The rules are those of data_prep/dataset/photos.py, written once more because this folder travels
alone (tests/contracts/test_photo_contract.py holds the two together), and two more against
attackers: the time that a photo may take, and the memory. The audit decodes with this, too.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageFile, ImageOps

from serving.request_errors import RequestError

try:
    import simplejpeg
except ImportError:  # a container that installs nothing: Pillow passes over libjpeg's warnings
    simplejpeg = None

MAX_PIXELS = 25_000_000
# A model sees a square: of smaller and of longer photos nothing is left to count.
MIN_SIDE, MAX_ASPECT = 16, 8
FORMATS = ("JPEG", "PNG")  # by the file's own first bytes, whatever the request calls it
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
# A progressive JPEG needs about ten scans. A few bytes make a scan that takes the decoder through
# all pixels once more: 5 MB of them would keep a core busy for an hour.
MAX_SCANS = 100
START_OF_SCAN = b"\xff\xda"
# What a pixel takes, nanoseconds of a core of an AMD EPYC: of a JPEG, of each of its scans (as some
# are read twice, see _decoded), and of a see-through PNG.
JPEG_PIXEL, SCANNED_PIXEL, PNG_PIXEL = 12, 2, 25
MAX_NANOSECONDS = 6_000_000_000  # 35 photos of 12 megapixels
# A see-through PNG of 25 megapixels takes 480 MB while it is decoded: photos above this size are
# taken one at a time, however many requests there are, and by one thread: of each thread that held
# one, glibc keeps the memory.
LARGE_PIXELS = 4_000_000
_one_large_photo = ThreadPoolExecutor(1)
GREY_DEPTHS = (8, 10, 12, 14, 16)  # bits of a camera's sample that is stored in 16

SMALLEST = {"min_height": 1, "min_width": 1, "min_factor": 1}  # simplejpeg's, an eighth

DAMAGED = "The photo is damaged or truncated."

assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a truncated photo must not pass as a whole one"

T = TypeVar("T")


class Budget:
    """The time that the photos of one request may take together; its threads share it.

    Args:
        nanoseconds: of a core.
    """

    def __init__(self, nanoseconds: int = MAX_NANOSECONDS) -> None:
        self._left = nanoseconds
        self._lock = threading.Lock()

    def spend(self, nanoseconds: int) -> None:
        """Take what a photo needs. Raises: RequestError: there is not so much left (413)."""
        with self._lock:
            self._left -= nanoseconds
            if self._left < 0:
                raise RequestError(413, "The photos have too many pixels and scans together.")


def sees_damage() -> bool:
    """Return whether JPEGs that lost a part are refused, as far as libjpeg notices."""
    return simplejpeg is not None


def decode_photo(
    content: bytes, size: tuple[int, int], resample: int, budget: Budget | None = None
) -> np.ndarray:
    """Return a photo as training saw it, uint8 (height, width, 3).

    Args:
        content: the file's bytes.
        size: height and width that the model takes, pixels; the photo is squeezed, not cropped.
        resample: Pillow's code of the resampler, from the model folder's image processor.
        budget: of the request; None: the photo has one of its own.

    Raises: RequestError: as use_photo.
    """
    return use_photo(content, lambda photo: squeezed(photo, size, resample), budget)


def squeezed(photo: Image.Image, size: tuple[int, int], resample: int) -> np.ndarray:
    """Return the pixels of an opened photo, as decode_photo does."""
    height, width = size
    return np.array(photo.resize((width, height), resample))


def use_photo(content: bytes, use: Callable[[Image.Image], T], budget: Budget | None = None) -> T:
    """Return what `use` makes of a photo in colour and upright, whatever its mode.

    Large photos are decoded and used one at a time: no more than one is ever in memory, as long as
    `use` keeps none.

    Raises: RequestError: not a JPEG or PNG (415); damaged, truncated or no bin by its shape (400);
        too large, or over the budget (413).
    """
    budget = budget or Budget()
    with _refusals():
        photo = _read_header(content)
        budget.spend(_nanoseconds(photo, content))

    def decode_and_use(photo: ImageFile.ImageFile) -> T:
        with _refusals():
            upright = _upright_colours(_decoded(photo, content, budget))
        return use(upright)

    if photo.width * photo.height <= LARGE_PIXELS:
        return decode_and_use(photo)
    # Opened anew: this one would hold its pixels while this thread waits to go on.
    return _one_large_photo.submit(decode_and_use, _read_header(content)).result()


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Pillow raises for photos of strangers into refusals."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except (RequestError, MemoryError):
        raise
    # A damaged file makes Pillow raise nearly anything.
    except Exception as error:
        raise RequestError(400, DAMAGED) from error


def _read_header(content: bytes) -> ImageFile.ImageFile:
    """Return a photo that is not decoded yet, if it may be."""
    if not content.startswith(MAGIC):
        raise RequestError(415, "The photo is not a JPEG or PNG file.")
    with warnings.catch_warnings():
        # Pillow warns of what is refused here.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        photo = Image.open(io.BytesIO(content), formats=FORMATS)
    short, long = sorted(photo.size)
    if short * long > MAX_PIXELS:
        raise _too_large()
    if short < MIN_SIDE:
        raise RequestError(400, f"A side of the photo has fewer than {MIN_SIDE} pixels.")
    if long > MAX_ASPECT * short:
        raise RequestError(400, f"The photo is more than {MAX_ASPECT} times as long as wide.")
    if photo.format != "PNG" and content.count(START_OF_SCAN) > MAX_SCANS:
        raise RequestError(400, f"The photo has more than {MAX_SCANS} scans.")
    return photo


def _nanoseconds(photo: ImageFile.ImageFile, content: bytes) -> int:
    """Return what decoding takes of a core."""
    if photo.format == "PNG":
        return photo.width * photo.height * PNG_PIXEL
    scans = content.count(START_OF_SCAN)
    return photo.width * photo.height * (JPEG_PIXEL + SCANNED_PIXEL * scans)


def _decoded(photo: ImageFile.ImageFile, content: bytes, budget: Budget) -> Image.Image:
    """Return a photo with its pixels: of a JPEG of three colours in the pass that sees damage.

    Another JPEG is looked through for damage at an eighth of its size, and decoded by Pillow.

    Raises: RequestError: damaged (400); over the budget (413).
    """
    if simplejpeg is not None and photo.format != "PNG":
        if photo.format == "JPEG" and photo.mode == "RGB" and _has_size_of(photo, content):
            pixels = _pixels_of_whole(content)
            if pixels is not None:
                decoded = Image.fromarray(pixels)
                decoded.info = photo.info  # which way is up
                return decoded
            budget.spend(_nanoseconds(photo, content))  # once more, now by Pillow
        else:
            colours = "CMYK" if photo.mode == "CMYK" else "GRAY"
            _pixels_of_whole(content, colorspace=colours, **SMALLEST)
    photo.load()
    return photo


def _has_size_of(photo: ImageFile.ImageFile, content: bytes) -> bool:
    """Return whether simplejpeg reads the size that Pillow does, and that was checked.

    It decides how much memory is taken.
    """
    # It knows no name of some samplings, such as 4:4:1.
    with contextlib.suppress(ValueError, KeyError):
        height, width, *_ = simplejpeg.decode_jpeg_header(content)
        return (width, height) == photo.size
    return False


def _pixels_of_whole(content: bytes, **form: Any) -> np.ndarray | None:
    """Return the pixels of a JPEG that libjpeg does not warn of; None for what it does not know.

    Where it warns, what is missing is grey, and Pillow says nothing.

    Raises: RequestError: damaged (400).
    """
    try:
        return simplejpeg.decode_jpeg(content, **form, strict=True)
    except ValueError as error:
        with contextlib.suppress(ValueError):  # more than a warning: Pillow has to judge
            simplejpeg.decode_jpeg(content, **(form | SMALLEST), strict=False)
            raise RequestError(400, DAMAGED) from error
    return None


def _upright_colours(photo: Image.Image) -> Image.Image:
    # In place, and converted only if need be: a copy of 25 megapixels takes 100 MB.
    ImageOps.exif_transpose(photo, in_place=True)
    return photo if photo.mode == "RGB" and not photo.has_transparency_data else _as_rgb(photo)


def _as_rgb(photo: Image.Image) -> Image.Image:
    """Return a photo of any mode in colour, as a viewer shows it on a white page."""
    if photo.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        samples = np.asarray(photo)
        # By their range: a PNG's samples have to fill all sixteen bits, so its sBIT chunk does not
        # tell those that do not, as they came from the sensor. Of twelve bits nothing but black
        # would be left, 15 of 255.
        depth = next(depth for depth in GREY_DEPTHS if samples.max() < 2**depth)
        photo = Image.fromarray((samples >> (depth - 8)).astype(np.uint8))
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
