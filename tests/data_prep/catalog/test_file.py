from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from build_catalog import describe_catalog
from catalog.file import (
    CATALOG_SCHEMA,
    SIZES,
    bins_by_count,
    open_beside,
    read_catalog,
    write_catalog,
)
from command_line import InputError


def catalog_of(*rows: tuple[str, int | None, str]) -> pa.Table:
    """Return a catalog of bins, each given as id, count and group."""
    return pa.Table.from_pylist(
        [
            {"id": bin_id, "count": count, "bin_group": group}
            | {"quantities_match": count not in (None, 88), "asins": [], "quantities": []}
            | {"set_aside": "no EXPECTED_QUANTITY" if count is None else None}
            for bin_id, count, group in rows
        ],
        schema=CATALOG_SCHEMA,
    )


def test_a_catalog_is_read_as_it_was_written(tmp_path: Path) -> None:
    catalog = catalog_of(("1", 3, "1"), ("2", None, "1"))
    store, name = open_beside(tmp_path / "new" / "catalog.parquet", "--output", create=True)
    write_catalog(catalog, store, name)
    assert read_catalog(tmp_path / "new" / "catalog.parquet").equals(catalog)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["catalog.parquet"]


def test_a_catalog_of_an_earlier_version_says_nothing_of_sizes(tmp_path: Path) -> None:
    catalog = catalog_of(("1", 3, "1"), ("2", None, "1"))
    pq.write_table(catalog.drop_columns(list(SIZES)), tmp_path / "catalog.parquet")
    assert read_catalog(tmp_path / "catalog.parquet").equals(catalog)
    assert "Of 0 items in these records 0 have a volume and 0 a weight." in describe_catalog(
        catalog
    )


def test_the_description_says_how_many_items_have_a_size_and_names_strange_units() -> None:
    rows = catalog_of(("1", 3, "1"), ("2", 2, "2")).to_pylist()
    rows[0] |= {"asins": ["B0", "B1"], "volumes": [8.0, None], "unknown_units": ["'ell'"]}
    rows[1] |= {"asins": ["B0"], "volumes": [8.0], "weights": [0.5], "unknown_units": ["'ell'"]}
    text = describe_catalog(pa.Table.from_pylist(rows, schema=CATALOG_SCHEMA))
    assert "Of 3 items in these records 2 have a volume and 1 a weight." in text
    assert "Sizes in units that are not known count as missing; records: 'ell' in 2." in text


def test_a_catalog_that_is_not_there_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--catalog .*none.parquet: run data_prep/build_catalog"):
        read_catalog(tmp_path / "none.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"words"])
def test_a_file_that_is_no_catalog_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.parquet").write_bytes(content)
    with pytest.raises(InputError, match="not a catalog of data_prep"):
        read_catalog(tmp_path / "other.parquet")


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="not a catalog of data_prep"):
        read_catalog(tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("1", 3, "1"), ("2", 1, "2"), ("1", 2, "1")], "1 ids are there twice, such as 1"),
        ([("1", 3, "1"), ("2", -1, "2")], "neither a count nor a reason"),
        ([("../../1", 3, "1")], "an id is not made of letters, digits"),
    ],
)
def test_a_catalog_that_somebody_changed_is_refused(
    rows: list[tuple[str, int | None, str]], reason: str, tmp_path: Path
) -> None:
    write_catalog(catalog_of(*rows), *open_beside(tmp_path / "catalog.parquet", "--output"))
    with pytest.raises(InputError, match=reason):
        read_catalog(tmp_path / "catalog.parquet")


def test_zeros_in_a_catalog_are_no_bins(tmp_path: Path) -> None:
    path = tmp_path / "catalog.parquet"
    rows = [(f"{number:05d}", number % 6, f"{number:05d}") for number in range(2000)]
    write_catalog(catalog_of(*rows), *open_beside(path, "--output"))
    content = path.read_bytes()
    path.write_bytes(content[:1000] + bytes(1000) + content[2000:])
    with pytest.raises(InputError, match="or damaged"):
        read_catalog(path)


def test_a_catalog_goes_to_no_device() -> None:
    with pytest.raises(InputError, match="--output /dev/null is a device or a pipe"):
        open_beside("/dev/null", "--output", create=True)


def test_a_file_in_the_folder_at_hand_needs_no_folder_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_catalog(catalog_of(("1", 1, "1")), *open_beside("catalog.parquet", "--output"))
    assert (tmp_path / "catalog.parquet").exists()


def test_the_bins_of_each_count_are_counted() -> None:
    catalog = catalog_of(("1", 3, "1"), ("2", None, "1"), ("3", 0, "3"), ("4", 3, "4"))
    assert bins_by_count(catalog) == {0: 1, 3: 2}


def test_the_description_says_counts_groups_and_what_was_set_aside() -> None:
    text = describe_catalog(
        catalog_of(("1", 3, "1"), ("2", None, "1"), ("3", 0, "3"), ("4", 3, "4"), ("5", 88, "5"))
    )
    assert "       3          2  50.0 %" in text
    assert "21 to 88          1  25.0 %" in text
    assert "5 bins in 4 groups; 2 share a group" in text
    assert "1 records set aside; in 1 more the items' quantities do not sum" in text
    assert text.endswith("  1  no EXPECTED_QUANTITY")


def test_the_description_counts_visits_with_and_without_what_published_projects_leave_out() -> None:
    text = describe_catalog(
        catalog_of(
            *(("99998", 2, "99998"), ("99999", 7, "99998"), ("100000", 3, "99998")),
            *(("100002", 2, "100002"), ("100003", None, "100002"), ("100004", 1, "100002")),
            *(("100006", 9, "100006"), ("100007", 8, "100006"), ("100009", 1, "100009")),
        )
    )
    assert (
        "3 bins were visited twice and more: 4 pairs of neighbouring visits. Of the photos with 1 "
        "to 5 items alone: 2 bins, 2 pairs."
    ) in text.splitlines()


def test_the_description_says_how_many_test_bins_a_random_split_leaks() -> None:
    # One group: whichever bins are drawn for test, the others are in training.
    text = describe_catalog(catalog_of(*((f"{n:03d}", 2, "000") for n in range(200))))
    assert "of the 20 bins in a test split of 10 %" in text
    assert "20 (100.0 %) have a photo of the same bin in training" in text
    # Each bin is its own group, or the neighbours hold too many items to be kept.
    text = describe_catalog(
        catalog_of(*((f"{n:03d}", (2, 6)[n % 2], f"{n - n % 2:03d}") for n in range(400)))
    )
    assert "from the 200 with 1 to 5 items, 0 (0.0 %) have" in text


def test_a_catalog_without_any_usable_bin_is_described_too() -> None:
    assert "1 bins in 1 groups" in describe_catalog(catalog_of(("1", None, "1")))
