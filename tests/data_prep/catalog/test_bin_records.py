import json
import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catalog.bin_records import LARGEST_METADATA, BinRecord, parse_bin_record
from catalog.parts import RECORD_SCHEMA


class Pairs(list):
    """The keys and values of a JSON object, in which a key may stand more than once."""


# Stands for a number that JSON allows, and that Python neither reads nor writes.
TOO_MANY_DIGITS = "1" + "0" * 5000

NUMBERS_TO_FEAR = st.sampled_from(
    [TOO_MANY_DIGITS, 0, -1, 1, 5, 88, 2**31 - 1, 2**31, -(2**31), 10**30, 2.5, -0.0, 1e308]
    + [float("nan"), float("inf"), float("-inf")]
)
TEXTS_TO_FEAR = st.sampled_from(
    ["", "3", "00001.jpg", "00002.jpg", "../00001.jpg", "/etc/passwd", "a\0b", "\ud800", "None"]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS_TO_FEAR | TEXTS_TO_FEAR | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.text(max_size=5), inner), max_size=3).map(Pairs)
    ),
    max_leaves=6,
)
IDS = st.sampled_from(
    ["00001", "1", "535234", "a-b_C9", "", ".", "..", "../00001", "a/b", "/", "00001\n", "a b"]
    + ["%2e%2e", "00001.json", "１", "é", "a\0", "\\", "c:d", "~", "\ud800", "x" * 300]
)


def dumps(value: Any) -> str:
    if isinstance(value, Pairs):
        inside = ", ".join(f"{json.dumps(key)}: {dumps(item)}" for key, item in value)
        return f"{{{inside}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(dumps, value))}]"
    return TOO_MANY_DIGITS if value == TOO_MANY_DIGITS else json.dumps(value)


def item(asin: str, quantity: Any) -> tuple[str, Pairs]:
    size = Pairs([("unit", "IN"), ("value", 2.79921259557)])
    return asin, Pairs(
        [("asin", asin), ("height", size), ("length", size), ("name", "FRAM Oil Filter")]
        + [("normalizedName", "FRAM Oil Filter"), ("quantity", quantity), ("weight", None)]
    )


def real_looking() -> Pairs:
    items = Pairs([item("B000C33MI2", 4), item("B0050Z27KG", 2), item("B01BV89HNU", 1)])
    return Pairs(
        [("BIN_FCSKU_DATA", items), ("EXPECTED_QUANTITY", 7), ("image_fname", "00001.jpg")]
    )


@st.composite
def mutated_metadata(draw: st.DrawFn) -> bytes:
    """Draw a metadata file with one to four things wrong with it, in its structure or its bytes."""
    document = real_looking()
    for _ in range(draw(st.integers(0, 2))):
        place = document
        while place and draw(st.booleans()):
            inner = draw(st.sampled_from(place))[1]
            if not isinstance(inner, Pairs):
                break
            place = inner
        if not place:
            continue
        at = draw(st.integers(0, len(place) - 1))
        key, value = place[at]
        match draw(st.sampled_from(["replace", "remove", "repeat", "nest", "rename"])):
            case "replace":
                place[at] = (key, draw(ANY_JSON))
            case "remove":
                del place[at]
            case "repeat":
                other = draw(st.just(value) | ANY_JSON)
                place.insert(draw(st.integers(0, len(place))), (key, other))
            case "nest":
                place[at] = (key, [Pairs([(key, value)])])
            case "rename":
                place[at] = (draw(st.text(max_size=5)), value)
    content = dumps(document).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["cut", "insert", "overwrite", "deep", "encode"])):
            case "cut":
                content = content[:at]
            case "insert":
                content = content[:at] + draw(st.binary(max_size=8)) + content[at:]
            case "overwrite":
                garbage = draw(st.binary(max_size=8))
                content = content[:at] + garbage + content[at + len(garbage) :]
            case "deep":
                content = content.replace(b"7", b"[" * 20_000, 1)
            case "encode":
                encoding = draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp037"]))
                content = content.decode("utf-8", "replace").encode(encoding, "replace")
    return content


def check_record(record: BinRecord, bin_id: str, content: bytes) -> None:
    """Whatever the file: a record that fits the catalog, and a count only where it says so."""
    assert record.id == bin_id
    if record.set_aside is not None:
        assert record.set_aside.isprintable()
        assert len(record.set_aside) < 80
    else:
        assert re.fullmatch("[A-Za-z0-9_-]+", bin_id)
        pairs = json.loads(content, object_pairs_hook=Pairs)
        written = [value for key, value in pairs if key == "EXPECTED_QUANTITY"]
        assert all(type(value) is int and value == record.count for value in written)
        items = [value for key, value in pairs if key == "BIN_FCSKU_DATA"]
        assert all(repr(value) == repr(items[0]) for value in items)
        names = [value for key, value in pairs if key == "image_fname"]
        assert names in ([], [None] * len(names), [f"{bin_id}.jpg"] * len(names))
    row = {name: getattr(record, name) for name in RECORD_SCHEMA.names}
    # An id that UTF-8 cannot hold comes from no listing and no JSON list that is one.
    row["id"] = bin_id.encode("utf-8", "replace").decode()
    table = pa.Table.from_pylist([row], schema=RECORD_SCHEMA)
    table.validate(full=True)
    assert table["asins"].to_pylist() == [list(record.asins)]


@example("00001", b'{"EXPECTED_QUANTITY": 1, "x": "' + b"x" * 10_000_000 + b'"}')
@example("00001", b"[" * 10_000_000)
@example("00001", b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
@example("00001", b'{"EXPECTED_QUANTITY": 1' + b"0" * 5000 + b"}")
@given(IDS | st.text(max_size=8), mutated_metadata() | st.binary(max_size=40))
@settings(max_examples=300)
def test_a_damaged_file_is_set_aside_with_a_reason_or_used_rightly(
    bin_id: str, content: bytes
) -> None:
    record = parse_bin_record(bin_id, content)
    assert (record.count is None) == (record.set_aside is not None)
    check_record(record, bin_id, content)


@pytest.mark.slow
@given(IDS, mutated_metadata())
@settings(max_examples=5000)
def test_none_of_5000_damaged_files_is_used_wrongly(bin_id: str, content: bytes) -> None:
    # One plain id more often than not: the others end at the id.
    bin_id = bin_id if len(bin_id) > 6 else "00001"
    record = parse_bin_record(bin_id, content)
    assert (record.count is None) == (record.set_aside is not None)
    check_record(record, bin_id, content)


def metadata(quantity: Any, **items: Any) -> bytes:
    data = {asin: {"asin": asin, "quantity": number} for asin, number in items.items()}
    return json.dumps({"BIN_FCSKU_DATA": data, "EXPECTED_QUANTITY": quantity}).encode()


def test_a_record_gives_count_items_and_quantities() -> None:
    record = parse_bin_record("00007", metadata(3, B0=1, B1=2))
    nothing = (None, None)
    expected = BinRecord("00007", 3, ("B0", "B1"), (1, 2), None, volumes=nothing, weights=nothing)
    assert record == expected
    assert record.quantities_match


def test_a_record_gives_the_size_of_each_item_and_names_the_units_that_nobody_knows() -> None:
    edges = {name: {"unit": "IN", "value": 2.0} for name in ("length", "width", "height")}
    items = {
        "B0": edges | {"quantity": 1, "weight": {"unit": "pounds", "value": 1.5}},
        "B1": edges | {"quantity": 1, "weight": {"unit": "stone", "value": 1.5}},
        "B2": {"quantity": 1, "weight": {"unit": "stone", "value": 2}, "length": None},
    }
    content = json.dumps({"BIN_FCSKU_DATA": items, "EXPECTED_QUANTITY": 3}).encode()
    record = parse_bin_record("00007", content)
    assert record.volumes == (8.0, 8.0, None)
    assert record.weights == (1.5, None, None)
    assert record.unknown_units == ("'stone'",)


def test_the_undamaged_file_of_the_mutations_is_used() -> None:
    record = parse_bin_record("00001", dumps(real_looking()).encode())
    assert (record.count, record.quantities, record.set_aside) == (7, (4, 2, 1), None)


def test_a_count_that_the_items_do_not_sum_to_is_kept_and_flagged() -> None:
    record = parse_bin_record("01405", metadata(3, B0=1))
    assert record.count == 3
    assert not record.quantities_match


def test_an_empty_bin_holds_nothing_and_matches() -> None:
    record = parse_bin_record("1", metadata(0))
    assert record.count == 0
    assert record.quantities_match


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "metadata is not a JSON object"),
        (b"\xff\xfe", "metadata is not a JSON object"),
        (b"[1, 2]", "metadata is not a JSON object"),
        (b"[" * 100_000, "metadata is not a JSON object"),
        (b'{"BIN_FCSKU_DATA": {}}', "no EXPECTED_QUANTITY"),
        (metadata(None), "no EXPECTED_QUANTITY"),
        (metadata(-1), "EXPECTED_QUANTITY is negative"),
        (metadata(2.5), "EXPECTED_QUANTITY is not an integer"),
        (metadata(float("nan")), "EXPECTED_QUANTITY is not an integer"),
        (metadata("3"), "EXPECTED_QUANTITY is not an integer"),
        (metadata(True), "EXPECTED_QUANTITY is not an integer"),
        (metadata(10**30), "EXPECTED_QUANTITY is larger than 2147483647"),
        (
            b'{"EXPECTED_QUANTITY": 1, "EXPECTED_QUANTITY": 2}',
            "ambiguous: EXPECTED_QUANTITY is there twice, with different values",
        ),
        (
            b'{"EXPECTED_QUANTITY": true, "EXPECTED_QUANTITY": 1}',
            "ambiguous: EXPECTED_QUANTITY is there twice, with different values",
        ),
        (
            b'{"EXPECTED_QUANTITY": 1, "BIN_FCSKU_DATA": {"A": {}}, "BIN_FCSKU_DATA": {}}',
            "ambiguous: BIN_FCSKU_DATA is there twice, with different values",
        ),
        (b'{"EXPECTED_QUANTITY": 1, "image_fname": "2.jpg"}', "image_fname names another photo"),
        (b'{"EXPECTED_QUANTITY": 1, "image_fname": 1}', "image_fname names another photo"),
        (b" " * (LARGEST_METADATA + 1), "metadata is larger than 1048576 bytes"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(content: bytes, reason: str) -> None:
    record = parse_bin_record("00001", content)
    assert record.set_aside == reason
    assert record.count is None


def test_a_key_that_says_the_same_twice_is_no_harm() -> None:
    content = b'{"EXPECTED_QUANTITY": 2, "EXPECTED_QUANTITY": 2, "image_fname": "00001.jpg"}'
    assert parse_bin_record("00001", content).count == 2


@pytest.mark.parametrize("bin_id", ["", "..", "../1", "a/b", "1\n", "1.json", "１", "a b"])
def test_an_id_that_could_lead_elsewhere_is_set_aside(bin_id: str) -> None:
    record = parse_bin_record(bin_id, metadata(3))
    assert record.set_aside == "the id is not made of letters, digits, _ and - alone"


def test_the_items_of_a_record_that_is_set_aside_are_kept_for_its_group() -> None:
    assert parse_bin_record("1", metadata(-1, A=1)).asins == ("A",)
