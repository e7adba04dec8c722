import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from auditing.bins import (
    AuditBin,
    CsvBins,
    Item,
    UnusablePhotoError,
    decode_photo,
    open_bins,
    parse_items,
    thumbnail,
)
from paths import ROOT
from serving.photo_checks import MAX_PIXELS


def photo(width: int = 80, height: int = 60, form: str = "JPEG", **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(buffer, format=form, **kwargs)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").write_bytes(photo())
    (tmp_path / "b.png").write_bytes(photo(form="PNG"))
    return tmp_path


def read_csv(folder: Path, text: str | bytes) -> list[AuditBin]:
    path = folder / "bins.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = open_bins(path, None, None, None)
    bins = list(source.bins())
    assert source.num_bins == len(bins)
    return bins


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"name": "a", "quantity": 1e999}]', "[NaN]"])
def test_json_made_to_break_readers_is_noted(text: str) -> None:
    items, note = parse_items(text)
    assert items == ()
    assert note is not None


@given(st.text())
def test_no_text_breaks_the_items(text: str) -> None:
    items, note = parse_items(text)
    assert items == () or note is None


def test_rows_are_photos_with_records(folder: Path) -> None:
    items = json.dumps([{"name": "Oil filter", "quantity": 2}, {"name": "Bolt"}])
    quoted = items.replace('"', '""')
    first, second = read_csv(
        folder, f'photo,id,expected_quantity,items\na.jpg,=x,3,"{quoted}"\nb.png,,2,\n'
    )
    assert (first.id, first.expected_quantity, first.problem, first.note) == ("=x", 3, None, None)
    assert first.items == (Item("Oil filter", 2), Item("Bolt", None))
    assert first.photo == (folder / "a.jpg").read_bytes()
    assert (second.id, second.recorded, second.items) == ("b", "2", ())


def test_every_bad_row_is_there_with_its_reason(folder: Path) -> None:
    (folder / "sub.jpg").mkdir()
    bins = read_csv(
        folder,
        "photo,expected_quantity\nnowhere.jpg,1\na.jpg,-1\na.jpg,2.5\na.jpg,two\na.jpg,\n,3\n"
        'sub.jpg,1\n"a\0.jpg",1\n',
    )
    assert [a_bin.problem for a_bin in bins] == [
        "no photo nowhere.jpg",
        "expected quantity '-1' is not a whole number from 0 on",
        "expected quantity '2.5' is not a whole number from 0 on",
        "expected quantity 'two' is not a whole number from 0 on",
        "expected quantity '' is not a whole number from 0 on",
        "the row names no photo",
        "no photo sub.jpg",
        bins[7].problem,
    ]
    assert bins[7].problem is not None


def test_ids_alone_name_photos_in_a_folder(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.csv"
    path.write_text("id,expected_quantity\na,1\nghost,2\n,3\n")
    known, unknown, nameless = open_bins(path, None, folder, None).bins()
    assert known.problem is None
    assert unknown.problem == "unknown id: no photo ghost.jpg"
    assert (nameless.id, nameless.problem) == ("row 3", "the row names no photo")


def test_a_spreadsheets_own_csv_is_read(folder: Path) -> None:
    text = '\ufeffphoto,expected_quantity\r\na.jpg,3\r\n\r\n"b.png",4\r\n'
    assert [a_bin.recorded for a_bin in read_csv(folder, text)] == ["3", "4"]


def test_a_row_of_another_encoding_is_not_lost(folder: Path) -> None:
    bins = read_csv(folder, "photo,expected_quantity\nmüll.jpg,3\na.jpg,1\n".encode("cp1252"))
    assert [a_bin.problem is None for a_bin in bins] == [False, True]


def test_items_that_are_no_json_are_noted_and_the_bin_still_judged(folder: Path) -> None:
    (a_bin,) = read_csv(folder, "photo,expected_quantity,items\na.jpg,3,two bolts\n")
    assert a_bin.problem is None
    assert a_bin.note is not None
    assert a_bin.note.startswith("items is not JSON")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "first line must name"), ("photo;expected_quantity\n", "first line must name")]
    + [("expected_quantity\n3\n", "it names 'expected_quantity'")]
    + [(f'photo,expected_quantity\n"{"x" * 200_000}",1\n', "line 2: field larger than")],
)
def test_a_file_that_is_no_such_csv_is_refused(folder: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_csv(folder, text)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        open_bins(tmp_path / "nowhere.csv", None, None, None)
    with pytest.raises(ValueError, match="not a finished dataset"):
        open_bins(tmp_path, None, None, None)


def test_reading_goes_on_at_any_row_and_with_the_photos_asked_for(folder: Path) -> None:
    path = folder / "bins.csv"
    path.write_text("photo,expected_quantity\n" + "a.jpg,1\n" * 7)
    source = CsvBins(path, None)
    assert len(list(source.bins(first=5))) == 2
    assert [a_bin.photo is not None for a_bin in source.bins(photos_of={3})] == [
        row == 3 for row in range(7)
    ]


def test_a_csv_says_which_rows_show_one_bin_and_photos_are_read_in_any_order(folder: Path) -> None:
    path = folder / "bins.csv"
    rows = ["a.jpg,1,B7,2", "b.png,2,B7,1", "nowhere.jpg,x,B8,1", "a.jpg,4,,", "b.png,5,B7,x"]
    path.write_text("photo,expected_quantity, Bin ,VISIT\n" + "\n".join(rows) + "\n")
    source = open_bins(path, None, None, None)
    assert source.expected.tolist() == [1, 2, -1, 4, 5]
    assert source.visits.steps(np.ones(5, dtype=bool)).tolist() == [[1, 0]]
    assert list(source.visit_faults) == [4]
    a, b = ((folder / name).read_bytes() for name in ("a.jpg", "b.png"))
    assert list(source.photos([0, 1, 2, 4])) == [a, b, None, b]
    alone = open_bins(path, None, None, None, with_visits=False)
    assert (len(alone.visits.rows), alone.visit_faults) == (0, {})
    path.write_text("photo,expected_quantity,bin\na.jpg,1,B7\nb.png,1,B7\n")
    with pytest.raises(ValueError, match=r"bins\.csv: the bin 'B7' is there more than once"):
        open_bins(path, None, None, None)
    assert len(list(open_bins(path, None, None, None, with_visits=False).bins())) == 2


def test_a_dataset_knows_its_visits_and_reads_photos_in_any_order(dataset_dir: Path) -> None:
    source = open_bins(dataset_dir, ["test", "train"], None, None)
    bins = list(source.bins())
    assert source.expected.tolist() == [a_bin.expected_quantity for a_bin in bins]
    steps = source.visits.steps(np.ones(len(bins), dtype=bool))
    assert len(steps) > 20
    # Groups are runs of consecutive ids.
    assert all(0 < int(bins[b].id) - int(bins[a].id) < 10 for a, b in steps.tolist())
    rows = sorted({0, len(bins) - 1, *steps[::5, 0].tolist()})
    assert list(source.photos(rows)) == [bins[row].photo for row in rows]
    alone = open_bins(dataset_dir, ["test", "train"], None, None, with_visits=False)
    assert len(alone.visits.rows) == 0
    assert alone.fingerprint == source.fingerprint


def test_a_dataset_gives_its_bins_in_one_order(dataset_dir: Path, bucket: Path) -> None:
    source = open_bins(dataset_dir, ["test", "validation"], None, bucket / "metadata")
    bins = list(source.bins())
    assert source.num_bins == len(bins) > 20
    assert all(a_bin.problem is None and a_bin.note is None and a_bin.photo for a_bin in bins)
    assert sum(item.quantity or 0 for item in bins[0].items) == bins[0].expected_quantity
    record = json.loads((bucket / "metadata" / f"{bins[0].id}.json").read_text())
    names = {item["name"] for item in record["BIN_FCSKU_DATA"].values()}
    assert {item.name for item in bins[0].items} == names
    assert list(source.bins(first=7)) == bins[7:]
    without_photos = list(source.bins(photos_of={2}))
    assert [row for row, a_bin in enumerate(without_photos) if a_bin.photo] == [2]
    assert without_photos[2] == bins[2]


def test_a_bin_without_metadata_is_noted(dataset_dir: Path, tmp_path: Path) -> None:
    first, *_ = open_bins(dataset_dir, ["test"], None, tmp_path).bins()
    assert first.note == f"unknown id: no metadata {first.id}.json"
    assert first.problem is None
    (tmp_path / f"{first.id}.json").mkdir()
    first, *_ = open_bins(dataset_dir, ["test"], None, tmp_path).bins()
    assert first.note == f"metadata {first.id}.json cannot be read: Is a directory"


def test_no_such_split_and_a_damaged_shard_are_named(dataset_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no split prod, only test, train, validation"):
        open_bins(dataset_dir, ["prod"], None, None)
    copy = tmp_path / "bins"
    shutil.copytree(dataset_dir, copy)
    shard = next(copy.glob("data/test-*.parquet"))
    content = shard.read_bytes()
    # Of the same length: the footer is there, and some photos are zeros.
    middle = len(content) // 2
    shard.write_bytes(content[:middle] + bytes(1000) + content[middle + 1000 :])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        open_bins(copy, ["test"], None, None)
    assert open_bins(copy, ["train"], None, None).num_bins > 0  # which is whole
    shard.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=rf"{shard.name} cannot be read \(.*footer"):
        open_bins(copy, ["test"], None, None)


def test_a_path_is_a_path_whatever_characters_it_has(
    dataset_dir: Path, folder: Path, tmp_path: Path
) -> None:
    whole = list(open_bins(dataset_dir, ["test"], None, None).bins())
    for name in ("bins[1]", "lr=0.1", "100%41 a&b?#", "*", "~x", "s3:"):
        copy = tmp_path / name
        shutil.copytree(dataset_dir, copy)
        (tmp_path / "bins1").mkdir(exist_ok=True)  # what a pattern would take bins[1] for
        assert list(open_bins(copy, ["test"], None, None).bins()) == whole
        path = copy / "bins.csv"
        path.write_text(f"photo,expected_quantity\n{tmp_path / 'a.jpg'},3\n")
        (a_bin,) = open_bins(path, None, None, None).bins()
        assert a_bin.photo == (folder / "a.jpg").read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not a JPEG or PNG"), (b"GIF89a" + b"\0" * 50, "not a JPEG or PNG")]
    + [(photo()[:200], "damaged or truncated"), (photo(form="PNG")[:50], "damaged or truncated")],
)
def test_a_photo_that_cannot_be_used_says_why(content: bytes, reason: str) -> None:
    for use in (lambda: decode_photo(content, (32, 32), 2), lambda: thumbnail(content, 100)):
        with pytest.raises(UnusablePhotoError, match=reason):
            use()


def test_a_photo_of_too_many_pixels_is_not_decoded() -> None:
    edge = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(UnusablePhotoError, match="more than 25 megapixels"):
        decode_photo(photo(edge, edge, form="PNG"), (32, 32), 2)


def test_thumbnails_stand_upright_and_keep_their_form() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(io.BytesIO(thumbnail(photo(400, 200, exif=turned), 100))) as small:
        assert small.size == (50, 100)


# In a process of its own, whose largest memory is that of these photos.
LARGE_PHOTOS = """
import io, resource
from PIL import Image
from auditing import bins, parts
from reviewing import review_page
from serving.bin_counter import Preparation

edge, encoded = 2050, io.BytesIO()
Image.new("RGBA", (edge, edge), (90, 120, 30, 128)).save(encoded, "PNG", compress_level=1)
a_bin = bins.AuditBin("x", "3", (), encoded.getvalue(), None, None)
from concurrent.futures import ThreadPoolExecutor
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with ThreadPoolExecutor(8) as pool:
    preparation = Preparation((224, 224), 2, (0.5,) * 3, (0.5,) * 3)
    photos = list(pool.map(lambda _: parts._prepared(a_bin, preparation), range(8)))
    small = list(pool.map(lambda _: review_page.small_photo(a_bin.photo), range(8)))
assert all(photo.shape == (224, 224, 3) for photo in photos) and all(small)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_large_photos_are_decoded_one_at_a_time() -> None:
    """Eight of 4.2 megapixels, see-through, take 640 MiB at once, and 80 one by one."""
    command = [sys.executable, "-c", LARGE_PHOTOS]
    found = subprocess.run(
        command, cwd=ROOT / "scripts", capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 300
