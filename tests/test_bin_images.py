import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bin_images import UnusablePhotoError, channel_mean_and_std, prepare_photo


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


def test_a_photo_is_squeezed_with_bilinear_resampling_and_not_cropped() -> None:
    content = encoded(noise(), "PNG")
    expected = noise().resize((32, 32), Image.Resampling.BILINEAR)
    assert prepare_photo(content, 32).jpeg == encoded(expected, quality=95)


def test_a_turned_camera_is_turned_back() -> None:
    left_half_white = Image.new("RGB", (64, 64))
    left_half_white.paste((255, 255, 255), (0, 0, 32, 64))
    turned = left_half_white.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    pixels = decoded(prepare_photo(encoded(turned, exif=exif, quality=95), 64).jpeg)
    assert pixels[:, :28].min() > 200
    assert pixels[:, 36:].max() < 55


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
