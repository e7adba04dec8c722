"""Each statistic falls or rises with what it is named after, and with little else."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from monitoring.photo_statistics import STATISTICS, photo_statistics


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Return a photo of soft shapes, 96 x 64, in warm light."""
    light = np.random.default_rng(1).uniform(40, 240, size=(16, 24, 1)) * [1, 0.85, 0.7]
    return Image.fromarray(light.astype(np.uint8)).resize((96, 64))


def told(photo: Image.Image, image_format: str = "PNG", **options: object) -> dict[str, float]:
    buffer = io.BytesIO()
    photo.save(buffer, image_format, **options)
    values = photo_statistics(buffer.getvalue(), 64)
    return dict(zip(STATISTICS, values.tolist(), strict=True))


def test_less_light_is_told_by_the_brightness_alone(photo: Image.Image) -> None:
    before, after = told(photo), told(photo.point(lambda value: round(0.6 * value)))
    assert after["brightness"] == pytest.approx(0.6 * before["brightness"], rel=0.01)
    for name in ("contrast", "sharpness", "warmth"):
        assert after[name] == pytest.approx(before[name], rel=0.03)


def test_lost_focus_flat_light_and_another_lamp_have_each_their_own(photo: Image.Image) -> None:
    before = told(photo)
    assert told(photo.filter(ImageFilter.GaussianBlur(3)))["sharpness"] < 0.7 * before["sharpness"]
    flat = told(ImageEnhance.Contrast(photo).enhance(0.5))
    assert flat["contrast"] == pytest.approx(0.5 * before["contrast"], rel=0.05)
    assert flat["sharpness"] == pytest.approx(before["sharpness"], rel=0.05)
    red, green, blue = photo.split()
    cold = told(Image.merge("RGB", (blue, green, red)))
    assert cold["warmth"] == pytest.approx(-before["warmth"], abs=0.002)


def test_numbers_are_those_of_a_photo_that_can_be_reckoned() -> None:
    stripes = Image.fromarray(np.tile(np.array([[0, 255]], dtype=np.uint8), (64, 32)))
    # Half of the steps are from black to white, the others, downwards, from like to like.
    expected = {"brightness": 0.5, "contrast": 1, "sharpness": 2 * 0.5**0.5, "warmth": 0}
    assert told(stripes) == pytest.approx(expected)
    black = told(Image.new("RGB", (64, 64)))
    assert black == pytest.approx({"brightness": 0, "contrast": 1, "sharpness": 0, "warmth": 0})


def test_a_photo_that_lies_on_its_side_is_as_the_endpoint_sees_it(photo: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn it right
    upright = told(photo.transpose(Image.Transpose.ROTATE_270), "JPEG", quality=100)
    assert told(photo, "JPEG", quality=100, exif=exif) == pytest.approx(upright, rel=0.01)


def test_what_is_no_photo_is_refused() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        photo_statistics(b"GIF89a", 64)
