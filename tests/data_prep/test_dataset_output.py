"""Where a dataset goes: folders that fail, buckets, several machines, sources that fail."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from datasets import load_dataset
from obstore.store import MemoryStore

import build_catalog
import object_store
from command_line import InputError
from dataset import plan as dataset_plan
from dataset import settings as dataset_settings
from dataset_builds import all_rows, build, build_fails, file_bytes
from paths import ROOT
from photo_server import PhotoServer, serving

BUILD = [sys.executable, str(ROOT / "data_prep" / "build_dataset.py")]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_plan, "BINS_PER_SHARD", 40)


@pytest.fixture
def catalog(bucket: Path, tmp_path: Path) -> str:
    path = tmp_path / "catalog.parquet"
    build_catalog.main(["--source", str(bucket), "--output", str(path)])
    return str(path)


def resource_config(folder: Path, host: str) -> str:
    path = folder / f"{host}.json"
    path.write_text(json.dumps({"current_host": host, "hosts": ["algo-2", "algo-1"]}))
    return str(path)


def test_a_bucket_takes_a_dataset_as_a_folder_does(
    s3_bucket: str, dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = "s3://mirror/made/bins"
    for _ in range(2):  # the second run finds everything done
        build(s3_bucket, output, "--test_fraction", "0.2")
        assert f"Next: aws s3 sync {output} data/bins && python" in capsys.readouterr().out
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    copy = tmp_path / "bins"
    for entry in client.list_objects_v2(Bucket="mirror", Prefix="made/bins")["Contents"]:
        path = copy / entry["Key"].removeprefix("made/bins/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file("mirror", entry["Key"], str(path))
    assert file_bytes(copy) == file_bytes(dataset_dir)
    assert (copy / "README.md").exists()
    assert (
        load_dataset(str(copy))["train"].num_rows
        == load_dataset(str(dataset_dir))["train"].num_rows
    )
    code, lines = build_fails(capsys, s3_bucket, output, "--seed", "7")
    assert code == 2
    assert "seed 42, now 7" in lines[-1]


@pytest.mark.usefixtures("small_shards")
def test_machines_share_the_work_and_make_what_one_makes(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = build(bucket, tmp_path / "alone" / "bins")
    output = tmp_path / "shared" / "bins"
    location = str(output / "catalog.parquet")
    build_catalog.main(["--source", str(bucket), "--output", location])
    flags = ["--catalog", location]

    build(bucket, output, *flags, "--resource_config", resource_config(tmp_path, "algo-2"))
    second = file_bytes(output)
    assert 0 < len(second) < len(file_bytes(alone))
    assert "--finish" in capsys.readouterr().out.splitlines()[-1]
    code, lines = build_fails(capsys, bucket, output, *flags, "--finish")
    assert code == 1
    assert "of 8 shards are not done (train-00000-of" in lines[-1]
    assert not (output / "README.md").exists()

    build(bucket, output, *flags, "--resource_config", resource_config(tmp_path, "algo-1"))
    build(bucket, output, *flags, "--finish")
    assert file_bytes(output) == file_bytes(alone)
    for name in ("settings.json", "set_aside.jsonl", "counts_by_split.png", "catalog.parquet"):
        assert (output / name).read_bytes() == (alone / name).read_bytes()
    build(bucket, output)  # the same dataset, without the flag that named its own catalog


def test_one_of_many_machines_does_not_read_the_metadata_of_all(
    bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = resource_config(tmp_path, "algo-1")
    code, lines = build_fails(capsys, bucket, tmp_path / "bins", "--resource_config", config)
    assert code == 2
    assert "first run python data_prep/build_catalog.py --source" in lines[-1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices must be"),
        ('{"hosts": ["a"], "current_host": "b"}', "'b' is not in list"),
        ('{"hosts": "ab", "current_host": "a"}', "hosts is no list of names"),
        ('{"hosts": ["a", "a"], "current_host": "a"}', "hosts has a name twice"),
        ('{"hosts": ["a"], "hosts": ["a", "b"], "current_host": "a"}', "'hosts' is there twice"),
    ],
)
def test_what_is_no_resource_config_is_refused(
    text: str, reason: str, bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "resourceconfig.json"
    path.write_text(text)
    code, lines = build_fails(capsys, bucket, tmp_path / "b", "--resource_config", str(path))
    assert code == 2
    assert 'expected {"current_host"' in lines[-1]
    assert reason in lines[-1]


def test_machines_with_other_settings_do_not_take_each_others_output(
    bucket: Path, tmp_path: Path, catalog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--catalog", catalog, "--resource_config", resource_config(tmp_path, "algo-1")]
    build(bucket, tmp_path / "bins", *flags)
    shutil.rmtree(tmp_path / "bins" / "statistics")
    code, lines = build_fails(capsys, bucket, tmp_path / "bins", *flags, "--seed", "7")
    assert code == 2
    assert "other settings" in lines[-1]


def test_an_output_without_finished_shards_may_be_claimed_anew(
    bucket: Path, tmp_path: Path
) -> None:
    built = build(bucket, tmp_path / "bins")
    shutil.rmtree(built / "statistics")
    (built / "data" / "train-00000-of-00099.parquet").touch()
    build(bucket, built, "--seed", "7")
    load_dataset(str(built))
    assert file_bytes(built) == file_bytes(build(bucket, tmp_path / "b" / "bins", "--seed", "7"))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_machine_that_claims_while_another_looks_is_joined_by_it(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    claim = partial(
        dataset_settings.claim_output,
        store,
        "s3://bins",
        {"seed": 42},
        own_catalog=False,
        alone=False,
    )
    read = dataset_settings.recorded_settings

    def read_beside_another_machine(*arguments: Any) -> dict[str, object] | None:
        monkeypatch.setattr(dataset_settings, "recorded_settings", read)
        recorded = read(*arguments) if moment == "after" else None
        claim()
        obstore.put(store, "data/train-00000-of-00003.parquet", b"shard")
        return recorded if moment == "after" else read(*arguments)

    monkeypatch.setattr(dataset_settings, "recorded_settings", read_beside_another_machine)
    assert claim()["seed"] == 42
    obstore.delete(store, "settings.json")
    with pytest.raises(InputError, match="is in use"):
        claim()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of half a megabyte, which the test may fill or make read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("num_workers", ["1", "2"])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(
    num_workers: str,
    bucket: Path,
    catalog: str,
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = small_disk / "bins"
    flags = ["--catalog", catalog, "--num_workers", num_workers]
    code, lines = build_fails(capsys, bucket, output, *flags, "--image_size", "128")
    assert code == 1
    assert f"stopped: {output}/" in lines[-2]
    assert lines[-2].endswith(": No space left on device.")
    assert "the same command goes on" in lines[-1]
    assert not list(small_disk.rglob("*.part"))
    assert len(list(output.glob("statistics/*"))) <= len(list(output.glob("data/*"))) < 8
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    build(bucket, output, *flags, "--image_size", "128")
    alone = build(bucket, Path(catalog).with_name("alone"), "--image_size", "128")
    assert file_bytes(output) == file_bytes(alone)


def test_a_file_that_may_not_grow_is_no_shard(bucket: Path, tmp_path: Path, catalog: str) -> None:
    output = tmp_path / "bins"
    command = [*BUILD, "--source", str(bucket), "--output_dir", str(output), "--catalog", catalog]
    limit = (100_000, resource.RLIM_INFINITY)
    stopped = subprocess.run(
        [*command, "--num_workers", "2"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 1
    assert "File too large" in stopped.stderr
    assert not [
        path
        for path in output.rglob("*")
        if path.suffix in (".parquet", ".part") and path.name != "catalog.parquet"
    ]


def test_a_read_only_folder_is_one_clear_line(
    bucket: Path, catalog: str, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for output in (small_disk, small_disk / "bins"):
        code, lines = build_fails(capsys, bucket, output, "--catalog", catalog)
        assert code == 1
        assert f"stopped: {output}" in lines[-2]
        assert lines[-2].endswith(": Read-only file system.")


@pytest.fixture
def photo_server(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the ids of the bins in range of a server that refuses some photos, in this order:
    one is forbidden, two fail for a passing reason, the others come."""
    monkeypatch.setattr(object_store, "MAX_RETRIES", 1)
    ids = sorted(
        path.stem
        for path in (bucket / "metadata").iterdir()
        if 1 <= json.loads(path.read_text())["EXPECTED_QUANTITY"] <= 5
    )
    faults = ["forbidden", "server_error", "slow_down"]
    flags = [f"--always=bin-images/{i}.jpg={fault}" for i, fault in zip(ids, faults, strict=False)]
    with serving(bucket, *flags) as server:
        use(server, monkeypatch)
        yield ids


def use(server: PhotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("small_shards")
def test_photos_that_do_not_arrive_are_named_and_the_other_shards_are_done(
    photo_server: list[str],
    bucket: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forbidden, *unanswered = photo_server[:3]
    output = tmp_path / "bins"
    code, lines = build_fails(capsys, "s3://any", output)
    assert code == 1
    assert "did not arrive" in lines[-2]
    assert "2 in all" in lines[-2]
    assert all(f"bin-images/{bin_id}.jpg" in lines[-2] for bin_id in unanswered)
    assert forbidden not in lines[-2]
    assert lines[-1].endswith(f"--source s3://any --output_dir {output} --image_size 32")
    before = file_bytes(output)
    assert 6 <= len(before) < 8
    assert not (output / "README.md").exists()

    with serving(bucket, f"--always=bin-images/{forbidden}.jpg=forbidden") as mended:
        use(mended, monkeypatch)
        build("s3://any", output)
        asked = mended.counts()["asked"]
    assert file_bytes(output).items() > before.items()
    assert sum(name.startswith("GET bin-images/") for name in asked) <= 2 * 40
    assert {row["id"] for row in all_rows(output)} == set(photo_server) - {forbidden}
    set_aside = json.loads((output / "set_aside.jsonl").read_text())
    assert set_aside == {"id": forbidden, "reason": "photo: access denied"}


@pytest.mark.usefixtures("small_shards")
def test_an_outage_ends_the_run_before_every_photo_was_tried(
    bucket: Path,
    tmp_path: Path,
    catalog: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(object_store, "MAX_RETRIES", 0)
    keys = [f"bin-images/{path.stem}.jpg" for path in (bucket / "metadata").iterdir()]
    with serving(bucket, *(f"--always={key}=slow_down" for key in keys)) as server:
        use(server, monkeypatch)
        code, lines = build_fails(capsys, "s3://any", tmp_path / "bins", "--catalog", catalog)
        asked = server.counts()["asked"]
    assert code == 1
    assert "did not arrive" in lines[-2]
    assert 100 <= sum(asked.values()) <= 160 < len(keys)


def test_the_official_split_needs_no_metadata(
    bucket: Path, tmp_path: Path, catalog: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = sorted(path.stem for path in (bucket / "metadata").iterdir())
    labels = [[int(bin_id) - 1, number % 7] for number, bin_id in enumerate(ids)]
    (tmp_path / "train.json").write_text(json.dumps(labels[:200]))
    (tmp_path / "val.json").write_text(json.dumps(labels[200:260]))
    flags = ["--split_by", "official", "--official_train", str(tmp_path / "train.json")]
    flags += ["--official_validation", str(tmp_path / "val.json"), "--min_count", "0"]
    known = build(bucket, tmp_path / "known", *flags, "--catalog", catalog)
    unknown = build(bucket, tmp_path / "unknown", *flags)
    wanted = {bin_id: number % 7 for number, bin_id in enumerate(ids[:260]) if number % 7 < 6}
    for built in (known, unknown):
        assert {row["id"]: row["expected_quantity"] for row in all_rows(built)} == wanted
        dataset = load_dataset(str(built))
        assert set(dataset["test"]["id"]) == {i for i in ids[200:260] if i in wanted}
        assert len(dataset["validation"]) == pytest.approx(17, abs=4)
        assert "The test split leaks" in (built / "README.md").read_text()
    assert all(row["bin_group"] is None and row["asins"] is None for row in all_rows(unknown))
    assert all(row["bin_group"] and row["asins"] is not None for row in all_rows(known))
    assert not (unknown / "catalog.parquet").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split_by", "official"], "needs --official_train and --official_validation"),
        (["--official_train", "train.json"], "need --split_by official"),
        (
            ["--split_by=official", "--official_train=no.json", "--official_validation=no.json"],
            "no.json: there is no such list",
        ),
        (["--image_size", "5001"], "over 25 megapixels"),
        (["--finish", "--resource_config", "x"], "not allowed with"),
        (["--finish"], "there is no such folder"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    flags: list[str],
    message: str,
    bucket: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, lines = build_fails(capsys, bucket, tmp_path / "bins", *flags)
    assert code == 2
    assert message in lines[-1]
    assert not (tmp_path / "bins").exists()
