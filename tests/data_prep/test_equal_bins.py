"""Datasets of a bucket that has photos twice, under other ids and with other records."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import build_catalog
from dataset import finished
from dataset import plan as dataset_plan
from dataset_builds import all_rows, build, build_fails, file_bytes, rows

pytestmark = pytest.mark.usefixtures("small_shards")
NUM_BINS = 40


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_plan, "BINS_PER_SHARD", 20)


@pytest.fixture
def doubled(bucket: Path, tmp_path: Path) -> Path:
    """Return a bucket of NUM_BINS photos, each there again in other bytes with another record."""
    mirror = tmp_path / "mirror"
    for folder in ("bin-images", "metadata"):
        (mirror / folder).mkdir(parents=True)
    paths = [p for p in sorted((bucket / "metadata").iterdir()) if 1 <= quantity(p) <= 4]
    for number, path in enumerate(paths[:NUM_BINS]):
        photo = bucket / "bin-images" / f"{path.stem}.jpg"
        shutil.copy(path, mirror / "metadata")
        shutil.copy(photo, mirror / "bin-images")
        record = {
            "EXPECTED_QUANTITY": quantity(path) + 1,
            "BIN_FCSKU_DATA": {f"A{number}": {"quantity": quantity(path) + 1}},
        }
        (mirror / "metadata" / f"9{number:04d}.json").write_text(json.dumps(record))
        copy = io.BytesIO()
        Image.open(photo).save(copy, "JPEG", quality=85)
        (mirror / "bin-images" / f"9{number:04d}.jpg").write_bytes(copy.getvalue())
    return mirror


def quantity(path: Path) -> int:
    return json.loads(path.read_text())["EXPECTED_QUANTITY"]


def set_aside(dataset_dir: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (dataset_dir / "set_aside.jsonl").read_text().splitlines()]


def check_same(one: Path, other: Path) -> None:
    assert file_bytes(one) == file_bytes(other)
    for name in ("set_aside.jsonl", "settings.json", "counts_by_split.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    cards = [(p / "README.md").read_text().replace(str(p), "DATASET") for p in (one, other)]
    assert cards[0].partition("## How")[0] == cards[1].partition("## How")[0]


def test_a_photo_of_two_ids_is_in_one_split(
    doubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(doubled, tmp_path / "bins", "--test_fraction", "0.3")
    printed = capsys.readouterr().out
    split_of = {
        row["id"]: split for split in ("train", "validation", "test") for row in rows(built, split)
    }
    group_of = {row["id"]: row["bin_group"] for row in all_rows(built)}
    originals = sorted(i for i in [*split_of, *(e["id"] for e in set_aside(built))] if i[0] != "9")
    both = [(bin_id, f"9{number:04d}") for number, bin_id in enumerate(originals)]
    assert len(both) == NUM_BINS
    assert all(split_of[one] == split_of[two] for one, two in both if {one, two} <= {*split_of})
    assert "test" in split_of.values()

    entries = set_aside(built)
    assert entries
    for entry in entries:
        assert entry["reason"] == "another split has this photo, or one of its group"
        assert split_of[entry["same_as"]] in ("test", "validation")
    assert len(split_of) + len(entries) == 2 * NUM_BINS
    assert f"Equal photos under several ids: {2 * NUM_BINS}; with their groups, " in printed
    assert f"{len(entries)} bins of another split were set aside." in printed
    assert f"  {len(entries)}  another split has this photo" in printed
    assert f"Equal photos under several ids: {2 * NUM_BINS}" in (built / "README.md").read_text()
    # A group that was set aside is so as a whole.
    assert not {group_of[i] for i in split_of} & {e["id"] for e in entries}


def test_a_split_that_leaks_by_design_keeps_them_and_counts_them(
    doubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(doubled, tmp_path / "bins", "--split_by", "random")
    assert len(all_rows(built)) == 2 * NUM_BINS
    assert "of them are in another split than an equal one." in capsys.readouterr().out


def test_machines_that_share_the_work_set_the_same_aside(
    doubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = build(doubled, tmp_path / "alone" / "bins")
    output = tmp_path / "shared" / "bins"
    location = str(output / "catalog.parquet")
    build_catalog.main(["--source", str(doubled), "--output", location])
    for host in ("a", "b"):
        config = tmp_path / f"{host}.json"
        config.write_text(json.dumps({"current_host": host, "hosts": ["a", "b"]}))
        build(doubled, output, "--catalog", location, "--resource_config", str(config))
    for _ in range(2):  # the second time there is nothing to do
        before = {path: path.stat().st_mtime_ns for path in (output / "data").iterdir()}
        build(doubled, output, "--catalog", location, "--finish")
        check_same(output, alone)
    assert before == {path: path.stat().st_mtime_ns for path in (output / "data").iterdir()}
    capsys.readouterr()
    build(doubled, output)
    assert "damaged" not in capsys.readouterr().err
    check_same(output, alone)


def test_bins_whose_photos_are_black_all_stay(doubled: Path, tmp_path: Path) -> None:
    for path in (doubled / "bin-images").iterdir():
        Image.new("RGB", (60, 40)).save(path)
    built = build(doubled, tmp_path / "bins")
    assert len(all_rows(built)) == 2 * NUM_BINS
    assert not set_aside(built)


@pytest.mark.parametrize("num_writes", [1, 2])
def test_a_cut_that_is_killed_between_any_two_writes_is_gone_on_with(
    num_writes: int, doubled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = build(doubled, tmp_path / "alone" / "bins")
    output, location = tmp_path / "b" / "bins", str(tmp_path / "b" / "bins" / "catalog.parquet")
    build_catalog.main(["--source", str(doubled), "--output", location])
    config = tmp_path / "a.json"
    config.write_text('{"current_host": "a", "hosts": ["a"]}')
    build(doubled, output, "--catalog", location, "--resource_config", str(config))

    class KilledError(Exception):
        pass

    remaining = [*range(num_writes)]

    def dying(write: Any) -> Any:
        def written(*arguments: Any) -> None:
            if not remaining:
                raise KilledError
            remaining.pop()
            write(*arguments)

        return written

    with monkeypatch.context() as patched:
        patched.setattr(finished, "write_object", dying(finished.write_object))
        patched.setattr(finished, "write_data", dying(finished.write_data))
        with pytest.raises(KilledError):
            build(doubled, output, "--catalog", location, "--finish")
    assert not (output / "README.md").exists()
    build(doubled, output, "--catalog", location, "--finish")
    check_same(output, alone)


def test_a_shard_that_is_made_again_is_cut_again(doubled: Path, tmp_path: Path) -> None:
    alone = build(doubled, tmp_path / "alone" / "bins")
    built = build(doubled, tmp_path / "b" / "bins")
    shards = sorted((built / "data").glob("train-*"))
    cut = [shard.read_bytes() for shard in shards]
    for shard in shards:
        shard.write_bytes(bytes(shard.stat().st_size))
    build(doubled, built)
    assert [shard.read_bytes() for shard in shards] == cut
    assert set_aside(built)
    check_same(built, alone)


def test_what_was_set_aside_for_a_photo_that_is_gone_comes_back(
    doubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(doubled, tmp_path / "b" / "bins")
    entry = set_aside(built)[0]
    (shard,) = (
        path for path in (built / "statistics").iterdir() if entry["same_as"] in kept_in(path)
    )
    (doubled / "bin-images" / f"{entry['same_as']}.jpg").unlink()
    shard.unlink()
    code, lines = build_fails(capsys, doubled, built)
    assert code == 1
    assert "are not done" in lines[-1]
    check_same(build(doubled, built), build(doubled, tmp_path / "new" / "bins"))
    assert entry["id"] in {row["id"] for row in all_rows(built)}


def kept_in(statistics: Path) -> set[str]:
    return set(json.loads(statistics.read_text())["photo_hashes"])
