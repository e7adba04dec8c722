import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cleanlab import Datalab
from cleanlab.filter import find_label_issues

import audit
import export_audit
from exported_audits import Audited


@pytest.fixture(scope="module")
def folder(run_dir: Path, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the export of an audit of a test split, whose bins are of all counts."""
    made = tmp_path_factory.mktemp("exports")
    of_bins = ["--bins", dataset_dir, "--split", "test"]
    flags = ["--model", run_dir / "model", *of_bins, "--output_dir", made / "audit"]
    with pytest.raises(SystemExit):
        audit.main([str(flag) for flag in flags])
    flags = ["--audit", made / "audit", *of_bins, "--to", "cleanlab"]
    export_audit.main([str(flag) for flag in [*flags, "--output_dir", made / "out"]])
    return made / "out"


def test_cleanlab_finds_label_issues_in_the_arrays(folder: Path, run_dir: Path) -> None:
    labels, pred_probs, counts = (
        np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("labels", "pred_probs", "counts")
    )
    recorded = pq.read_table(run_dir / "predictions_test.parquet")
    assert counts[labels].tolist() == recorded["expected_quantity"].to_pylist()
    of_counts = [recorded[f"probability_{count}"].to_numpy() for count in counts]
    assert pred_probs == pytest.approx(np.column_stack(of_counts), abs=1e-3)
    with (folder / "ids.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == recorded["id"].to_pylist()
    issues = find_label_issues(labels, pred_probs, n_jobs=1)
    assert issues.shape == labels.shape
    lab = Datalab(data={"label": labels}, label_name="label", task="classification", verbosity=0)
    lab.find_issues(pred_probs=pred_probs, issue_types={"label": {}})
    assert len(lab.get_issues("label")) == len(labels)


def test_what_has_no_count_or_no_photo_is_left_out(
    audited: Audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audited.export("cleanlab", tmp_path / "out")
    with (tmp_path / "out" / "ids.csv").open(newline="", encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == ["plain", "../../evil", "'=1+1", "x" * 300, "same", "same", "png"]
    assert np.load(tmp_path / "out" / "labels.npy").tolist() == [0, 1, 2, 3, 4, 0, 1]
    printed = capsys.readouterr().out
    assert "Exported 7 of 11 bins" in printed
    assert "Left out, without a photo and a record that the model counts to: 4." in printed
