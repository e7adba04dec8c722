import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from auditing import parts as audit_parts
from auditing.bins import open_bins
from auditing.parts import claim_output, read_parts, write_parts
from serving.bin_counter import BinCounter


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_parts, "PART_SIZE", 4)


def written(output_dir: Path) -> dict[str, tuple[bytes, int]]:
    paths = sorted((output_dir / "parts").iterdir())
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_part_is_named_and_made_again_and_no_other(
    run_dir: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_bins(dataset_dir, ["test"], None, None)
    counter = BinCounter(run_dir / "model", 1)
    write_parts(source, counter, tmp_path)
    whole = written(tmp_path)
    assert len(whole) == -(-source.num_bins // 4) > 5
    assert capsys.readouterr().out == ""
    names = sorted(whole)
    damaged = {
        names[0]: lambda content: bytes(len(content)),
        names[2]: lambda content: content[: len(content) // 2] + bytes(len(content) // 2),
        # The footer is as it was, and some answers are zeros.
        names[3]: lambda content: content[:400] + bytes(40) + content[440:],
        names[5]: lambda content: content[:-9],
    }
    for name, damage in damaged.items():
        (tmp_path / "parts" / name).write_bytes(damage(whole[name][0]))
    write_parts(source, counter, tmp_path)
    errors = capsys.readouterr().err
    again = written(tmp_path)
    for name in names:
        assert again[name][0] == whole[name][0]
        assert (again[name][1] != whole[name][1]) == (name in damaged)
        assert (f"{name} is damaged" in errors) == (name in damaged)


@pytest.mark.usefixtures("small_parts")
def test_no_page_of_a_part_can_change_unnoticed(
    run_dir: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    source = open_bins(dataset_dir, ["test"], None, None)
    counter = BinCounter(run_dir / "model", 1)
    write_parts(source, counter, tmp_path)
    path = tmp_path / "parts" / "000001.parquet"
    content = path.read_bytes()
    second = next(islice(read_parts(tmp_path, 8, counter.counts), 1, None))
    generator = np.random.default_rng(0)
    for place in generator.integers(0, len(content) - 16, size=60).tolist():
        path.write_bytes(content[:place] + generator.bytes(16) + content[place + 16 :])
        if audit_parts._is_whole(tmp_path, 1, source.num_bins):
            read = next(islice(read_parts(tmp_path, 8, counter.counts), 1, None))
            assert read.ids == second.ids
            assert np.array_equal(read.probabilities, second.probabilities)
            assert np.array_equal(read.expected, second.expected)


@pytest.mark.parametrize("content", ["", "[1]", "null", '{"bins": \0\0\0'])
def test_a_folder_that_no_longer_says_whose_it_is_is_refused(content: str, tmp_path: Path) -> None:
    identity = {"bins": "csv x", "model": "y"}
    claim_output(tmp_path / "out", identity)
    claim_output(tmp_path / "out", identity)
    path = tmp_path / "out" / "audit.json"
    assert json.loads(path.read_text()) == identity
    path.write_text(content)
    with pytest.raises(ValueError, match=r"audit\.json is damaged .* choose another"):
        claim_output(tmp_path / "out", identity)
