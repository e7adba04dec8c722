"""The drawn mirror looks like the bucket: its layout, its runs of one bin, its odd names."""

import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawing.bins import draw_scene
from synthetic_bins import (
    BinRun,
    draw_mirror,
    draw_run,
    main,
    plan_runs,
    stow_and_pick,
    worst_hidden_share,
)

NUM_BINS = 60
SEED = 3


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("drawn") / "mirror"
    draw_mirror(output_dir, NUM_BINS, SEED)
    return output_dir


def read_metadata(mirror: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((mirror / "metadata").iterdir())]


def read_files(mirror: Path) -> dict[str, bytes]:
    files = (path for path in mirror.rglob("*") if path.is_file())
    return {str(path.relative_to(mirror)): path.read_bytes() for path in files}


def test_every_photo_has_metadata_and_opens(mirror: Path) -> None:
    ids = [f"{number:05d}" for number in range(1, NUM_BINS + 1)]
    assert sorted(path.name for path in mirror.iterdir()) == ["bin-images", "metadata"]
    assert sorted(path.name for path in (mirror / "metadata").iterdir()) == [
        f"{bin_id}.json" for bin_id in ids
    ]
    photos = sorted((mirror / "bin-images").iterdir())
    assert [photo.name for photo in photos] == [f"{bin_id}.jpg" for bin_id in ids]
    for photo in photos:
        with Image.open(photo) as image:
            image.load()
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert 240 <= image.width <= 300
            assert 170 <= image.height <= 210


def test_quantities_sum_to_the_expected_quantity(mirror: Path) -> None:
    for metadata in read_metadata(mirror):
        products = metadata["BIN_FCSKU_DATA"]
        assert sum(p["quantity"] for p in products.values()) == metadata["EXPECTED_QUANTITY"]
        assert all(p["quantity"] >= 1 and p["asin"] == asin for asin, p in products.items())


def test_photos_of_one_run_share_an_asin_and_differ_in_count(mirror: Path) -> None:
    bins = read_metadata(mirror)
    runs = plan_runs(NUM_BINS, SEED)
    assert any(len(run.counts) > 1 for run in runs)
    for run in runs:
        photos = bins[run.first_number - 1 : run.first_number - 1 + len(run.counts)]
        assert tuple(photo["EXPECTED_QUANTITY"] for photo in photos) == run.counts
        for before, after in pairwise(photos):
            assert before["BIN_FCSKU_DATA"].keys() & after["BIN_FCSKU_DATA"].keys()
            assert before["EXPECTED_QUANTITY"] != after["EXPECTED_QUANTITY"]


def test_different_runs_share_no_asin(mirror: Path) -> None:
    bins = read_metadata(mirror)
    seen: set[str] = set()
    for run in plan_runs(NUM_BINS, SEED):
        photos = bins[run.first_number - 1 : run.first_number - 1 + len(run.counts)]
        asins = {asin for photo in photos for asin in photo["BIN_FCSKU_DATA"]}
        assert not asins & seen
        seen |= asins


def test_counts_and_runs_are_about_as_frequent_as_in_the_bucket() -> None:
    runs = plan_runs(6000, 0)
    counts = [count for run in runs for count in run.counts]
    assert [run.first_number for run in runs][:1] == [1]
    assert len(counts) == 6000
    assert 0.36 < (6000 - len(runs)) / 5999 < 0.42
    assert max(set(counts), key=counts.count) == 3
    assert set(counts) == set(range(9))


def test_an_empty_bin_has_no_products() -> None:
    (empty,) = draw_run(BinRun(1, (0,)), seed=0)
    assert empty.metadata == {"BIN_FCSKU_DATA": {}, "EXPECTED_QUANTITY": 0}
    assert Image.open(io.BytesIO(empty.jpeg)).format == "JPEG"


def test_a_bin_may_hold_one_asin_twice_and_a_product_without_dimensions_or_plain_name() -> None:
    entries = [
        entry
        for run in plan_runs(300, 0)[:100]
        for drawn in draw_run(run, 0)
        for entry in drawn.metadata["BIN_FCSKU_DATA"].values()
    ]
    assert any(entry["quantity"] > 1 for entry in entries)
    assert any("normalizedName" not in entry for entry in entries)
    assert any(entry["weight"] is None for entry in entries)
    assert any(entry["height"] is None for entry in entries)
    for strange in (",", '"', "<b>"):
        assert any(strange in entry["name"] for entry in entries)
    assert any(not entry["name"].isascii() for entry in entries)


def test_most_of_every_item_can_be_seen_in_bins_of_five() -> None:
    shares = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scene = draw_scene(rng)
        (items,) = stow_and_pick(rng, BinRun(1, (5,)), scene)
        shares.append(worst_hidden_share(items))
    assert max(shares) < 0.5


def test_one_and_two_workers_draw_the_same_bytes(mirror: Path, tmp_path: Path) -> None:
    draw_mirror(tmp_path / "mirror", NUM_BINS, SEED, num_workers=2)
    assert read_files(tmp_path / "mirror") == read_files(mirror)


def test_another_seed_draws_other_bins(mirror: Path, tmp_path: Path) -> None:
    draw_mirror(tmp_path / "mirror", 5, SEED + 1)
    others = read_files(mirror)
    photos = {name: data for name, data in read_files(tmp_path / "mirror").items() if "jpg" in name}
    assert len(photos) == 5
    assert all(data != others[name] for name, data in photos.items())


@pytest.mark.parametrize(
    ("flag", "value"), [("--num_bins", "0"), ("--num_workers", "0"), ("--seed", "some")]
)
def test_a_bad_number_is_refused_in_one_line(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(tmp_path / "mirror"), "--num_bins", "2", flag, value])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert f": error: argument {flag}: '{value}' is not an integer" in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(tmp_path), "--num_bins", "2"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert ": error: " in message
    assert "choose another --output_dir" in message
    assert message.count("\n") == 1
    assert read_files(tmp_path) == {"notes.txt": b"mine"}


def test_a_killed_run_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover = tmp_path / ".mirror.unfinished" / "bin-images"
    leftover.mkdir(parents=True)
    (leftover / "99999.jpg").write_bytes(b"half a pho")
    output_dir = tmp_path / "mirror"
    main(["--output_dir", str(output_dir), "--num_bins", "3", "--num_workers", "1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mirror"]
    assert len(read_files(output_dir)) == 6
    next_command = (
        f"python data_prep/build_dataset.py --source {output_dir} --output_dir data/drawn_bins"
    )
    assert next_command in capsys.readouterr().out
