"""Which shards are done, whatever happened to their files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset.finished import finished_shards
from dataset_builds import build, file_bytes
from object_store import open_store

LABELS = ["1", "2", "3", "4", "5"]
NAME = "train-00000-of-00001"


@pytest.fixture
def copy(dataset_dir: Path, tmp_path: Path) -> Path:
    """Return a dataset that a test may damage."""
    return Path(shutil.copytree(dataset_dir, tmp_path / "bins"))


def done(folder: Path) -> set[str]:
    names = sorted(path.stem for path in (folder / "statistics").iterdir())
    return set(finished_shards(open_store(str(folder)), names, LABELS))


def zeros_in_the_second_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("data/{}.parquet", zeros_in_the_second_half, "is damaged (its SHA-256 is not the one"),
        ("data/{}.parquet", lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        ("data/{}.parquet", Path.unlink, "is missing"),
        ("statistics/{}.json", zeros_in_the_second_half, "of another version, or damaged ("),
        (
            "statistics/{}.json",
            lambda path: path.write_text('{"split": "train"}'),
            "damaged (KeyError: 'histogram')",
        ),
    ],
)
def test_a_damaged_shard_is_named_and_made_again(
    file: str,
    damage: Callable[[Path], object],
    said: str,
    bucket: Path,
    dataset_dir: Path,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = copy / file.format(NAME)
    damage(path)
    assert done(copy) == {"test-00000-of-00001", "validation-00000-of-00001"}
    line = capsys.readouterr().err.strip()
    assert line.startswith(str(path.relative_to(copy)))
    assert said in line
    build(bucket, copy, "--test_fraction", "0.2")
    assert file_bytes(copy) == file_bytes(dataset_dir)
    assert len(done(copy)) == 3
