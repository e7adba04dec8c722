import io
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from paths import ROOT
from serving.photo_checks import MAX_SCANS, START_OF_SCAN, decode_photo
from serving.request_errors import RequestError
from stand_ins.served_model import drawn_photo, encoded

BILINEAR = int(Image.Resampling.BILINEAR)


def decoded(content: bytes) -> np.ndarray:
    return decode_photo(content, (32, 32), BILINEAR)


def status_of(content: bytes) -> int:
    with pytest.raises(RequestError) as raised:
        decoded(content)
    return raised.value.status


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")],
)
def test_photos_of_every_mode_become_colour_squares(mode: str, image_format: str) -> None:
    pixels = decoded(encoded(drawn_photo().convert(mode), image_format))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def test_height_and_width_are_not_mixed_up() -> None:
    assert decode_photo(encoded(drawn_photo()), (20, 30), BILINEAR).shape == (20, 30, 3)


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "WEBP", "ICO"])
def test_other_formats_are_refused_whatever_they_are_called(image_format: str) -> None:
    assert status_of(encoded(drawn_photo(), image_format)) == 415


def test_text_is_no_photo() -> None:
    assert status_of(b"<svg xmlns='http://www.w3.org/2000/svg'/>") == 415
    assert status_of(b"") == 415


@pytest.mark.parametrize("shape", [(5001, 5000), (20000, 20000), (60000, 60000)])
def test_a_bomb_is_refused_from_its_header(shape: tuple[int, int]) -> None:
    header = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    ihdr = header.index(b"IHDR")
    header[ihdr + 4 : ihdr + 12] = shape[0].to_bytes(4, "big") + shape[1].to_bytes(4, "big")
    header[ihdr + 17 : ihdr + 21] = zlib.crc32(header[ihdr : ihdr + 17]).to_bytes(4, "big")
    assert status_of(bytes(header)) == 413


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_truncated_photo_is_refused(image_format: str, share: float) -> None:
    content = encoded(drawn_photo(), image_format)
    assert status_of(content[: int(len(content) * share)]) in (400, 415)


def test_scans_without_end_are_refused_and_a_progressive_photo_is_not() -> None:
    progressive = encoded(drawn_photo(), progressive=True)
    assert 5 < progressive.count(START_OF_SCAN) < MAX_SCANS
    assert decoded(progressive).shape == (32, 32, 3)
    last = progressive.rindex(START_OF_SCAN)
    scan, end = progressive[last:-2], progressive[-2:]
    endless = progressive[:-2] + scan * MAX_SCANS + end
    Image.open(io.BytesIO(endless)).load()  # Pillow itself takes them all
    assert status_of(endless) == 400


def test_any_damage_is_refused_or_a_photo_and_never_another_error() -> None:
    content = encoded(drawn_photo())
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), size=5):
            damaged[position] = generator.integers(256)
        try:
            assert decoded(bytes(damaged)).shape == (32, 32, 3)
        except RequestError:
            refused += 1
    assert 0 < refused < 300


@pytest.mark.slow
def test_large_photos_at_once_take_the_memory_of_one() -> None:
    program = """
import concurrent.futures, io, re
from PIL import Image
from serving.photo_checks import decode_photo
buffer = io.BytesIO()
Image.new("RGBA", (5000, 5000)).save(buffer, format="PNG")
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: decode_photo(buffer.getvalue(), (32, 32), 2), range(8)))
# Of this program alone: getrusage starts from the peak of the process that started it.
print(int(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1]) // 1024)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "scripts", check=True, stdout=subprocess.PIPE
    ).stdout
    assert int(printed) < 700  # MiB; two at once would take 1,000
