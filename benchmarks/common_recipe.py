"""What the benchmarks of training share: the recipe that people publish, and what a machine is.

The recipe is that of Hugging Face's own blog ("Fine-Tune ViT for Image Classification with
Transformers"): `set_transform` with the model's image processor, which resizes and normalizes each
photo to float32, and a collator that stacks them.
"""

import glob
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from transformers import ViTImageProcessor


def photos_of(dataset_dir: str, split: str) -> Dataset:
    """Return a split of a dataset folder; ends the program for a name that is a pattern."""
    if glob.has_magic(dataset_dir):  # load_dataset would read another folder for bins[1]
        sys.exit(f"{dataset_dir}: the recipe cannot read a folder with any of *?[ in its path.")
    return load_dataset(dataset_dir, split=split)


def transformed_photos(dataset_dir: str) -> Dataset:
    """Return the training split of a dataset folder, with the recipe's transform."""
    photos = photos_of(dataset_dir, "train")
    edge = photos[0]["image"].width
    processor = ViTImageProcessor(size={"height": edge, "width": edge})

    def transform(rows: dict[str, list[Any]]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in rows["image"]]
        return {**processor(images, return_tensors="pt"), "labels": rows["label"]}

    photos.set_transform(transform)
    return photos


def stack(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch, as the recipe's collator does."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def machine() -> str:
    """Return what this machine is, as far as it matters to a training."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = ""
    found = re.search(r"model name\s*: (.*)", text)
    name = found[1] if found else platform.processor() or platform.machine()
    kinds = sorted(set(re.findall(r"\w*bf16", text)))
    return f"{name} ({', '.join(kinds) or 'no bf16'}), {torch.get_num_threads()} threads"
