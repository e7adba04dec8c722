import io
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from damaged_requests import flipped
from paths import ROOT
from serving import photo_checks
from serving.photo_checks import (
    GREY_DEPTHS,
    JPEG_PIXEL,
    MAX_NANOSECONDS,
    MAX_PIXELS,
    MAX_SCANS,
    PNG_PIXEL,
    SCANNED_PIXEL,
    START_OF_SCAN,
    Budget,
    decode_photo,
)
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


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (1, 1, "fewer than 16 pixels"),
        (15, 60, "fewer than 16 pixels"),
        (60, 15, "fewer than 16 pixels"),
        (2000, 200, "more than 8 times"),
        (20, 161, "more than 8 times"),
        (16, 16, None),
        (128, 16, None),
        (20, 160, None),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_photo_has_the_size_and_shape_of_a_bin(
    image_format: str, width: int, height: int, reason: str | None
) -> None:
    content = encoded(drawn_photo(width, height), image_format)
    if reason is None:
        assert decoded(content).shape == (32, 32, 3)
        return
    with pytest.raises(RequestError, match=reason) as raised:
        decoded(content)
    assert raised.value.status == 400


def test_a_jpeg_that_lost_a_part_is_refused_though_its_end_is_there() -> None:
    content = encoded(drawn_photo(300, 200), quality=90)
    middle = len(content) // 2
    for damaged in (
        content[:middle] + content[-2:],
        content[:middle] + content[middle + 4096 :],
        content[:middle] + bytes(4096) + content[middle + 4096 :],
    ):
        Image.open(io.BytesIO(damaged)).load()  # Pillow says nothing
        assert status_of(damaged) == 400


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg_is_taken_whole_and_refused_by_half(
    mode: str, options: dict[str, Any]
) -> None:
    content = encoded(drawn_photo().convert(mode), **options)
    assert decoded(content).shape == (32, 32, 3)
    assert status_of(content[: len(content) // 2] + content[-2:]) == 400


def test_without_simplejpeg_photos_are_counted_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = encoded(drawn_photo())
    pixels = decoded(content)
    assert photo_checks.sees_damage()
    monkeypatch.setattr(photo_checks, "simplejpeg", None)
    assert not photo_checks.sees_damage()
    assert (decoded(content) == pixels).all()


def test_a_png_with_a_bad_checksum_is_damaged_and_still_a_png() -> None:
    texts = PngInfo()
    texts.add_text("Comment", "bin")
    content = encoded(drawn_photo(), "PNG", pnginfo=texts)
    assert decoded(content).shape == (32, 32, 3)
    for chunk in (b"tEXt", b"IDAT", b"IHDR"):
        damaged = bytearray(content)
        damaged[content.index(chunk) + 7] ^= 16
        with pytest.raises(RequestError, match="damaged") as raised:
            decoded(bytes(damaged))
        assert raised.value.status == 400


@pytest.mark.parametrize("bits", GREY_DEPTHS)
def test_fewer_bits_stored_in_sixteen_are_not_black(bits: int) -> None:
    grey = np.asarray(drawn_photo().convert("L")).astype(np.uint16)
    expected = decoded(encoded(Image.fromarray(grey.astype(np.uint8)), "PNG"))
    assert (decoded(encoded(Image.fromarray(grey << (bits - 8)), "PNG")) == expected).all()


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


def test_the_photos_of_a_request_share_a_budget_of_pixels_and_scans() -> None:
    photo = encoded(drawn_photo(), progressive=True)
    pixels, scans = 60 * 40, photo.count(START_OF_SCAN)
    nanoseconds = pixels * (JPEG_PIXEL + SCANNED_PIXEL * scans)
    budget = Budget(2 * nanoseconds + pixels * PNG_PIXEL)
    for content in (photo, encoded(drawn_photo(), "PNG"), photo):
        decode_photo(content, (32, 32), BILINEAR, budget)
    with pytest.raises(RequestError, match="too many pixels and scans together") as raised:
        decode_photo(photo, (32, 32), BILINEAR, budget)
    assert raised.value.status == 413
    decoded(photo)  # alone it has a budget of its own


def test_a_photo_within_all_bounds_is_within_its_budget() -> None:
    slowest = max(JPEG_PIXEL + SCANNED_PIXEL * MAX_SCANS, PNG_PIXEL)
    Budget().spend(MAX_PIXELS * slowest)
    with pytest.raises(RequestError, match="too many pixels"):
        Budget().spend(MAX_NANOSECONDS + 1)


ORIGINALS = ROOT.parent / "shared/abid_originals/bin-images"


@pytest.mark.slow
@pytest.mark.skipif(not ORIGINALS.exists(), reason="needs real photos: ../shared/abid_originals")
def test_of_real_photos_all_pass_whole_and_nearly_none_that_lost_a_part() -> None:
    photos = [path.read_bytes() for path in sorted(ORIGINALS.glob("*.jpg"))[:200]]
    generator = np.random.default_rng(0)

    def without(content: bytes, length: int, filling: bytes = b"") -> bytes:
        start = int(generator.integers(len(content) // 10, len(content) * 9 // 10))
        return content[:start] + filling + content[start + length :]

    def one_bit(content: bytes) -> bytes:
        return flipped(content, [(int(generator.integers(1000, len(content))), 3)])

    def first_scans(content: bytes) -> bytes:
        again = encoded(Image.open(io.BytesIO(content)), quality=95, progressive=True)
        return START_OF_SCAN.join(again.split(START_OF_SCAN)[:4]) + content[-2:]

    shares = {}
    for name, damage in {
        "nothing": lambda content: content,
        "the second half, but not the end marker": lambda c: c[: len(c) // 2] + c[-2:],
        "the last 200 bytes, but not the end marker": lambda c: c[:-200] + c[-2:],
        "4 KB": lambda content: without(content, 4096),
        "4 KB, which are zeros": lambda content: without(content, 4096, bytes(4096)),
        "512 bytes, which are zeros": lambda content: without(content, 512, bytes(512)),
        "16 bytes": lambda content: without(content, 16),
        "a bit": one_bit,
        "all scans but three of a progressive one": first_scans,
    }.items():
        shares[name] = sum(passes(damage(content)) for content in photos) / len(photos)
        print(f"{name}: {shares[name]:.1%} pass")
    assert shares["nothing"] == 1
    assert all(share < 0.05 for share in list(shares.values())[1:5])


def passes(content: bytes) -> bool:
    try:
        decoded(content)
    except RequestError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "form", "most_mib"),
    [("RGBA", "PNG", 700), ("RGB", "JPEG", 400)],  # two at once would take 1,000, and 550
)
def test_large_photos_at_once_take_the_memory_of_one(mode: str, form: str, most_mib: int) -> None:
    program = """
import concurrent.futures, io, re, sys
from PIL import Image
from serving.photo_checks import decode_photo
buffer = io.BytesIO()
Image.new(sys.argv[1], (5000, 5000)).save(buffer, format=sys.argv[2])
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda _: decode_photo(buffer.getvalue(), (32, 32), 2), range(8)))
# Of this program alone: getrusage starts from the peak of the process that started it.
print(int(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1]) // 1024)
"""
    printed = subprocess.run(
        [sys.executable, "-c", program, mode, form],
        cwd=ROOT / "scripts",
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    assert int(printed) < most_mib
