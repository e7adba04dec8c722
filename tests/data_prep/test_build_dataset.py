import json
import math
import os
import re
import shlex
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Image, load_dataset
from datasets.exceptions import NonMatchingSplitsSizesError

import build_catalog
import build_dataset
from dataset import plan as dataset_plan
from dataset_builds import all_rows, build, build_fails, file_bytes, rows
from paths import real_path


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line that says what is wrong; progress bars may stand before it."""
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def own_bucket(bucket: Path, tmp_path: Path) -> Path:
    """Return a copy of the bucket that a test may damage."""
    return Path(shutil.copytree(bucket, tmp_path / "mirror"))


def test_load_dataset_reads_the_folder_with_its_features(dataset_dir: Path) -> None:
    dataset = load_dataset(str(dataset_dir))
    assert set(dataset) == {"train", "validation", "test"}
    features = dataset["train"].features
    assert features["image"] == Image()
    assert features["label"] == ClassLabel(names=["1", "2", "3", "4", "5"])
    row = dataset["train"][0]
    assert row["image"].size == (32, 32)
    assert features["label"].int2str(row["label"]) == str(row["expected_quantity"])
    assert isinstance(row["id"], str)


def test_every_bin_in_range_is_kept_with_what_its_metadata_says(
    bucket: Path, dataset_dir: Path
) -> None:
    kept = {row["id"]: row for row in all_rows(dataset_dir)}
    for path in (bucket / "metadata").iterdir():
        record = json.loads(path.read_text())
        assert (path.stem in kept) == (1 <= record["EXPECTED_QUANTITY"] <= 5)
        if path.stem in kept:
            assert kept[path.stem]["expected_quantity"] == record["EXPECTED_QUANTITY"]
            assert kept[path.stem]["asins"] == list(record["BIN_FCSKU_DATA"])


def test_neighbouring_photos_of_one_bin_stay_in_one_split(dataset_dir: Path) -> None:
    splits_of_group: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for row in rows(dataset_dir, split):
            splits_of_group.setdefault(row["bin_group"], set()).add(split)
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    assert len(splits_of_group) < len(all_rows(dataset_dir))


def test_a_random_split_leaks_and_the_card_says_so(bucket: Path, tmp_path: Path) -> None:
    leaking = build(bucket, tmp_path / "bins", "--split_by", "random", "--test_fraction", "0.4")
    groups = [{row["bin_group"] for row in rows(leaking, split)} for split in ("train", "test")]
    assert groups[0] & groups[1]
    assert "The splits leak" in (leaking / "README.md").read_text()


def test_photos_that_cannot_be_used_are_set_aside_with_their_reason(
    own_bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = sorted(
        path.stem
        for path in (own_bucket / "metadata").iterdir()
        if 1 <= json.loads(path.read_text())["EXPECTED_QUANTITY"] <= 5
    )
    missing, truncated, text, no_record = wanted[:4]
    photos = own_bucket / "bin-images"
    (photos / f"{missing}.jpg").unlink()
    content = (photos / f"{truncated}.jpg").read_bytes()
    (photos / f"{truncated}.jpg").write_bytes(content[: len(content) // 2])
    (photos / f"{text}.jpg").write_text("<Error>AccessDenied</Error>")
    (own_bucket / "metadata" / f"{no_record}.json").write_text("{")

    built = build(own_bucket, tmp_path / "bins")

    entries = [json.loads(line) for line in (built / "set_aside.jsonl").read_text().splitlines()]
    reasons = {entry["id"]: entry["reason"] for entry in entries}
    assert set(reasons) == {missing, truncated, text, no_record}
    assert reasons[missing] == "no photo"
    assert "truncated" in reasons[truncated]
    assert reasons[text] == "not a JPEG or PNG photo"
    assert reasons[no_record] == "metadata is not a JSON object"
    assert {row["id"] for row in all_rows(built)} == set(wanted[4:])
    assert f"Kept {len(wanted) - 4:,} bins with 1 to 5 items" in capsys.readouterr().out


def test_the_printed_mean_and_deviation_are_those_of_the_train_photos(
    bucket: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(bucket, tmp_path / "bins", "--test_fraction", "0.2")
    line = capsys.readouterr().out.partition("Channel mean")[2].splitlines()[0]
    mean, std = (
        [float(number) for number in listed.split(", ")]
        for listed in re.findall(r"\(([^)]+)\)", line)
    )
    photos = load_dataset(str(dataset_dir), split="train")["image"]
    pixels = np.stack([np.array(photo) for photo in photos]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=(0, 1, 2)), atol=0.002)
    # JPEG blurs colour: it takes a little off the deviation of such small photos.
    np.testing.assert_allclose(std, pixels.std(axis=(0, 1, 2)), atol=0.02)


def test_a_test_fraction_of_one_puts_every_bin_in_test(bucket: Path, tmp_path: Path) -> None:
    built = build(bucket, tmp_path / "bins", "--test_fraction", "1.0")
    assert set(load_dataset(str(built))) == {"test"}


def test_a_bin_list_keeps_its_bins_in_the_groups_of_the_whole_bucket(
    bucket: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    group_of = {row["id"]: row["bin_group"] for row in all_rows(dataset_dir)}
    listed = sorted(group_of)[::3]
    bin_list = tmp_path / "list.json"
    bin_list.write_text(json.dumps({"1": [f"data/metadata/{name}.json" for name in listed]}))
    built = build(bucket, tmp_path / "bins", "--bin_list", str(bin_list))
    assert {row["id"]: row["bin_group"] for row in all_rows(built)} == {
        name: group_of[name] for name in listed
    }


def test_max_bins_keeps_a_sample_of_that_size_with_all_visits_of_its_bins(
    bucket: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    every_group = Counter(row["bin_group"] for row in all_rows(dataset_dir))
    for max_bins in range(50, 54):
        built = build(bucket, tmp_path / str(max_bins), "--max_bins", str(max_bins))
        groups = Counter(row["bin_group"] for row in all_rows(built))
        assert groups.total() == max_bins
        assert groups.items() <= every_group.items()


def test_a_sample_that_an_earlier_version_drew_is_not_gone_on_with(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, is_the_same in ((["--max_bins", "50"], False), ([], True)):
        built = build(bucket, tmp_path / "".join(["bins", *flags]), *flags)
        settings = json.loads((built / "settings.json").read_text())
        del settings["drawn"]
        (built / "settings.json").write_text(json.dumps(settings))
        before = file_bytes(built)
        next((built / "statistics").glob("test-*")).unlink()
        if is_the_same:
            build(bucket, built, *flags)
        else:
            code, lines = build_fails(capsys, bucket, built, *flags)
            assert code == 2
            assert "other settings (drawn None, now 'whole bin groups'): choose" in lines[-1]
        assert file_bytes(built) == before


def test_shards_without_the_sizes_of_items_are_not_mixed_with_others(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(bucket, tmp_path / "bins")
    settings = json.loads((built / "settings.json").read_text())
    del settings["item_sizes"]
    (built / "settings.json").write_text(json.dumps(settings))
    next((built / "statistics").glob("test-*")).unlink()
    code, lines = build_fails(capsys, bucket, built)
    assert code == 2
    assert "other settings (item_sizes None, now 'volumes and weights'): choose" in lines[-1]


def test_a_row_has_the_sizes_of_its_items_as_their_records_give_them(
    bucket: Path, tmp_path: Path
) -> None:
    for row in all_rows(build(bucket, tmp_path / "bins")):
        items = json.loads((bucket / "metadata" / f"{row['id']}.json").read_text())
        sizes = (row[name] for name in ("asins", "volumes", "weights"))
        for asin, volume, weight in zip(*sizes, strict=True):
            item = items["BIN_FCSKU_DATA"][asin]
            edges = [item[name] for name in ("length", "width", "height")]
            if None in edges:
                assert volume is None
            else:
                product = math.prod(edge["value"] for edge in edges)
                assert volume == pytest.approx(product, rel=1e-6)
            assert (weight is None) == (item["weight"] is None)


def test_a_sample_too_small_for_any_bin_with_all_its_visits_is_refused(
    bucket: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_of = all_rows(dataset_dir)
    sizes = Counter(row["bin_group"] for row in rows_of)
    twice = [row["id"] for row in rows_of if sizes[row["bin_group"]] == 2]
    (tmp_path / "twice.json").write_text(json.dumps({"1": twice}))
    flags = ["--bin_list", str(tmp_path / "twice.json"), "--max_bins"]
    code, lines = build_fails(capsys, bucket, tmp_path / "bins", *flags, "1")
    assert code == 2
    assert "--max_bins 1: each bin has more photos than that" in lines[-1]
    assert len(all_rows(build(bucket, tmp_path / "bins", *flags, "2"))) == 2


def test_a_catalog_may_be_given(bucket: Path, dataset_dir: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.parquet"
    build_catalog.main(["--source", str(bucket), "--output", str(catalog)])
    built = build(bucket, tmp_path / "b", "--catalog", str(catalog), "--test_fraction", "0.2")
    assert file_bytes(built) == file_bytes(dataset_dir)


def test_a_listed_bin_that_the_catalog_lacks_is_set_aside(bucket: Path, tmp_path: Path) -> None:
    bin_list, catalog = tmp_path / "list.json", tmp_path / "catalog.parquet"
    ids = sorted(path.stem for path in (bucket / "metadata").iterdir())
    bin_list.write_text(json.dumps({"1": ids[:30]}))
    flags = ["--source", str(bucket), "--output", str(catalog), "--bin_list", str(bin_list)]
    build_catalog.main(flags)
    bin_list.write_text(json.dumps({"1": [*ids[:30], ids[-1]]}))
    built = build(bucket, tmp_path / "b", "--catalog", str(catalog), "--bin_list", str(bin_list))
    set_aside = (built / "set_aside.jsonl").read_text()
    assert json.loads(set_aside) == {"id": ids[-1], "reason": "not in the catalog"}


def csv_of_ids(path: Path, *ids: str) -> str:
    path.write_text("".join(f"{line}\n" for line in ["id,likely_count", *(f"{i},3" for i in ids)]))
    return str(path)


def test_excluded_bins_are_left_out_and_named_and_all_others_stay_where_they_are(
    bucket: Path, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [row["id"] for row in rows(dataset_dir, "train")]
    # As label_errors.csv has them: an apostrophe may stand before an id.
    excluded = csv_of_ids(tmp_path / "errors.csv", train[3], f"'{train[0]}", train[3], "ghost")
    flags = ["--test_fraction", "0.2", "--exclude", excluded]
    built = build(bucket, tmp_path / "bins", *flags)
    assert "2  left out (--exclude)" in capsys.readouterr().out
    for split in ("train", "validation", "test"):
        # A shard's order is its bins' own, whoever else is in it.
        kept = [row for row in rows(dataset_dir, split) if row["id"] not in (train[0], train[3])]
        assert rows(built, split) == kept
    entries = [json.loads(line) for line in (built / "set_aside.jsonl").read_text().splitlines()]
    assert {entry["id"]: entry["reason"] for entry in entries} == {
        train[0]: "left out (--exclude)",
        train[3]: "left out (--exclude)",
        "ghost": "to be left out, but not among the bins (--exclude)",
    }
    assert f"--exclude {excluded}" in (built / "README.md").read_text()
    assert "- 2: left out (--exclude)" in (built / "README.md").read_text()

    before = file_bytes(built)
    lost = next((built / "data").glob("train-*"))
    lost.unlink()
    # The same ids, written anew, under a header as a spreadsheet may have it.
    again = Path(csv_of_ids(tmp_path / "errors.csv", "ghost", train[0], train[3]))
    again.write_text(again.read_text().replace("id", " ID", 1))
    build(bucket, built, *flags)
    assert file_bytes(built) == before
    for other in ([], ["--exclude", csv_of_ids(tmp_path / "fewer.csv", train[0])]):
        with pytest.raises(SystemExit):
            build(bucket, built, "--test_fraction", "0.2", *other)
        assert "holds a dataset of other settings (exclude '" in error_line(capsys)
    assert file_bytes(built) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "the first line must name a column id"),
        (b"bin\n00001\n", "the first line must name a column id, and names bin"),
        (b"id,id\n00001,2\n", "the first line names the column id twice"),
        (b"id, ID\n00001,2\n", "the first line names the column id twice"),
        (b"id,note,Note\n00001,a,b\n", "the first line names the column note twice"),
        (b'id,note\n00001,"open\n00002,b\n00003,"c\n', "line 2: unexpected end of data"),
        (b"id,note\n00001,a\n\n00002,b,c\n", "line 4 has 3 cells, the header 2"),
        (b"id,note\n00001,a\n,b\n", "line 3 has no id"),
        (b"id\n\xff\n", "not a csv"),
        (b"id\n152\n", "none of its ids is among the bins, such as '152'"),
    ],
)
def test_what_excludes_nothing_is_refused(
    content: bytes | None,
    message: str,
    bucket: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "errors.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as exit_info:
        build(bucket, tmp_path / "bins", "--exclude", str(path))
    assert exit_info.value.code == 2
    assert message in error_line(capsys)


def test_a_shard_without_a_usable_photo_leaves_the_others_readable(
    own_bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_plan, "BINS_PER_SHARD", 1)
    ids = sorted(path.stem for path in (own_bucket / "metadata").iterdir())
    for bin_id in ids[::2]:
        (own_bucket / "bin-images" / f"{bin_id}.jpg").unlink()
    built = build(own_bucket, tmp_path / "bins", "--max_bins", "30")
    assert 0 < sum(load_dataset(str(built)).num_rows.values()) == len(all_rows(built)) < 30
    build(own_bucket, built, "--max_bins", "30")


def test_a_copy_without_one_of_the_shards_is_refused(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_plan, "BINS_PER_SHARD", 40)
    built = build(bucket, tmp_path / "bins")
    assert len(list((built / "data").glob("train-*"))) > 2
    load_dataset(str(built))
    next((built / "data").glob("train-*")).unlink()
    with pytest.raises(NonMatchingSplitsSizesError):
        load_dataset(str(built))


def test_a_source_without_photos_is_refused(
    own_bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(own_bucket / "bin-images")
    with pytest.raises(SystemExit) as exit_info:
        build(own_bucket, tmp_path / "bins")
    assert exit_info.value.code == 2
    assert "None of the" in error_line(capsys)
    assert not (tmp_path / "bins" / "README.md").exists()


def test_a_failed_check_leaves_the_folder_free(bucket: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        build(bucket, tmp_path / "bins", "--min_count", "500", "--max_count", "600")
    assert all_rows(build(bucket, tmp_path / "bins"))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("a b", 224, ["train", "validation", "test"]), "--recipe vit --dataset_dir 'a b'"),
        (("d", 64, ["train", "test"]), "--recipe demo --dataset_dir d --output_dir runs/d_demo"),
        (("d", 112, ["train", "test"]), "--recipe resnet34 "),
        (("d", 224, ["test"]), "MODEL_FOLDER --output_dir runs/evaluation --do_predict"),
    ],
)
def test_the_next_command_fits_the_dataset(flags: tuple, expected: str) -> None:
    assert expected in build_dataset.next_command(*flags)


def test_counts_from_zero_give_labels_from_zero(bucket: Path, tmp_path: Path) -> None:
    built = build(bucket, tmp_path / "bins", "--min_count", "0", "--max_count", "2")
    dataset = load_dataset(str(built), split="train")
    assert dataset.features["label"].names == ["0", "1", "2"]
    assert dataset["label"] == dataset["expected_quantity"]


def test_a_folder_of_the_same_name_is_not_mistaken_for_another(
    bucket: Path, tmp_path: Path
) -> None:
    # `datasets` caches by name: it gave out the first of these for the second.
    sizes = ("20", "30")
    for size in sizes:
        build(bucket, tmp_path / size / "bins", "--max_bins", size, "--test_fraction", "1.0")
    assert [len(load_dataset(str(tmp_path / s / "bins"), split="test")) for s in sizes] == [20, 30]
    shutil.rmtree(tmp_path / "20" / "bins")
    build(bucket, tmp_path / "20" / "bins", "--max_bins", "25", "--test_fraction", "1.0")
    assert len(load_dataset(str(tmp_path / "20" / "bins"), split="test")) == 25


def test_workers_change_nothing_but_the_time(
    bucket: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    built = build(bucket, tmp_path / "bins", "--test_fraction", "0.2", "--num_workers", "2")
    assert file_bytes(built) == file_bytes(dataset_dir)


def test_a_second_run_touches_no_finished_shard(bucket: Path, tmp_path: Path) -> None:
    built = build(bucket, tmp_path / "bins")
    paths = sorted((built / "data").iterdir())
    before = {path: path.stat().st_mtime_ns for path in paths}
    lost = paths[0]
    content = lost.read_bytes()
    lost.unlink()
    build(bucket, built)
    after = {path: path.stat().st_mtime_ns for path in paths}
    assert {path for path in paths if before[path] != after[path]} == {lost}
    assert lost.read_bytes() == content


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image_size", "48"], "holds a dataset of other settings (image_size 32, now 48)"),
        (["--seed", "7"], "seed 42, now 7"),
    ],
)
def test_a_folder_of_other_settings_is_refused_and_left_alone(
    flags: list[str],
    message: str,
    bucket: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    built = build(bucket, tmp_path / "bins")
    before = file_bytes(built)
    with pytest.raises(SystemExit) as exit_info:
        build(bucket, built, *flags)
    assert exit_info.value.code == 2
    assert message in error_line(capsys)
    assert file_bytes(built) == before


def test_a_photo_without_metadata_is_reported(
    own_bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bin_id = "00007"
    (own_bucket / "metadata" / f"{bin_id}.json").unlink()
    built = build(own_bucket, tmp_path / "bins")
    assert "1  no metadata" in capsys.readouterr().out
    entry = json.loads((built / "set_aside.jsonl").read_text())
    assert entry == {"id": bin_id, "reason": "no metadata"}


def test_a_damaged_catalog_of_its_own_is_named_and_built_again(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = build(bucket, tmp_path / "bins")
    before, catalog = file_bytes(built), built / "catalog.parquet"
    content = catalog.read_bytes()
    catalog.write_bytes(content[:500] + bytes(500) + content[1000:])
    (built / "statistics" / "train-00000-of-00001.json").unlink()
    build(bucket, built)
    assert f"{catalog}: not a catalog of data_prep/build_catalog.py, or damaged (" in (
        capsys.readouterr().err
    )
    assert catalog.read_bytes() == content
    assert file_bytes(built) == before


def test_the_next_command_of_a_strange_name_is_one_word(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bins[1]", "a*?{b,c}::#%20 'x'"):
        built = build(bucket, tmp_path / name, "--max_bins", "30")
        assert len(all_rows(built)) == 30
        command = capsys.readouterr().out.splitlines()[-1].removeprefix("Next: ")
        assert str(built) in shlex.split(command)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--test_fraction", "nan"], "not a share from 0 to 1"),
        (["--num_workers", "100000"], "100000 is more than 256 processes"),
        (["--max_count", "2000000000"], "2000000000 is more than 1,000 items"),
        (["--image_size", "8"], "8 is less than 16 pixels"),
        (["--seed", "-1"], "not an integer of 0 or more"),
        (["--test_fraction", "1.5"], "not a share from 0 to 1"),
        (["--test_fraction", "0.7", "--validation_fraction", "0.7"], "exceed 1 together"),
        (["--min_count", "4", "--max_count", "2"], "exceeds --max_count"),
        (["--min_count", "500", "--max_count", "600"], "No usable bin with 500 to 600 items"),
        (["--catalog", "nowhere.parquet"], "run data_prep/build_catalog.py first"),
        (["--bin_list", "nowhere.json"], "No such file"),
        (["--test_frac", "0.2"], "unrecognized arguments"),
        (["--num_workers", "0"], "not an integer above 0"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(
    flags: list[str],
    message: str,
    bucket: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        build(bucket, tmp_path / "bins", *flags)
    assert exit_info.value.code == 2
    assert message in error_line(capsys)


def test_a_folder_with_other_files_is_refused(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SystemExit) as exit_info:
        build(bucket, tmp_path)
    assert exit_info.value.code == 2
    assert "is in use" in error_line(capsys)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_bucket_gives_the_same_dataset_as_a_folder(
    s3_bucket: str, dataset_dir: Path, tmp_path: Path
) -> None:
    built = build(s3_bucket, tmp_path / "bins", "--test_fraction", "0.2")
    assert file_bytes(built) == file_bytes(dataset_dir)


def test_a_bucket_that_fails_is_one_line_and_exit_code_1(
    s3_bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        build("s3://no-such-bucket", tmp_path / "bins")
    assert exit_info.value.code == 1
    assert "stopped: " in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_bins_give_5451_in_whole_groups(tmp_path: Path) -> None:
    build_dataset.main(
        ["--source", str(real_path("abid")), "--output_dir", str(tmp_path / "bins")]
        + ["--test_fraction", "0.2"]
    )
    splits_of_group: dict[str, set[str]] = {}
    sizes = {}
    for split in ("train", "validation", "test"):
        found = rows(tmp_path / "bins", split)
        sizes[split] = len(found)
        for row in found:
            splits_of_group.setdefault(row["bin_group"], set()).add(split)
    assert sum(sizes.values()) == 5451
    assert sizes["test"] == pytest.approx(0.2 * 5451, abs=5)
    assert all(len(splits) == 1 for splits in splits_of_group.values())
