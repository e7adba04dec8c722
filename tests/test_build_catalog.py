import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import build_catalog
from build_catalog import parse_bin_record, read_bin_list
from command_line import InputError
from conftest import real_path

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
METADATA_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "EXPECTED_QUANTITY": ANY_JSON,
        "BIN_FCSKU_DATA": ANY_JSON
        | st.dictionaries(
            st.text(max_size=5), st.fixed_dictionaries({}, optional={"quantity": ANY_JSON})
        ),
    },
)


def metadata(quantity: Any, **items: Any) -> bytes:
    data = {asin: {"asin": asin, "quantity": number} for asin, number in items.items()}
    return json.dumps({"BIN_FCSKU_DATA": data, "EXPECTED_QUANTITY": quantity}).encode()


def write_bucket(folder: Path, **records: bytes) -> Path:
    (folder / "metadata").mkdir(parents=True)
    for name, content in records.items():
        (folder / "metadata" / f"{name.removeprefix('bin_')}.json").write_bytes(content)
    return folder


def test_a_record_gives_count_items_and_quantities() -> None:
    record = parse_bin_record("00007", metadata(3, B0=1, B1=2))
    assert (record.id, record.count, record.set_aside) == ("00007", 3, None)
    assert record.asins == ("B0", "B1")
    assert record.quantities == (1, 2)
    assert record.quantities_match


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
        (None, "no metadata"),
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
    ],
)
def test_a_record_that_cannot_be_used_says_why(content: bytes | None, reason: str) -> None:
    record = parse_bin_record("00001", content)
    assert record.set_aside == reason
    assert record.count is None


def test_the_items_of_a_record_without_a_usable_count_still_hold_its_group_together(
    tmp_path: Path,
) -> None:
    bucket = write_bucket(
        tmp_path / "b", bin_1=metadata(1, A=1), bin_2=metadata(-1, A=1), bin_3=metadata(2, A=2)
    )
    catalog = build_catalog.build_catalog(str(bucket))
    assert catalog["bin_group"].to_pylist() == ["1", "1", "1"]


@given(METADATA_LIKE)
def test_any_metadata_becomes_a_row_of_the_catalog(content: dict[str, Any]) -> None:
    record = parse_bin_record("1", json.dumps(content).encode())
    assert (record.count is None) == (record.set_aside is not None)
    row = {
        "id": "1",
        "count": record.count,
        "quantities_match": record.quantities_match,
        "asins": record.asins,
        "quantities": record.quantities,
        "bin_group": "1",
        "set_aside": record.set_aside,
    }
    table = build_catalog.pa.Table.from_pylist([row], schema=build_catalog.CATALOG_SCHEMA)
    assert table.num_rows == 1


def test_the_catalog_has_a_row_for_every_bin(bucket: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "catalog.parquet"
    build_catalog.main(["--source", str(bucket), "--output", str(output)])
    catalog = pq.read_table(output)
    assert catalog.schema.equals(build_catalog.CATALOG_SCHEMA)
    assert catalog["id"].to_pylist() == sorted(p.stem for p in (bucket / "metadata").iterdir())
    for row in catalog.slice(0, 20).to_pylist():
        written = json.loads((bucket / "metadata" / f"{row['id']}.json").read_text())
        assert row["count"] == written["EXPECTED_QUANTITY"]
        assert row["asins"] == list(written["BIN_FCSKU_DATA"])


def test_a_bin_list_gives_the_same_groups_as_the_whole_bucket(bucket: Path) -> None:
    whole = build_catalog.build_catalog(str(bucket))
    group_of = dict(zip(whole["id"].to_pylist(), whole["bin_group"].to_pylist(), strict=True))
    # Every sixth bin: most groups reach beyond what is listed, and end far from the next one.
    listed = build_catalog.build_catalog(str(bucket), sorted(group_of)[::6])
    assert listed.num_rows < whole.num_rows
    for row in listed.to_pylist():
        assert row["bin_group"] == group_of[row["id"]]


def test_a_listed_bin_without_metadata_is_set_aside(bucket: Path) -> None:
    catalog = build_catalog.build_catalog(str(bucket), ["00001", "999999"])
    by_id = {row["id"]: row for row in catalog.to_pylist()}
    assert by_id["999999"]["set_aside"] == "no metadata"
    assert by_id["00001"]["set_aside"] is None


def test_a_bin_list_is_read_whatever_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"1": ["data/metadata/00152.json"], "2": ["523.jpg", "00152"]}')
    assert read_bin_list(path) == ["00152", "523"]


@pytest.mark.parametrize("text", ["", "[]", '{"1": 3}', '{"1": [3]}', '{"1": "00152.json"}'])
def test_another_file_than_a_bin_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(InputError, match="expected JSON such as"):
        read_bin_list(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "no such folder"), ("ftp://x/y", "give a folder"), (".", "no metadata")],
)
def test_a_source_that_is_none_is_one_line_and_exit_code_2(
    source: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        build_catalog.main(["--source", source, "--output", "catalog.parquet"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "catalog.parquet").exists()


def test_the_real_records_that_do_not_sum_up_are_found() -> None:
    catalog = build_catalog.build_catalog(str(real_path("abid")))
    differing = [row["id"] for row in catalog.to_pylist() if not row["quantities_match"]]
    assert set(differing) <= {"01405", "01406", "02081", "02082", "09032", "09033"}
    assert len(differing) == 4
