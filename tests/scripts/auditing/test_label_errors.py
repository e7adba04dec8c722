import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import audit
from auditing.bins import DatasetBins
from auditing.label_errors import cross_validated_probabilities, likely_errors, photo_features


def clusters(num_bins: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features that tell the count well, labels, and groups of two."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, 6, size=num_bins)
    features = generator.normal(size=(num_bins, 8))
    features[np.arange(num_bins), labels] += 6
    return features, labels, [f"group {row // 2}" for row in range(num_bins)]


def test_wrong_labels_are_found_and_come_first() -> None:
    features, labels, groups = clusters(400)
    wrong = np.arange(0, 400, 20)
    labels[wrong] = labels[wrong] % 5 + 1
    probabilities, counts = cross_validated_probabilities(features, labels, groups)
    assert counts.tolist() == [1, 2, 3, 4, 5]
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    likely, score = likely_errors(probabilities, np.searchsorted(counts, labels))
    assert len(set(likely) & set(wrong)) >= 18
    assert len(set(likely) - set(wrong)) <= 4
    assert np.all(np.diff(score[likely]) >= 0)


def test_no_group_helps_to_judge_itself() -> None:
    # Photos of one group are the same, their labels pure chance: whoever saw the group, knows.
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.integers(1, 4, size=150), 2)
    features = np.repeat(generator.normal(size=(150, 60)), 2, axis=0)
    groups = [f"group {row // 2}" for row in range(300)]
    probabilities, counts = cross_validated_probabilities(features, labels, groups)
    assert (counts[probabilities.argmax(axis=1)] == labels).mean() < 0.5


def test_too_few_groups_are_refused() -> None:
    features, labels, _ = clusters(40)
    with pytest.raises(ValueError, match="fewer than 5 bin groups"):
        cross_validated_probabilities(features, labels, ["one"] * 40)
    labels[:] = 1
    labels[:2] = 2
    with pytest.raises(ValueError, match="too few bin groups"):
        cross_validated_probabilities(features, labels, ["both", "both", *map(str, range(38))])


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
    run_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert f"the first {len(rows)} are in" in capsys.readouterr().out
