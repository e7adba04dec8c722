import io
import resource
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import simplejpeg
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as PillowImage

from training import bin_dataset
from training.bin_dataset import (
    collate,
    dataset_fingerprint,
    decoded_photos,
    load_bins,
    photo_size,
    rgb_pixels,
)


def write_dataset(folder: Path, sizes: list[tuple[int, int]], label: Any) -> Path:
    """Write a dataset folder with a photo of each size, all of label 0."""
    (folder / "data").mkdir(parents=True)
    rows = []
    for number, size in enumerate(sizes):
        buffer = io.BytesIO()
        PillowImage.new("RGB", size).save(buffer, format="JPEG")
        rows.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": None},
                "label": 0,
                "id": str(number),
                "bin_group": str(number),
                "expected_quantity": 1,
                "asins": None,
                "quantities": None,
            }
        )
    text, whole = Value("string"), Value("int32")
    features = Features(
        {"image": Image(), "label": label, "id": text, "bin_group": text}
        | {"expected_quantity": whole, "asins": List(text), "quantities": List(whole)}
    )
    for index, row in enumerate(rows):
        dataset = Dataset.from_list([row], features=features)
        split = ("train", "test")[min(index, 1)]
        with (folder / "data" / f"{split}-{index:05d}-of-00009.parquet").open("wb") as file:
            dataset.to_parquet(file)
    (folder / "README.md").write_text("# Photos\n")
    return folder


def test_photos_arrive_as_bytes_in_channel_order(dataset_dir: Path) -> None:
    dataset = load_bins(str(dataset_dir), ["train"])["train"]
    photos = decoded_photos(dataset, max_samples=5)
    assert len(photos) == 5
    batch = collate(photos.__getitems__([0, 1, 2]))
    assert batch["pixel_values"].dtype == torch.uint8
    assert batch["pixel_values"].shape == (3, 3, 32, 32)
    assert batch["labels"].tolist() == dataset["label"][:3]
    with PillowImage.open(io.BytesIO(dataset[1]["image"]["bytes"])) as photo:
        assert tuple(batch["pixel_values"][1, :, 4, 9].tolist()) == photo.getpixel((9, 4))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_simplejpeg_gives_pillows_pixels(subsampling: int, progressive: bool) -> None:
    noise = np.random.default_rng(subsampling).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(noise).save(
        buffer, "JPEG", quality=90, subsampling=subsampling, progressive=progressive
    )
    with PillowImage.open(buffer) as photo:
        expected = np.array(photo)
    assert (rgb_pixels(buffer.getvalue()) == expected).all()
    assert (simplejpeg.decode_jpeg(buffer.getvalue()) == expected).all()


def test_photos_are_decoded_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (8, 8), (200, 100, 50)).save(buffer, "JPEG")
    with_it = rgb_pixels(buffer.getvalue())
    monkeypatch.setattr(bin_dataset, "simplejpeg", None)
    assert (rgb_pixels(buffer.getvalue()) == with_it).all()


def test_what_simplejpeg_refuses_is_decoded_by_pillow() -> None:
    buffer = io.BytesIO()
    PillowImage.new("L", (8, 8), 77).save(buffer, "PNG")
    assert (rgb_pixels(buffer.getvalue()) == np.full((8, 8, 3), 77)).all()


def test_a_truncated_photo_is_an_error() -> None:
    buffer = io.BytesIO()
    PillowImage.effect_noise((64, 64), 50).convert("RGB").save(buffer, "JPEG")
    with pytest.raises(OSError, match="truncated"):
        rgb_pixels(buffer.getvalue()[:-200])


@pytest.mark.parametrize(
    ("make", "needed", "message"),
    [
        (
            lambda folder: write_dataset(folder / "d", [(8, 8)], ClassLabel(names=["1"])),
            ["validation"],
            "No 'validation' split",
        ),
        (
            lambda folder: write_dataset(folder / "d", [(8, 8)], ClassLabel(names=["cat"])),
            ["train"],
            "are not counts",
        ),
        (
            lambda folder: write_dataset(folder / "d", [(8, 8)], Value("int64")),
            ["train"],
            "are not counts",
        ),
    ],
)
def test_a_folder_that_cannot_serve_says_what_to_do(
    make: Any, needed: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_bins(str(make(tmp_path)), needed)


@pytest.mark.parametrize("sizes", [[(8, 8), (9, 9)], [(8, 9), (8, 9)]])
def test_photos_of_other_forms_than_one_square_are_refused(
    sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    folder = write_dataset(tmp_path / "d", sizes, ClassLabel(names=["1"]))
    with pytest.raises(ValueError, match="not squares of one size"):
        photo_size(load_bins(str(folder), []))


def test_the_fingerprint_is_that_of_the_bins_not_of_the_folder(
    dataset_dir: Path, tmp_path: Path
) -> None:
    dataset = load_bins(str(dataset_dir), ["train"])
    moved = tmp_path / "moved"
    moved.symlink_to(dataset_dir)
    assert dataset_fingerprint(load_bins(str(moved), ["train"])) == dataset_fingerprint(dataset)
    fewer = DatasetDict({**dataset, "train": dataset["train"].select(range(1, 30))})
    assert dataset_fingerprint(fewer) != dataset_fingerprint(dataset)
    relabelled = load_dataset(str(dataset_dir))
    relabelled["train"] = relabelled["train"].map(lambda row: {"label": (row["label"] + 1) % 5})
    assert dataset_fingerprint(relabelled) != dataset_fingerprint(dataset)


@pytest.mark.parametrize(
    "name",
    ["bins[1]", "bins*", "b?ns", "{bins,bins1}", "zip::bins", "bi%6Es", "#bins", "my bins"]
    + ["s3:", "hf:", "http:/bins", "-bins", "~", "$HOME", "bins.zip", "train"],
)
def test_a_path_is_a_path_whatever_characters_it_has(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it lies what a library would read that takes it for a pattern."""
    for number, other in enumerate(["bins1", "bins", "bins2"]):
        write_dataset(tmp_path / other, [(8, 8)] * (number + 2), ClassLabel(names=["1"]))
    size = 9
    write_dataset(tmp_path / name, [(size, size)], ClassLabel(names=["1"]))
    monkeypatch.chdir(tmp_path)
    for path in (name, str(tmp_path / name)):
        dataset = load_bins(path, ["train"])
        assert set(dataset) == {"train"}
        assert photo_size(dataset) == size
    assert dataset_fingerprint(dataset) == dataset_fingerprint(load_bins(f"./{name}", []))


def test_a_cache_that_cannot_be_made_is_not_said_of_the_dataset(
    dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match=r"cache .* \(.*Not a directory.*HF_DATASETS_CACHE"):
        load_bins(str(dataset_dir), [])


def test_a_cache_that_is_full_is_not_said_of_the_dataset(
    dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"cache .* \(.*File too large.*HF_DATASETS_CACHE"):
            load_bins(str(dataset_dir), [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.rglob("*.arrow*[!k]"))
    assert load_bins(str(dataset_dir), [])


def test_a_shard_that_is_not_the_one_of_its_build_is_refused(
    dataset_dir: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(dataset_dir, tmp_path / "bins"))
    shard = next(copy.glob("data/test-*.parquet"))
    content = bytearray(shard.read_bytes())
    jpeg = content.index(b"\xff\xd8\xff") if b"\xff\xd8\xff" in content else 1000
    content[jpeg + 600] ^= 1  # a pixel, somewhere
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_bins(str(copy), [])


def test_a_part_of_a_split_is_of_whole_bins(dataset_dir: Path) -> None:
    dataset = load_bins(str(dataset_dir), ["train"])["train"]
    groups = dataset["bin_group"]
    rows_of = {group: [r for r, g in enumerate(groups) if g == group] for group in groups}
    assert max(map(len, rows_of.values())) > 1
    # As many as some first bins have: which the first photos alone have not.
    number = sum(map(len, list(rows_of.values())[:40]))
    part = decoded_photos(dataset, max_samples=number).with_format(None)
    assert sorted(part["bin_group"]) == sorted(
        group for group in list(rows_of)[:40] for _ in rows_of[group]
    )
    assert part["id"] != dataset["id"][:number]
    # The last bin alone may lose visits; a smaller part is in each larger one.
    assert len(decoded_photos(dataset, max_samples=number - 1)) == number - 1
    smaller = decoded_photos(dataset, max_samples=number // 2).with_format(None)
    assert {*smaller["id"]} < {*part["id"]}
    assert len(decoded_photos(dataset, max_samples=10**6)) == len(dataset)


def test_a_part_of_bins_without_a_known_group_is_the_first_ones(dataset_dir: Path) -> None:
    dataset = load_bins(str(dataset_dir), ["train"])["train"]
    unknown = dataset.remove_columns("bin_group").add_column("bin_group", [None] * len(dataset))
    part = decoded_photos(unknown, max_samples=7).with_format(None)
    assert part["id"] == dataset["id"][:7]
