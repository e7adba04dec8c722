"""A dataset that knows what people found: labels, columns, splits, what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from datasets import load_dataset

from dataset.marks import MARK_COLUMNS
from dataset_builds import all_rows, build, build_fails, file_bytes, rows
from dataset_folder import open_dataset

SPLIT = ["--test_fraction", "0.2"]
HEADER = "id,expected_quantity,decision,probability_wrong,mark,counted\n"


def marks_of(path: Path, lines: Mapping[str, str]) -> str:
    path.write_text(HEADER + "".join(f"{bin_id},{line}\n" for bin_id, line in lines.items()))
    return str(path)


def test_marked_bins_are_labelled_as_people_found_them_and_all_others_stay_as_they_are(
    bucket: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, right, uncounted = rows(dataset_dir, "train")[:3]
    recorded = wrong["expected_quantity"]
    counted = recorded % 5 + 1
    marks = marks_of(
        tmp_path / "marks.csv",
        {
            wrong["id"]: f"{recorded},check,0.9,wrong,{counted}",
            right["id"]: f"{right['expected_quantity']},ok,0.1,right,",
            uncounted["id"]: f"{uncounted['expected_quantity']},check,0.9,wrong,",
        },
    )
    built = build(bucket, tmp_path / "bins", *SPLIT, "--marks", marks)
    assert "1  found wrong, and not counted (--marks)" in capsys.readouterr().out
    before = {row["id"]: row for row in all_rows(dataset_dir)}
    for split in ("train", "validation", "test"):
        now = {row["id"]: row for row in rows(built, split)}
        then = {row["id"] for row in rows(dataset_dir, split)} - {uncounted["id"]}
        assert now.keys() == then
        for bin_id in then - {wrong["id"], right["id"]}:
            said = {name: now[bin_id].pop(name) for name in MARK_COLUMNS}
            assert now[bin_id] == before[bin_id]
            assert said.pop("recorded_quantity") == before[bin_id]["expected_quantity"]
            assert set(said.values()) == {None}
    corrected = {row["id"]: row for row in all_rows(built)}[wrong["id"]]
    assert corrected["expected_quantity"] == counted
    assert corrected["recorded_quantity"] == recorded
    assert (corrected["checked"], corrected["asins"]) == ("wrong", None)
    assert corrected["image"] == before[wrong["id"]]["image"]
    loaded = load_dataset(str(built), split="train")
    assert {*MARK_COLUMNS} <= {*loaded.column_names}
    open_dataset(built)  # labels and quantities agree, as training wants them
    assert f"--marks {marks}" in (built / "README.md").read_text()
    assert "People have looked at some bins" in (built / "README.md").read_text()


def test_other_marks_are_another_dataset(
    bucket: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rows(dataset_dir, "train")[0]
    lines = {row["id"]: f"{row['expected_quantity']},ok,0.1,right,"}
    marks = marks_of(tmp_path / "marks.csv", lines)
    built = build(bucket, tmp_path / "bins", *SPLIT, "--marks", marks)
    before = file_bytes(built)
    build(bucket, built, *SPLIT, "--marks", marks)
    code, errors = build_fails(capsys, bucket, built, *SPLIT)
    assert code == 2
    assert "holds a dataset of other settings (marks '" in errors[-1]
    assert file_bytes(built) == before
    assert json.loads((built / "settings.json").read_text())["marks"]


def test_wrong_records_that_nobody_counted_are_set_aside_though_no_other_is_marked(
    bucket: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row, left_out = rows(dataset_dir, "train")[:2]
    excluded = tmp_path / "excluded.csv"
    excluded.write_text(f"id\n{left_out['id']}\n")
    lines = {
        row["id"]: f"{row['expected_quantity']},check,0.9,wrong,",
        left_out["id"]: f"{left_out['expected_quantity']},ok,0.1,right,",
    }
    flags = ["--marks", marks_of(tmp_path / "marks.csv", lines), "--exclude", str(excluded)]
    built = build(bucket, tmp_path / "bins", *SPLIT, *flags)
    told = capsys.readouterr()
    assert "1  found wrong, and not counted (--marks)" in told.out
    assert f"{left_out['id']}: marked, but not among the bins (--marks)" in told.err
    entries = [json.loads(line) for line in (built / "set_aside.jsonl").read_text().splitlines()]
    assert sorted(entry["id"] for entry in entries) == sorted([row["id"], left_out["id"]])


def test_marks_of_other_bins_are_refused(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = marks_of(tmp_path / "marks.csv", {"152": "2,ok,0.1,right,"})
    code, errors = build_fails(capsys, bucket, tmp_path / "bins", "--marks", marks)
    assert code == 2
    assert "none of the 1 marked bins is used, such as '152'" in errors[-1]
