"""What a finished dataset says of visits is what its rows show, whatever was left out."""

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from dataset_builds import all_rows, build, rows

SPLITS = ("train", "validation", "test")


def table_after(text: str, head: str) -> dict[str, list[str]]:
    """Return the rows of the markdown table whose first cell is `head`: name -> cells."""
    lines = text.splitlines()
    start = [cells(line)[0] for line in lines].index(head)
    found = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        name, *rest = cells(line)
        found[name] = rest
    return found


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def groups_of(dataset_dir: Path, split: str) -> list[list[dict]]:
    """Return the visits of each bin of a split, in order."""
    groups: dict[str, list[dict]] = {}
    for row in sorted(rows(dataset_dir, split), key=lambda row: int(row["id"])):
        groups.setdefault(row["bin_group"], []).append(row)
    return list(groups.values())


def check_visits(dataset_dir: Path, printed: str) -> None:
    """Check that card and report say of visits what the rows of the shards show."""
    card = (dataset_dir / "README.md").read_text()
    visited, changed = table_after(card, "bins visited"), table_after(card, "change")
    assert table_after(printed, "change") == changed
    assert list(changed)[2:] == ["-4", "-3", "-2", "-1", "0", "+1", "+2", "+3", "+4", "all"]
    num_again = num_pairs = 0
    for place, split in enumerate(SPLITS):
        groups = groups_of(dataset_dir, split)
        sizes = Counter(min(len(group), 3) for group in groups)
        pairs = [pair for group in groups for pair in pairwise(group)]
        changes = Counter(b["expected_quantity"] - a["expected_quantity"] for a, b in pairs)
        assert [visited[name][place] for name in ("once", "twice", "more often")] == [
            str(sizes[size]) for size in (1, 2, 3)
        ]
        assert visited["pairs of neighbours"][place] == changed["all"][place] == str(len(pairs))
        for change in range(-4, 5):
            name = f"{change:+}" if change else "0"
            share = 100 * changes[change] / len(pairs)
            assert changed[name][place] == f"{changes[change]} ({share:.1f} %)"
        num_again += sizes[2] + sizes[3]
        num_pairs += len(pairs)
    line = (
        f"{num_again} bins were visited twice and more: {num_pairs} pairs of neighbouring visits."
    )
    assert line in card.splitlines()
    assert line in printed.splitlines()


def test_card_and_report_count_the_visits_of_the_rows(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(bucket, tmp_path / "bins", "--test_fraction", "0.3")
    check_visits(built, capsys.readouterr().out)


def test_visits_of_a_split_that_leaks_are_those_within_a_split(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--split_by", "random", "--test_fraction", "0.3", "--validation_fraction", "0.3"]
    check_visits(build(bucket, tmp_path / "bins", *flags), capsys.readouterr().out)


def test_a_photo_that_is_set_aside_is_no_visit(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = Path(shutil.copytree(bucket, tmp_path / "mirror"))
    whole = build(mirror, tmp_path / "whole", "--test_fraction", "0.3")
    train, test = (
        [group for group in groups_of(whole, split) if len(group) > 1]
        for split in ("train", "test")
    )
    missing, excluded = train[0][1]["id"], train[1][0]["id"]
    (mirror / "bin-images" / f"{missing}.jpg").unlink()
    # One photo under two ids: the bin of the training split goes, with all its visits.
    shutil.copy(
        mirror / "bin-images" / f"{test[0][0]['id']}.jpg",
        mirror / "bin-images" / f"{train[2][0]['id']}.jpg",
    )
    (tmp_path / "errors.csv").write_text(f"id\n{excluded}\n")
    capsys.readouterr()
    flags = ["--test_fraction", "0.3", "--exclude", str(tmp_path / "errors.csv")]
    built = build(mirror, tmp_path / "bins", *flags)
    gone = {missing, excluded, *(row["id"] for row in train[2])}
    assert {row["id"] for row in all_rows(whole)} - {row["id"] for row in all_rows(built)} == gone
    check_visits(built, capsys.readouterr().out)


def test_where_no_bin_was_visited_twice_no_changes_are_shown(
    bucket: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = {row["bin_group"]: row["id"] for row in all_rows(dataset_dir)}
    (tmp_path / "list.json").write_text(json.dumps({"1": sorted(first.values())}))
    built = build(bucket, tmp_path / "bins", "--bin_list", str(tmp_path / "list.json"))
    for text in (capsys.readouterr().out, (built / "README.md").read_text()):
        assert "No bin was visited twice, as far as bin groups are known." in text.splitlines()
        assert "| change |" not in text
