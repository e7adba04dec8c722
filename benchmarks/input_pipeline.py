"""Time the way from a dataset folder to a batch, for one worker, against the common recipe.

    python benchmarks/input_pipeline.py                       # data/bins; two minutes
    python benchmarks/input_pipeline.py --dataset_dir data/demo --rounds 3

The common recipe is that of common_recipe.py. Both read the same folder through a DataLoader with
one worker process and take turns. `decoding alone` is from bytes to an array of pixels in one
process, without datasets or batches: what no pipeline with this decoder can beat by much.
"""

import argparse
import importlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch.utils.data import DataLoader

from common_recipe import machine, stack, transformed_photos

ROOT = Path(__file__).resolve().parent.parent
BATCH_SIZE = 64
OURS, COMMON = "bin_dataset.py", "common recipe"
GOAL = 5.0


def our_loader(dataset_dir: str) -> DataLoader:
    """Return the training photos as train.py batches them."""
    sys.path.insert(0, str(ROOT / "scripts"))
    bin_dataset: Any = importlib.import_module("training.bin_dataset")
    photos = bin_dataset.decoded_photos(
        bin_dataset.load_bins(dataset_dir, ["train"])["train"], None
    )
    return DataLoader(photos, BATCH_SIZE, num_workers=1, collate_fn=bin_dataset.collate)


def common_loader(dataset_dir: str) -> DataLoader:
    """Return the training photos as the common recipe batches them."""
    return DataLoader(transformed_photos(dataset_dir), BATCH_SIZE, num_workers=1, collate_fn=stack)


def rate_of_loader(loader: DataLoader, num_batches: int) -> float:
    """Return photos a second from the first batch on: the start of the worker is not counted."""
    start, num_photos = 0.0, 0
    for number, batch in enumerate(loader):
        if number == 0:
            start = time.perf_counter()
            continue
        num_photos += len(batch["labels"])
        if number == num_batches:
            break
    return num_photos / (time.perf_counter() - start)


def rate_of_decoding(decode: Callable[[bytes], np.ndarray], jpegs: Sequence[bytes]) -> float:
    """Return photos a second of a decoder, from bytes to an array of pixels."""
    start = time.perf_counter()
    for jpeg in jpegs:
        decode(jpeg)
    return len(jpegs) / (time.perf_counter() - start)


def pillow_pixels(jpeg: bytes) -> np.ndarray:
    """Return the pixels of a JPEG, uint8 (height, width, 3)."""
    with Image.open(io.BytesIO(jpeg)) as photo:
        return np.array(photo.convert("RGB"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_dir", default="data/bins", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--num_batches", type=int, default=30, help=f"of {BATCH_SIZE} photos a round; default: 30"
    )
    arguments = parser.parse_args()
    if not (Path(arguments.dataset_dir) / "README.md").exists():
        parser.error(f"no dataset {arguments.dataset_dir}: run data_prep/build_dataset.py first.")
    torch.set_num_threads(1)

    ours, common = our_loader(arguments.dataset_dir), common_loader(arguments.dataset_dir)
    rows = ours.dataset.with_format(None)[: BATCH_SIZE * 4]["image"]
    jpegs = [row["bytes"] for row in rows]
    contenders: dict[str, Callable[[], float]] = {
        OURS: lambda: rate_of_loader(ours, arguments.num_batches),
        COMMON: lambda: rate_of_loader(common, arguments.num_batches),
        "decoding alone, simplejpeg": lambda: rate_of_decoding(simplejpeg.decode_jpeg, jpegs),
        "decoding alone, Pillow": lambda: rate_of_decoding(pillow_pixels, jpegs),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, measure in contenders.items():
            rates[name].append(measure())
    with Image.open(io.BytesIO(jpegs[0])) as photo:
        size = photo.size
    length = sum(map(len, jpegs)) // len(jpegs)
    print(f"{machine()}; {len(jpegs)} JPEGs of {size[0]}x{size[1]}, {length:,} bytes each")
    print(f"Medians of {arguments.rounds} rounds, one worker; the ratio is the median of rounds.\n")
    print("| contender | photos a second | times the common recipe | goal |")
    print("|---|---:|---:|---|")
    for name, measured in rates.items():
        ratio = median(a / b for a, b in zip(measured, rates[COMMON], strict=True))
        goal = ""
        if name == OURS:
            goal = f"at least {GOAL:g}: {'reached' if ratio >= GOAL else 'missed'}"
        print(f"| {name} | {median(measured):,.0f} | {ratio:.2f} | {goal} |")


if __name__ == "__main__":
    main()
