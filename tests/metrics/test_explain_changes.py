import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import explain_changes
from evaluation import Evaluation
from explain_changes import count_after, most_telling
from visit_figures import Changes

COUNTS, CHANGES = np.arange(1, 4), np.arange(-2, 3)


def evaluation(*probabilities: list[float]) -> Evaluation:
    """Return single counts of 1 to 3 items, of the visits "0", "1" and so on."""
    ids = np.arange(len(probabilities)).astype(str)
    expected = np.ones(len(ids), dtype=int)
    return Evaluation(ids, ids, expected, COUNTS, np.array(probabilities))


def changes(counts: list[list[int]], *probabilities: list[float]) -> Changes:
    """Return the changes from visit "0" to "1", from "1" to "2" and so on."""
    ids = np.column_stack([np.arange(len(counts)), np.arange(1, len(counts) + 1)]).astype(str)
    return Changes(ids, ids[:, 0], np.array(counts), CHANGES, np.array(probabilities), {})


def test_a_known_count_is_moved_by_the_change() -> None:
    change = np.array([0.1, 0.2, 0.0, 0.5, 0.2])
    assert count_after(1, change, COUNTS, CHANGES) == pytest.approx([0, 5 / 7, 2 / 7])
    assert count_after(3, change, COUNTS, CHANGES) == pytest.approx([1 / 3, 2 / 3, 0])


def test_the_example_is_where_the_change_adds_most_and_is_told_right() -> None:
    vague, sure = [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]
    up, down = [0.0, 0.0, 0.1, 0.9, 0.0], [0.0, 0.9, 0.1, 0.0, 0.0]
    none = [0.0, 0.0, 1.0, 0.0, 0.0]
    # From 1 to 2 although the photo alone knows it; to 3, which it does not; to 2, but told wrong;
    # and nothing.
    told = changes([[1, 2], [2, 3], [3, 2], [2, 2]], up, up, up, none)
    example = most_telling(told, evaluation(vague, sure, vague, vague, vague))
    assert example.ids == ("1", "2")
    assert example.counts == (2, 3)
    assert example.alone.tolist() == vague
    assert example.from_before == pytest.approx([0, 0.1, 0.9])
    with pytest.raises(ValueError, match="tells no change right"):
        most_telling(changes([[1, 2], [2, 2]], down, none), evaluation(vague, vague, vague))
    with pytest.raises(ValueError, match="not of one run"):
        most_telling(told, evaluation(vague, sure))


@pytest.fixture
def run_copy(run_dir: Path, tmp_path: Path) -> Path:
    """Return a run that tells one change right, whatever its one epoch has taught it."""
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("predictions_test.parquet", "changes_test.parquet"):
        shutil.copyfile(run_dir / name, copy / name)
    table = pq.read_table(copy / "changes_test.parquet")
    rows = table.to_pylist()
    row = next(row for row in rows if row["earlier_quantity"] != row["later_quantity"])
    change = row["later_quantity"] - row["earlier_quantity"]
    row |= {name: float(name == f"probability_{change:+d}") for name in row if name[:4] == "prob"}
    pq.write_table(table.from_pylist(rows, table.schema), copy / "changes_test.parquet")
    return copy


def test_the_picture_of_a_run_is_drawn(
    run_copy: Path, dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain_changes.main([str(run_copy), "--dataset", str(dataset_dir)])
    path = run_copy / "explained_change.png"
    assert f"Picture: {path}, of the visits " in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.width == 1584
        # Photos have many colours, bars and letters few.
        assert len(picture.convert("RGB").getcolors(2**20) or []) > 1000


def test_a_run_without_changes_and_another_dataset_are_named(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        explain_changes.main([str(run_copy), "--dataset", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no test split" in line
    (run_copy / "changes_test.parquet").unlink()
    with pytest.raises(SystemExit, match="2"):
        explain_changes.main([str(run_copy), "--dataset", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "changes_test.parquet is missing: run scripts/train.py with --do_predict" in line
    assert sorted(path.name for path in run_copy.iterdir()) == ["predictions_test.parquet"]
