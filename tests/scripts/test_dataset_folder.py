import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builds import rows
from dataset_folder import COLUMNS, check_contents, open_dataset


@pytest.fixture
def copy(dataset_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset_dir, tmp_path / "bins"))


def shard(folder: Path, split: str = "test") -> Path:
    return next((folder / "data").glob(f"{split}-*.parquet"))


def rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the test split's only shard again, as `change` makes it of its table."""
    path = shard(folder)
    pq.write_table(change(pq.read_table(path)), path)


def replaced(table: pa.Table, name: str, values: list) -> pa.Table:
    index = table.column_names.index(name)
    return table.set_column(index, table.field(name), pa.array(values, table.field(name).type))


def test_a_dataset_says_what_it_holds(dataset_dir: Path) -> None:
    dataset = open_dataset(dataset_dir)
    assert dataset.label_names == ("1", "2", "3", "4", "5")
    assert set(dataset.num_bins) == set(dataset.shards) == {"train", "validation", "test"}
    for split, number in dataset.num_bins.items():
        built = rows(dataset_dir, split)
        assert number == len(built)
        read = pa.concat_tables(dataset.tables(split)).to_pylist()
        assert [[row[name] for name in COLUMNS] for row in read] == [
            [row[name] for name in COLUMNS] for row in built
        ]
        assert dataset.table(split, ["id"])["id"].to_pylist() == [row["id"] for row in built]


def test_the_files_of_the_build_match_their_digests_and_others_do_not(copy: Path) -> None:
    path = shard(copy)
    check_contents(copy, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        check_contents(copy, path)
    shutil.rmtree(copy / "statistics")  # a copy may come without
    check_contents(copy, path)


def test_a_shard_that_its_build_left_without_rows_has_no_file(copy: Path) -> None:
    path = shard(copy)
    (copy / "statistics" / f"{path.stem}.json").write_text('{"sha256": null}')
    with pytest.raises(ValueError, match=f"{path.name} is no file of its build .*: move it"):
        check_contents(copy, path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "No dataset folder"),
        (lambda folder: (folder / "README.md").unlink(), "not a finished dataset"),
        (lambda folder: shutil.rmtree(folder / "data"), "holds no bins"),
        (
            lambda folder: shard(folder).unlink(),
            "test, and its README.md names .*a shard is missing",
        ),
        (
            lambda folder: shutil.copy(shard(folder), folder / "data/test-00007-of-00008.parquet"),
            "or one too many",
        ),
        (lambda folder: shard(folder).rename(folder / "data" / "t.parquet"), "is no shard"),
        (lambda folder: shard(folder).write_bytes(b"PAR1"), "test-.*parquet cannot be read"),
        (lambda folder: shard(folder).write_bytes(b""), "test-.*parquet cannot be read"),
        (
            lambda folder: rewrite(folder, lambda table: table.drop_columns(["bin_group"])),
            "No column bin_group",
        ),
        (
            lambda folder: rewrite(folder, lambda table: table.replace_schema_metadata(None)),
            "other columns or labels",
        ),
        (
            lambda folder: rewrite(
                folder, lambda table: replaced(table, "label", [0] * len(table))
            ),
            "test differ from the quantities",
        ),
        (
            lambda folder: rewrite(
                folder, lambda table: replaced(table, "label", [99] * len(table))
            ),
            "test differ from the quantities",
        ),
        (
            lambda folder: (folder / "README.md").write_text("---\ndataset_info: [\n---\n"),
            "README.md is damaged",
        ),
    ],
)
def test_a_dataset_that_is_not_whole_says_what_to_do(
    harm: Callable[[Path], object], message: str, copy: Path
) -> None:
    harm(copy)
    with pytest.raises(ValueError, match=message) as error_info:
        open_dataset(copy)
    assert "build_dataset.py" in str(error_info.value) or "move it" in str(error_info.value)


def test_what_a_mac_leaves_beside_a_file_is_no_shard(copy: Path) -> None:
    (copy / "data" / f"._{shard(copy).name}").write_bytes(b"\0\5\x16\7")
    open_dataset(copy)


def test_a_card_that_names_no_sizes_does(copy: Path) -> None:
    (copy / "README.md").write_text("# Bins\n")
    assert open_dataset(copy).num_bins["test"] == len(rows(copy, "test"))


def test_a_shard_whose_pages_are_damaged_is_named(copy: Path) -> None:
    path = shard(copy)
    content = path.read_bytes()
    path.write_bytes(b"PAR1" + b"\xff" * (len(content) // 2) + content[len(content) // 2 + 4 :])
    dataset = open_dataset(copy)
    with pytest.raises(ValueError, match=f"{path.name} cannot be read .*copy the dataset again"):
        list(dataset.tables("test"))
