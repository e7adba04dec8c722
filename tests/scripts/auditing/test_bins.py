import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from auditing.bins import (
    AuditBin,
    CsvBins,
    Item,
    UnusablePhotoError,
    open_bins,
    open_photo,
    parse_items,
    thumbnail,
    whole_number,
)
from serving.photo_checks import MAX_PIXELS


def photo(width: int = 8, height: int = 6, form: str = "JPEG", **kwargs: object) -> bytes:
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


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3), ("0", 0), (" 7 ", 7), ("3.0", 3), ("007", 7), ("-1", None), ("2.5", None)]
    + [("two", None), ("", None), ("1e3", None), ("٣", None), ("1" * 20, None), ("nan", None)],
)
def test_a_record_is_a_whole_number_or_none(text: str, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"name": "a", "quantity": 1e999}]', "[NaN]"])
def test_json_made_to_break_readers_is_noted(text: str) -> None:
    items, note = parse_items(text)
    assert items == ()
    assert note is not None


@given(st.text())
def test_no_text_breaks_a_record_or_the_items(text: str) -> None:
    number = whole_number(text)
    assert number is None or number >= 0
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
        'a.jpg\na.jpg,1,2\nsub.jpg,1\n"a\0.jpg",1\n',
    )
    assert [a_bin.problem for a_bin in bins] == [
        "no photo nowhere.jpg",
        "expected quantity '-1' is not a whole number from 0 on",
        "expected quantity '2.5' is not a whole number from 0 on",
        "expected quantity 'two' is not a whole number from 0 on",
        "expected quantity '' is not a whole number from 0 on",
        "the row names no photo",
        "the row has 1 fields, the header 2",
        "the row has 3 fields, the header 2",
        "no photo sub.jpg",
        bins[9].problem,
    ]
    assert bins[9].problem is not None


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
    + [("expected_quantity\n3\n", "first line must name")]
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


def test_no_such_split_and_a_damaged_shard_are_named(dataset_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no split prod, only test, train, validation"):
        open_bins(dataset_dir, ["prod"], None, None)
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("")
    (tmp_path / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="parquet is damaged"):
        open_bins(tmp_path, None, None, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "not a JPEG or PNG photo"), (b"GIF89a" + b"\0" * 50, "not a JPEG or PNG photo")]
    + [(photo()[:200], "damaged photo"), (photo(form="PNG")[:50], "damaged photo")],
)
def test_a_photo_that_cannot_be_used_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(UnusablePhotoError, match=reason):
        open_photo(content)


def test_a_photo_of_too_many_pixels_is_not_decoded() -> None:
    edge = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(UnusablePhotoError, match="more than 25 megapixels"):
        open_photo(photo(edge, edge, form="PNG"))


def test_photos_stand_upright_and_thumbnails_keep_their_form() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    assert open_photo(photo(80, 60, exif=turned)).size == (60, 80)
    with Image.open(io.BytesIO(thumbnail(photo(400, 200), 100))) as small:
        assert small.size == (100, 50)
