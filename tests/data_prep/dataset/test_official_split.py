import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from catalog.file import CATALOG_SCHEMA
from command_line import InputError
from dataset.official_split import hold_out_validation, read_official_bins
from paths import real_path


def write_lists(folder: Path, train: Any, validation: Any) -> tuple[Path, Path]:
    paths = folder / "counting_train.json", folder / "counting_val.json"
    for path, content in zip(paths, (train, validation), strict=True):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return paths


def catalog_of(groups: dict[str, str]) -> pa.Table:
    rows = [
        {"id": bin_id, "count": 1, "quantities_match": True, "asins": [], "quantities": []}
        | {"bin_group": group}
        for bin_id, group in groups.items()
    ]
    return pa.Table.from_pylist(rows, schema=CATALOG_SCHEMA)


def test_an_index_is_the_id_before_it_and_the_official_validation_list_is_test(
    tmp_path: Path,
) -> None:
    lists = write_lists(tmp_path, [[100000, 2], [0, 0], [4, 5]], [[9, 1], [2, 6]])
    assert read_official_bins(*lists, 0, 5).to_pylist() == [
        {"id": "00001", "count": 0, "bin_group": None, "split": "train"},
        {"id": "00005", "count": 5, "bin_group": None, "split": "train"},
        {"id": "00010", "count": 1, "bin_group": None, "split": "test"},
        {"id": "100001", "count": 2, "bin_group": None, "split": "train"},
    ]
    assert read_official_bins(*lists, 1, 5)["id"].to_pylist() == ["00005", "00010", "100001"]


def test_a_catalog_gives_the_groups_that_it_knows(tmp_path: Path) -> None:
    lists = write_lists(tmp_path, [[0, 1], [1, 2], [2, 3]], [[3, 1]])
    catalog = catalog_of({"00001": "00001", "00002": "00001", "00004": "00004"})
    bins = read_official_bins(*lists, 1, 5, catalog)
    assert bins["bin_group"].to_pylist() == ["00001", "00001", None, "00004"]


def test_a_catalog_of_other_bins_is_refused(tmp_path: Path) -> None:
    lists = write_lists(tmp_path, [[0, 1]], [[3, 1]])
    with pytest.raises(InputError, match="--catalog: none of the official lists' bins is in it"):
        read_official_bins(*lists, 1, 5, catalog_of({"1": "1"}))


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ("", [[1, 1]], "--official_train .*expected JSON such as"),
        ([[1, 1]], {"a": 1}, "--official_validation .*expected JSON such as"),
        ("[" * 100_000, [[1, 1]], "--official_train .*expected JSON such as"),
        ([], [[1, 1]], "--official_train .*expected JSON such as .*no list with entries"),
        ("[[1, 1],\n[2, 2]", [[1, 1]], r"--official_train .*delimiter: line 2 column 7"),
        ([[1, 1], [2, "3"]], [[3, 1]], r"entry 2 is \[2, '3'\], expected \[index, count\]"),
        ([[1, 1], [2, 3.0]], [[3, 1]], r"entry 2 is \[2, 3.0\], expected"),
        ([[1, True]], [[3, 1]], r"entry 1 is \[1, True\], expected"),
        ([[1, -1]], [[3, 1]], r"entry 1 is \[1, -1\], expected"),
        ([[-1, 1]], [[3, 1]], r"entry 1 is \[-1, 1\], expected"),
        ([[1, 2**40]], [[3, 1]], "entry 1 is .*, expected"),
        ([[1, 1, 1]], [[3, 1]], "entry 1 is .*, expected"),
        (["00001.jpg"], [[3, 1]], "entry 1 is 00001.jpg, expected"),
        ([[1, 1], [5, 2], [1, 2]], [[3, 1]], "1 bins are there twice: 00002"),
        ([[1, 1], [2, 1]], [[2, 1]], "1 of its bins are in .* too, such as 00003"),
        ([[1, 9]], [[2, 9]], "no bin with 1 to 5 items in them: widen the range"),
    ],
)
def test_another_file_than_an_official_list_is_refused_in_one_line(
    tmp_path: Path, train: Any, validation: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_official_bins(*write_lists(tmp_path, train, validation), 1, 5)
    assert "\n" not in str(raised.value)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    train, _ = write_lists(tmp_path, [[1, 1]], [[2, 2]])
    with pytest.raises(InputError, match=r"--official_validation .*No such file"):
        read_official_bins(train, tmp_path / "none.json", 1, 5)


def test_validation_takes_whole_groups_from_train_and_leaves_test_alone(tmp_path: Path) -> None:
    lists = write_lists(
        tmp_path, [[n, n % 5 + 1] for n in range(300)], [[n, 1] for n in (301, 310)]
    )
    catalog = catalog_of({f"{n + 1:05d}": f"{n - n % 3 + 1:05d}" for n in range(200)})
    bins = read_official_bins(*lists, 1, 5, catalog)
    held_out = hold_out_validation(bins, 0.2, seed=1)
    assert held_out.drop(["split"]).equals(bins.drop(["split"]))
    assert pc.equal(held_out["split"], "test").equals(pc.equal(bins["split"], "test"))
    splits = held_out["split"].to_pylist()
    assert splits.count("validation") == pytest.approx(60, abs=2)
    of_group: dict[str, set[str]] = {}
    for group, split in zip(bins["bin_group"].to_pylist(), splits, strict=True):
        if group is not None:
            of_group.setdefault(group, set()).add(split)
    assert all(len(found) == 1 for found in of_group.values())
    # Unknown groups are not one group.
    unknown = {s for g, s in zip(bins["bin_group"].to_pylist(), splits, strict=True) if not g}
    assert unknown == {"train", "validation", "test"}


@pytest.mark.parametrize(("fraction", "split"), [(0.0, "train"), (1.0, "validation")])
def test_none_or_all_of_train_can_be_validation(
    tmp_path: Path, fraction: float, split: str
) -> None:
    bins = read_official_bins(*write_lists(tmp_path, [[1, 1], [2, 2]], [[3, 3]]), 1, 5)
    held_out = hold_out_validation(bins, fraction, seed=1)
    assert held_out["split"].to_pylist() == [split, split, "test"]


@pytest.mark.slow
def test_the_full_challenge_lists_are_split_as_published() -> None:
    folder = real_path("abid_lists")
    lists = folder / "counting_train.json", folder / "counting_val.json"
    bins = hold_out_validation(read_official_bins(*lists, 0, 5), 0.1, seed=42)
    numbers = {
        entry["values"]: entry["counts"] for entry in pc.value_counts(bins["split"]).to_pylist()
    }
    assert numbers["test"] == 36_032
    assert numbers["train"] + numbers["validation"] == 324_735
    assert numbers["validation"] == pytest.approx(32_473.5, abs=3)
