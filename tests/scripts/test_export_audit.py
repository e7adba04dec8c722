import csv
import json
import shutil
from pathlib import Path

import pytest

import audit
import export_audit


@pytest.fixture(scope="module")
def audit_dir(run_dir: Path, dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audits") / "test"
    flags = ["--model", run_dir / "model", "--bins", dataset_dir, "--split", "test"]
    with pytest.raises(SystemExit) as exit_info:
        audit.main([str(flag) for flag in [*flags, "--output_dir", folder]])
    assert exit_info.value.code == 0
    return folder


def export(*flags: object) -> None:
    export_audit.main([str(flag) for flag in flags])


@pytest.mark.parametrize("to", export_audit.FORMATS)
def test_a_dataset_folder_is_exported_whole_and_what_opens_it_is_said(
    to: str, audit_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--audit", audit_dir, "--bins", dataset_dir, "--split", "test", "--to", to]
    export(*flags, "--output_dir", tmp_path / "out")
    printed = capsys.readouterr().out.splitlines()
    num_bins = json.loads((audit_dir / "summary.json").read_text())["bins"]
    assert printed[0] == f"Exported {num_bins} of {num_bins} bins: {tmp_path / 'out'}"
    assert printed[-1].startswith("Next: ")
    assert str(tmp_path / "out") in printed[-1]
    assert not list(tmp_path.glob("*.part"))
    # Again, and elsewhere: the same bytes.
    export(*flags, "--output_dir", tmp_path / "again")
    for path in (tmp_path / "out").rglob("*.*"):
        again = tmp_path / "again" / path.relative_to(tmp_path / "out")
        assert again.read_bytes() == path.read_bytes()


def test_what_cannot_be_exported_is_refused_in_one_line_and_nothing_is_written(
    audit_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished, damaged, edited = (tmp_path / name for name in ("unfinished", "damaged", "edited"))
    for folder in (unfinished, damaged, edited):
        shutil.copytree(audit_dir, folder)
    (unfinished / "decisions.csv").unlink()
    (damaged / "audit.json").write_text("{")
    lines = (edited / "decisions.csv").read_text().splitlines(keepends=True)
    (edited / "decisions.csv").write_text("".join([lines[0], *reversed(lines[1:])]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    of_bins = ["--bins", dataset_dir, "--split", "test"]
    for flags, said in (
        (["--audit", tmp_path, *of_bins], "holds no audit (no audit.json)"),
        (["--audit", audit_dir, "--bins", dataset_dir], "is an audit of other bins"),
        (["--audit", unfinished, *of_bins], "has no decisions.csv yet"),
        (["--audit", damaged, *of_bins], "is damaged"),
        (["--audit", edited, *of_bins], "is not what audit.py wrote"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            export(*flags, "--to", "csv", "--output_dir", tmp_path / "out")
        assert exit_info.value.code == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert not list(tmp_path.glob("out*"))
    flags = ["--audit", audit_dir, *of_bins, "--to", "csv", "--output_dir", tmp_path / "full"]
    with pytest.raises(SystemExit):
        export(*flags)
    assert "is not empty: choose another --output_dir" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_decision_made_since_is_what_is_exported(
    audit_dir: Path, run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(audit_dir, tmp_path / "audit")
    of_bins = ["--bins", dataset_dir, "--split", "test"]
    flags = ["--model", run_dir / "model", *of_bins, "--output_dir", tmp_path / "audit"]
    costs = ["--cost_missed_error", 9, "--cost_manual_check", 0]
    with pytest.raises(SystemExit):
        audit.main([str(flag) for flag in [*flags, *costs]])
    flags = ["--audit", tmp_path / "audit", *of_bins, "--to", "csv"]
    export(*flags, "--output_dir", tmp_path / "out")
    with (tmp_path / "out" / "bins.csv").open(newline="") as file:
        assert {row["decision"] for row in csv.DictReader(file)} == {"check by hand"}
