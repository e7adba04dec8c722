"""Data prep, image processor and endpoint make the same pixels of a photo, and refuse the same."""

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from transformers import ViTImageProcessor

from dataset import photos as bin_images
from paths import ROOT
from recipe.augmentation import normalize
from serving import photo_checks
from serving.request_errors import RequestError
from serving.served_code import SIMPLEJPEG
from stand_ins.served_model import drawn_photo, encoded
from training import models

SIZE = 32


def turned(photo: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo, exif=exif)


def sixteen_bit_grey(depth: int) -> bytes:
    """Return a PNG whose samples fill as many bits."""
    samples = np.linspace(0, 2**depth - 1, 2400).astype(np.uint16)
    return encoded(Image.fromarray(samples.reshape(40, 60)), "PNG")


def sampled_4_4_1() -> bytes:
    """Return a JPEG of a sampling that simplejpeg decodes, and has no name for."""
    pixels = np.ascontiguousarray(drawn_photo(64, 64))
    content = bytearray(simplejpeg.encode_jpeg(pixels, colorsubsampling="411"))
    sampling = content.index(b"\xff\xc0") + 11  # of the first colour, as many blocks across as down
    assert content[sampling] == 0x41
    content[sampling] = 0x14
    return bytes(content)


PHOTOS = {
    "colour": encoded(drawn_photo()),
    "grey": encoded(drawn_photo().convert("L")),
    "cmyk": encoded(drawn_photo().convert("CMYK")),
    "progressive": encoded(drawn_photo(), progressive=True),
    "4:4:1": sampled_4_4_1(),
    "turned": turned(drawn_photo()),
    "large": encoded(drawn_photo(700, 500)),
    "png": encoded(drawn_photo(), "PNG"),
    "palette": encoded(drawn_photo().convert("P"), "PNG"),
    "see-through": encoded(drawn_photo().convert("RGBA"), "PNG"),
    "smallest": encoded(drawn_photo(16, 128)),
    **{f"{depth} bits": sixteen_bit_grey(depth) for depth in (8, 10, 12, 14, 16)},
}
NO_PHOTOS = {
    "one pixel": encoded(Image.new("RGB", (1, 1))),
    "15 wide": encoded(drawn_photo(15, 60)),
    "long": encoded(drawn_photo(161, 20)),
    "half of it": encoded(drawn_photo(300, 200))[:4000] + b"\xff\xd9",
    "zeros": encoded(drawn_photo(300, 200))[:3000]
    + bytes(2000)
    + encoded(drawn_photo(300, 200))[5000:],
    "gif": encoded(drawn_photo(), "GIF"),
    "webp": encoded(drawn_photo(), "WEBP"),
    "text": b"no photo",
    "truncated": encoded(drawn_photo())[:900],
    "truncated png": encoded(drawn_photo(), "PNG")[:-100],
    "too large": encoded(Image.new("1", (5001, 5000)), "PNG"),
    "bomb": encoded(Image.new("1", (20000, 20000)), "PNG"),
}


def test_the_rules_are_the_same() -> None:
    assert photo_checks.MAX_PIXELS == bin_images.MAX_PIXELS
    assert photo_checks.MIN_SIDE == bin_images.MIN_SIDE
    assert photo_checks.MAX_ASPECT == bin_images.MAX_ASPECT
    assert photo_checks.FORMATS == bin_images.FORMATS
    assert photo_checks.GREY_DEPTHS == bin_images.GREY_DEPTHS
    assert bin_images.RESAMPLE == models.BILINEAR


@pytest.mark.parametrize("folder", [".", "scripts", "data_prep"])
def test_an_exported_model_brings_the_decoder_that_training_had(folder: str) -> None:
    assert SIMPLEJPEG in (ROOT / folder / "requirements.txt").read_text().splitlines()


@pytest.mark.parametrize("name", PHOTOS)
def test_the_endpoint_sees_the_pixels_that_data_prep_encodes(name: str) -> None:
    pixels = photo_checks.decode_photo(PHOTOS[name], (SIZE, SIZE), models.BILINEAR)
    encoded_again = encoded(Image.fromarray(pixels), quality=bin_images.JPEG_QUALITY)
    assert encoded_again == bin_images.prepare_photo(PHOTOS[name], SIZE).jpeg


@pytest.mark.parametrize("name", NO_PHOTOS)
def test_both_refuse_what_is_no_photo(name: str) -> None:
    with pytest.raises(bin_images.UnusablePhotoError):
        bin_images.prepare_photo(NO_PHOTOS[name], SIZE)
    with pytest.raises(RequestError):
        photo_checks.decode_photo(NO_PHOTOS[name], (SIZE, SIZE), models.BILINEAR)


def test_the_image_processor_makes_what_the_endpoint_makes() -> None:
    mean, std = [0.53, 0.45, 0.36], [0.17, 0.15, 0.11]
    processor = ViTImageProcessor(
        size={"height": SIZE, "width": SIZE},
        resample=models.BILINEAR,
        image_mean=mean,
        image_std=std,
    )
    expected = processor(images=[drawn_photo()], return_tensors="pt")["pixel_values"]
    pixels = photo_checks.decode_photo(PHOTOS["png"], (SIZE, SIZE), models.BILINEAR)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    torch.testing.assert_close(normalize(batch, mean, std), expected, atol=1e-5, rtol=0)
