import io
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageChops
from PIL.PngImagePlugin import PngInfo

from dataset.photos import (
    UnusablePhotoError,
    _check_whole,
    channel_mean_and_std,
    prepare_photo,
)


def noise(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(photo: Image.Image, image_format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def decoded(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as photo:
        assert photo.format == "JPEG"
        return np.array(photo)


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")],
)
def test_photos_of_every_mode_become_colour_squares(mode: str, image_format: str) -> None:
    photo = prepare_photo(encoded(noise(mode=mode), image_format), image_size=32)
    assert decoded(photo.jpeg).shape == (32, 32, 3)


# Left half, right half, as a viewer shows them. JPEG moves a colour by a little.
RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
GREY = (128, 128, 128)


def halves(mode: str, left: Any, right: Any) -> Image.Image:
    photo = Image.new(mode, (64, 64), right)
    photo.paste(left, (0, 0, 32, 64))
    return photo


def without_adobe_marker(jpeg: bytes) -> bytes:
    """Return a CMYK JPEG as others than Adobe write it: no APP14 marker, nothing inverted."""
    with Image.open(io.BytesIO(jpeg)) as photo:
        inverted = encoded(ImageChops.invert(photo), quality=95, subsampling=0)
    at = inverted.index(b"\xff\xee")
    length = int.from_bytes(inverted[at + 2 : at + 4], "big")
    return inverted[:at] + inverted[at + 2 + length :]


def sixteen_bit_grey() -> bytes:
    pixels = np.zeros((64, 64), dtype=np.uint16)
    pixels[:, :32] = 128 * 257
    return encoded(Image.fromarray(pixels), "PNG")


def palette(left: tuple[int, ...], right: tuple[int, ...], **options: Any) -> bytes:
    photo = halves("P", 0, 1)
    photo.putpalette([*left, *right])
    return encoded(photo, "PNG", **options)


CMYK = encoded(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), quality=95, subsampling=0)


@pytest.mark.parametrize(
    ("content", "left", "right"),
    [
        (CMYK, RED, WHITE),
        (without_adobe_marker(CMYK), RED, WHITE),
        (encoded(halves("L", 128, 255)), GREY, WHITE),
        (encoded(halves("RGB", RED, BLUE), progressive=True, quality=95), RED, BLUE),
        (encoded(halves("L", 128, 0), "PNG"), GREY, BLACK),
        (encoded(halves("1", 1, 0), "PNG"), WHITE, BLACK),
        (sixteen_bit_grey(), GREY, BLACK),
        (palette(RED, BLUE), RED, BLUE),
        # Nothing is to be seen of what lies under transparent pixels.
        (palette(RED, BLUE, transparency=1), RED, WHITE),
        (palette(RED, BLUE, transparency=b"\xff\x00"), RED, WHITE),
        (encoded(halves("RGBA", (*RED, 255), (*BLACK, 0)), "PNG"), RED, WHITE),
        (encoded(halves("RGBA", (*BLACK, 127), (*BLUE, 255)), "PNG"), GREY, BLUE),
        (encoded(halves("LA", (128, 255), (0, 0)), "PNG"), GREY, WHITE),
        (encoded(halves("RGB", RED, BLUE), "PNG", transparency=BLUE), RED, WHITE),
        (encoded(halves("L", 128, 0), "PNG", transparency=0), GREY, WHITE),
    ],
)
@pytest.mark.parametrize("image_size", [64, 32])
def test_photos_of_every_mode_look_as_a_viewer_shows_them(
    content: bytes, left: tuple[int, ...], right: tuple[int, ...], image_size: int
) -> None:
    pixels = decoded(prepare_photo(content, image_size).jpeg).astype(int)
    edge = 3 * image_size // 8  # not where two colours meet
    assert np.abs(pixels[:, :edge] - left).max() <= 4
    assert np.abs(pixels[:, -edge:] - right).max() <= 4


@pytest.mark.parametrize("mark", range(1, 9))
def test_a_camera_held_in_any_way_is_turned_back(mark: int) -> None:
    upright = Image.new("RGB", (64, 64), BLUE)
    upright.paste(RED, (0, 0, 64, 20))
    upright.paste(WHITE, (0, 0, 20, 20))
    # What the camera stores is what these, the inverse of the mark's own turn, make of it.
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    photo = upright.transpose(stored[mark]) if mark in stored else upright
    exif = Image.Exif()
    exif[0x0112] = mark
    content = encoded(photo, exif=exif, quality=95, subsampling=0)
    pixels = decoded(prepare_photo(content, 64).jpeg).astype(int)
    for place, colour in (((10, 10), WHITE), ((10, 50), RED), ((50, 10), BLUE), ((50, 50), BLUE)):
        assert np.abs(pixels[place] - colour).max() <= 6


def test_a_photo_is_squeezed_with_bilinear_resampling_and_not_cropped() -> None:
    content = encoded(noise(), "PNG")
    expected = noise().resize((32, 32), Image.Resampling.BILINEAR)
    assert prepare_photo(content, 32).jpeg == encoded(expected, quality=95)


def test_a_jpeg_of_the_right_form_is_not_encoded_again() -> None:
    content = encoded(noise(32, 32), quality=71)
    assert prepare_photo(content, 32).jpeg == content


def test_the_histogram_gives_the_mean_and_deviation_of_the_pixels() -> None:
    photo = prepare_photo(encoded(noise(32, 32)), 32)
    pixels = decoded(photo.jpeg) / 255
    mean, std = channel_mean_and_std(photo.histogram)
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1)))
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1)))


@pytest.mark.parametrize("size", [0, 1, 20, 200, 800])
def test_a_truncated_photo_is_unusable(size: int) -> None:
    content = encoded(noise())
    assert len(content) > 800
    with pytest.raises(UnusablePhotoError):
        prepare_photo(content[:size], 32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not found</html>", "not a JPEG or PNG photo"),
        (encoded(noise(), "GIF"), "not a JPEG or PNG photo"),
        (encoded(Image.new("1", (5001, 5000)), "PNG"), "larger than 25 megapixels"),
        (encoded(Image.new("1", (20000, 20000)), "PNG"), "larger than 25 megapixels"),
    ],
)
def test_what_is_no_photo_of_a_bin_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(UnusablePhotoError, match=reason):
        prepare_photo(content, 32)


PHOTO = encoded(noise(300, 200), quality=90)
DAMAGED = {
    "half of it": PHOTO[: len(PHOTO) // 2] + b"\xff\xd9",
    "4 KB missing": PHOTO[:9000] + PHOTO[9000 + 4096 :],
    "4 KB of zeros": PHOTO[:9000] + bytes(4096) + PHOTO[9000 + 4096 :],
    "the end cut off": PHOTO[:-40] + b"\xff\xd9",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_libjpeg_only_warns_of_is_damage(name: str) -> None:
    with Image.open(io.BytesIO(DAMAGED[name])) as photo:
        photo.load()  # Pillow says nothing
    with pytest.raises(UnusablePhotoError, match="damaged photo: Corrupt JPEG data"):
        prepare_photo(DAMAGED[name], 32)


def test_a_whole_photo_of_a_rare_form_is_no_damage() -> None:
    for options in ({"progressive": True}, {"keep_rgb": True}, {"subsampling": "4:2:2"}):
        prepare_photo(encoded(noise(), **options), 32)
    prepare_photo(PHOTO + b"what a phone writes behind it", 32)
    # Chroma of a third of the width, which simplejpeg does not know.
    at = PHOTO.index(b"\xff\xc0") + 11
    assert PHOTO[at] == 0x22
    odd = PHOTO[:at] + b"\x31" + PHOTO[at + 1 :]
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(odd, strict=False)
    _check_whole(odd)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 1), "a side of less than 16 pixels"),
        ((300, 15), "a side of less than 16 pixels"),
        ((20_000, 16), "more than 8 times as long as wide"),
        ((20, 161), "more than 8 times as long as wide"),
        ((16, 16), None),
        ((160, 20), None),
    ],
)
def test_a_size_or_shape_that_no_bin_has_is_named(
    size: tuple[int, int], reason: str | None
) -> None:
    for image_format in ("JPEG", "PNG"):
        content = encoded(noise(*size), image_format)
        if reason is None:
            prepare_photo(content, 32)
        else:
            with pytest.raises(UnusablePhotoError, match=reason):
                prepare_photo(content, 32)


def test_twelve_bits_that_are_stored_in_sixteen_are_not_black() -> None:
    pixels = np.full((64, 64), 4095, dtype=np.uint16)
    pixels[:, 32:] = 2048
    photo = prepare_photo(encoded(Image.fromarray(pixels), "PNG"), 64)
    assert decoded(photo.jpeg)[10, 10].min() >= 250
    assert np.abs(decoded(photo.jpeg)[10, 50].astype(int) - 128).max() <= 3


def test_a_png_with_a_bad_checksum_in_a_text_is_damaged_and_not_something_else() -> None:
    information = PngInfo()
    information.add_text("note", "bin 7")
    content = encoded(noise(), "PNG", pnginfo=information)
    with pytest.raises(UnusablePhotoError, match="damaged photo: its header cannot be read"):
        prepare_photo(content.replace(b"bin 7", b"bin 8"), 32)


def test_any_damage_is_unusable_or_a_photo_and_never_another_error() -> None:
    content = bytearray(encoded(noise()))
    generator = np.random.default_rng(1)
    unusable = 0
    for _ in range(300):
        damaged = bytes(content)
        for position in generator.integers(0, len(content), size=5):
            damaged = (
                damaged[:position] + bytes([generator.integers(256)]) + damaged[position + 1 :]
            )
        try:
            prepare_photo(damaged, 32)
        except UnusablePhotoError:
            unusable += 1
    assert 0 < unusable < 300
