import csv
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import audit
import build_dataset
from auditing.bins import DatasetBins
from label_checks.label_errors import photo_features


def test_a_model_that_cannot_be_loaded_says_why(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_dir / "model", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(
        ValueError, match=r"cannot be loaded \(SafetensorError: .*\): copy it again"
    ):
        photo_features(tmp_path / "model", DatasetBins(dataset_dir, ["train"], None))


@pytest.mark.slow
def test_the_entry_writes_the_least_likely_labels_first(
    run_dir: Path,
    dataset_dir: Path,
    bucket: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bins = tmp_path / "bins"
    shutil.copytree(dataset_dir, bins)
    (shard,) = bins.glob("data/train-*.parquet")
    table = pq.read_table(shard)
    ids = table["id"].to_pylist()
    ids[0] = "=1+1"
    table = table.set_column(table.column_names.index("id"), "id", pa.array(ids))
    pq.write_table(table, shard, row_group_size=100)
    shutil.rmtree(bins / "statistics")  # which say what the shard was
    flags = ["--label_errors", "--model", run_dir / "model", "--bins", bins]
    flags += ["--review_budget", "0.1"]
    audit.main([str(flag) for flag in [*flags, "--output_dir", tmp_path / "out"]])
    with (tmp_path / "out" / "label_errors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 0 < len(rows) <= 0.1 * len(ids)
    assert {row["id"] for row in rows} <= {*ids, "'=1+1"}
    scores = [float(row["probability_of_label"]) for row in rows]
    assert scores == sorted(scores)
    assert all(row["expected_quantity"] != row["likely_count"] for row in rows)
    for row in rows:
        assert row["suggested"] in {*"12345"} - {row["expected_quantity"]}
    # The next dataset leaves them out.
    excluding = ["--exclude", tmp_path / "out" / "label_errors.csv", "--source", bucket]
    flags = [*excluding, "--output_dir", tmp_path / "next", "--image_size", "32"]
    build_dataset.main([str(flag) for flag in [*flags, "--test_fraction", "0.2"]])
    left = pq.read_table(next((tmp_path / "next" / "data").glob("train-*.parquet")))
    assert not set(left["id"].to_pylist()) & {row["id"] for row in rows}
    assert f"the first {len(rows)} are in" in capsys.readouterr().out
