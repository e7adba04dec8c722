"""Build small datasets and look at what came out, for the tests of data_prep."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import build_dataset

SMALL = ["--image_size", "32", "--num_workers", "1"]


def build(source: Path | str, output_dir: Path | str, *flags: str) -> Path:
    build_dataset.main(["--source", str(source), "--output_dir", str(output_dir), *SMALL, *flags])
    return Path(output_dir)


def build_fails(
    capsys: pytest.CaptureFixture[str], source: Path | str, output_dir: Path | str, *flags: str
) -> tuple[int, list[str]]:
    """Return exit code and last lines of standard error; progress bars may stand before them."""
    with pytest.raises(SystemExit) as exit_info:
        build(source, output_dir, *flags)
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, capsys.readouterr().err.replace("\r", "\n").strip().splitlines()


def rows(dataset_dir: Path, split: str) -> list[dict]:
    paths = sorted((dataset_dir / "data").glob(f"{split}-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def all_rows(dataset_dir: Path) -> list[dict]:
    return [row for split in ("train", "validation", "test") for row in rows(dataset_dir, split)]


def file_bytes(dataset_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (dataset_dir / "data").iterdir()}
