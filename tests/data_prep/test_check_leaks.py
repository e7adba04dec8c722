"""The leak check on folders of photos, as anybody has them, and on datasets of this project."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import check_leaks


def draw(path: Path, seed: int) -> Path:
    """Draw a photo that looks like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 255, (16, 17, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((170, 160), Image.Resampling.NEAREST).save(path, quality=95)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of photos with two splits that share nothing."""
    photos = tmp_path / "photos"
    for number in range(4):
        draw(photos / "train" / "cat" / f"{number}.jpg", number)
        draw(photos / "test" / "cat" / f"{number}.jpg", 10 + number)
    return photos


def check(*argv: str) -> int:
    return check_leaks.main([*argv])


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        check(*argv)
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_splits_that_share_nothing_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(str(folder), "--perceptual") == 0
    printed = capsys.readouterr().out
    assert "train (4)" in printed
    assert printed.endswith("No leak was found.\n")


def test_a_copy_is_found_by_its_bytes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "train/cat/1.jpg", folder / "test/cat/copy.jpg")
    report = tmp_path / "reports" / "leaks.json"
    assert check(str(folder), "--output", str(report)) == 1
    assert "exact copies, such as train[1] = test[4]" in capsys.readouterr().out
    found = json.loads(report.read_text())
    assert found["splits"] == {"train": 4, "test": 5}
    pairs = found["checks"]["exact copies"]["pairs"]
    assert pairs == [[["train", 1], ["test", 4]], [["test", 4], ["train", 1]]]


def test_a_copy_of_another_size_is_found_by_its_look_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(folder / "train/cat/1.jpg") as photo:
        photo.resize((85, 80)).save(folder / "test/cat/copy.jpg", quality=60)
    assert check(str(folder)) == 0
    assert check(str(folder), "--perceptual") == 1
    assert "It leaks: near copies." in capsys.readouterr().out


def test_a_photo_that_cannot_be_read_is_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "test/cat/0.jpg").write_bytes(b"no photo")
    assert check(str(folder), "--perceptual") == 0
    printed = capsys.readouterr().out
    assert "1 photos cannot be read" in printed
    assert "near copies: only 7 of 8 rows could be compared" in printed


def test_a_column_may_be_group_and_id_at_once(
    dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(str(dataset_dir), "--group_column", "id") == 0
    assert "neighbours by id *" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_no_leak(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_info:
        check(str(folder), "--output", str(tmp_path / "file" / "leaks.json"))
    assert exit_info.value.code == 2
    assert "--output" in capsys.readouterr().err


def test_groups_are_held_to_one_split(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, patients in (("train", "aabb"), ("test", "bccc")):
        lines = [
            json.dumps({"file_name": f"cat/{number}.jpg", "patient": patient})
            for number, patient in enumerate(patients)
        ]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    assert check(str(folder)) == 0
    assert check(str(folder), "--group_column", "patient") == 1
    assert re.search(r"shared groups +2 \(50\.0%\) +1 \(25\.0%\)\n", capsys.readouterr().out)


def test_a_dataset_of_this_project_does_not_leak(
    dataset_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(str(dataset_dir), "--perceptual") == 0
    printed = capsys.readouterr().out
    assert "shared groups" in printed
    assert "neighbours by id *" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["no/such/folder"], "no/such/folder: there is no such folder, and a Hub id is USER/NAME"),
        (["--group_column", "patient"], "--group_column patient: the columns are image."),
        (["--group_column", "image"], "image holds struct"),
        (["--image_column", "label"], "--image_column: name one; the columns of images are image."),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = flags if flags[0] == "no/such/folder" else [str(folder), *flags]
    assert message in error_of(capsys, *argv)


def test_one_split_has_nothing_to_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "test")
    assert "has one split, train: nothing to compare" in error_of(capsys, str(folder))
