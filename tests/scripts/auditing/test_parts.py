import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from auditing import parts as audit_parts
from auditing.bins import decode_photo, open_bins
from auditing.parts import claim_output, read_parts, seen_visits, write_parts
from auditing.record_lines import record_of
from auditing.visits_of_bins import earlier_visits
from serving.bin_counter import BinCounter, Seen

BY_PHOTO_AND_ITEMS = ("probabilities", "item_answers", "with_items")


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


@pytest.mark.usefixtures("small_parts")
def test_parts_hold_the_changes_whichever_part_the_visit_before_lies_in(
    run_dir: Path, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_parts, "BATCH_SIZE", 3)
    monkeypatch.setattr(audit_parts, "COMPARED_AT_ONCE", 1)
    source = open_bins(dataset_dir, ["test"], None, None)
    counter = BinCounter(run_dir / "model", 1)
    assert counter.tells_changes
    steps = source.visits.steps(np.ones(source.num_bins, dtype=bool))
    # Of all kinds: in one batch, in the batch before, in one part, and elsewhere.
    assert len(steps) > 10
    assert (steps[:, 0] // 4 != steps[:, 1] // 4).any()
    write_parts(source, counter, tmp_path, earlier_visits(steps, source.num_bins))
    seen = seen_visits(tmp_path, source.num_bins, counter.counts)
    size, resample = counter.preparation.size, counter.preparation.resample
    photos = [decode_photo(a_bin.photo or b"", size, resample) for a_bin in source.bins()]
    by_photo, views = counter.look_for_changes(photos)
    parts = list(read_parts(tmp_path, source.num_bins, counter.counts))
    of_parts = [np.concatenate([getattr(part, n) for part in parts]) for n in BY_PHOTO_AND_ITEMS]
    assert of_parts[0] == pytest.approx(by_photo.probabilities, abs=1e-5)
    assert of_parts[1] == pytest.approx(by_photo.items, abs=1e-5)
    # With the items that the records name.
    assert np.array_equal(seen.probabilities, of_parts[2])
    assert seen.items is not None
    assert seen.items.answers == pytest.approx(of_parts[1])
    records = [
        record_of(a_bin.expected_quantity, [asdict(item) for item in a_bin.items])
        for a_bin in source.bins()
    ]
    assert [r.quantities for r in seen.items.records_of(np.arange(len(records)))] == [
        record.quantities for record in records
    ]
    compared = np.full(source.num_bins, -1)
    compared[steps[:, 1]] = steps[:, 0]
    assert seen.compared.tolist() == compared.tolist()
    changes = counter.changes(views[steps[:, 0]], views[steps[:, 1]])
    assert seen.answers[steps[:, 1]] == pytest.approx(changes, abs=1e-5)
    assert np.isnan(seen.answers[compared < 0]).all()


@pytest.mark.usefixtures("small_parts")
def test_neighbours_in_a_row_are_looked_at_once_and_a_damaged_one_is_no_neighbour(
    run_dir: Path, bucket: Path, tmp_path: Path
) -> None:
    photos = [path.read_bytes() for path in sorted((bucket / "bin-images").iterdir())[:3]]
    for number in range(8):
        content = b"\xff\xd8\xff no photo" if number == 5 else photos[number % 3]
        (tmp_path / f"{number}.jpg").write_bytes(content)
    rows = "".join(f"{number}.jpg,1,A,{number}\n" for number in range(8))
    (tmp_path / "bins.csv").write_text(f"photo,expected_quantity,bin,visit\n{rows}")
    source = open_bins(tmp_path / "bins.csv", None, None, None)
    counter = BinCounter(run_dir / "model", 1)
    earlier = earlier_visits(source.visits.steps(np.ones(8, dtype=bool)), 8)
    looked_at: list[int] = []
    look = counter.look_for_changes

    def counted(photos: Sequence[np.ndarray]) -> tuple[Seen, np.ndarray]:
        looked_at.append(len(photos))
        return look(photos)

    counter.look_for_changes = counted  # type: ignore[method-assign]
    write_parts(source, counter, tmp_path / "out", earlier)
    # Parts of four: 0 to 3, 4 to 7 without 5, and 3 once more, for 4.
    assert looked_at == [4, 3, 1]
    seen = seen_visits(tmp_path / "out", 8, counter.counts)
    assert seen.compared.tolist() == [-1, 0, 1, 2, 3, -1, -1, 6]


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
