from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Image, List, Value

from dataset import shards
from dataset.shards import ShardStatistics, dataset_schema, row_groups
from dataset_builds import build


def test_the_schema_is_the_one_that_datasets_writes() -> None:
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=["0", "1", "2"]),
            "id": Value("string"),
            "bin_group": Value("string"),
            "expected_quantity": Value("int32"),
            "asins": List(Value("string")),
            "quantities": List(Value("int32")),
            "volumes": List(Value("float32")),
            "weights": List(Value("float32")),
        }
    )
    schema = dataset_schema(["0", "1", "2"])
    assert schema.equals(features.arrow_schema, check_metadata=True)


def test_row_groups_stay_below_both_limits_and_leave_no_row_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "ROWS_PER_ROW_GROUP", 3)
    monkeypatch.setattr(shards, "BYTES_PER_ROW_GROUP", 10)
    sizes = [1, 1, 1, 1, 9, 2, 8, 25, 5, 5]
    assert list(row_groups(sizes)) == [(0, 3), (3, 5), (5, 7), (7, 8), (8, 10)]


def test_large_photos_make_smaller_row_groups(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BYTES_PER_ROW_GROUP", 20_000)
    built = build(bucket, tmp_path / "bins", "--max_bins", "40", "--test_fraction", "1")
    (path,) = (built / "data").iterdir()
    metadata = pq.read_metadata(path)
    assert metadata.num_rows == 40
    assert metadata.num_row_groups > 2
    for index in range(metadata.num_row_groups):
        assert metadata.row_group(index).total_byte_size < 26_000  # photos and the other columns


def test_statistics_say_what_is_in_the_shard(dataset_dir: Path) -> None:
    path = dataset_dir / "data" / "test-00000-of-00001.parquet"
    statistics = ShardStatistics.from_json(
        (dataset_dir / "statistics" / f"{path.stem}.json").read_bytes()
    )
    table = pq.read_table(path)
    assert statistics.num_bins == table.num_rows
    assert statistics.num_bytes == path.stat().st_size
    assert statistics.histogram.sum() == table.num_rows * 3 * 32 * 32
    assert statistics.photo_hashes.keys() == set(table["id"].to_pylist())
    assert statistics.from_json(statistics.to_json()).kept == statistics.kept
