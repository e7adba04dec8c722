"""Measure what larger photos are worth, photos that keep their shape, and what each size costs.

    python benchmarks/photo_sizes.py --source data/full --output_dir runs/sizes \\
        --model_name_or_path ../shared/models/vit-tiny-patch16-224

Builds a dataset of each size from the bins of a mirror that has them at full size, and trains on
each once a seed, as train.py does by default: equal photos, equal epochs. `padded` has each photo
on a square of the photos' mean colour, where the others are squeezed to one. The table is of the
test split: means over the seeds, 95 % bootstrap intervals over bin groups, and how far each is from
224 pixels on the same photos; and what a step costs for a photo, all sizes in turns in this
process. What is finished is not repeated, what was killed goes on. Other words on the command line
are train.py's.
"""

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from transformers import AutoConfig, AutoModelForImageClassification

from training_recipe import TRAIN, Trainings, bootstrap_means, figures_of, interval, markdown

BUILD = Path(__file__).resolve().parent.parent / "data_prep/build_dataset.py"
BASE, PADDED = "224", "padded"
SPLITS = ["--test_fraction", "0.3", "--validation_fraction", "0.1"]
MEAN_COLOUR = (134, 113, 90)  # of the photos of ../shared/abid_more
BATCH_SIZE, ROUNDS = 8, 5


def pad_photos(source: Path, padded: Path) -> None:
    """Write a mirror whose photos are square, each in the middle of its mean colour's border."""
    (padded / "bin-images").mkdir(parents=True, exist_ok=True)
    if not (padded / "metadata").exists():
        os.symlink((source / "metadata").resolve(), padded / "metadata")
    for path in sorted((source / "bin-images").glob("*.jpg")):
        target = padded / "bin-images" / path.name
        if not target.exists():
            photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
            edge = max(photo.size)
            square = Image.new("RGB", (edge, edge), MEAN_COLOUR)
            square.paste(photo, ((edge - photo.width) // 2, (edge - photo.height) // 2))
            # A killed run leaves no half of a photo.
            square.save(target.with_suffix(".part"), format="JPEG", quality=95)
            target.with_suffix(".part").rename(target)


def build(source: Path, dataset_dir: Path, size: str) -> None:
    """Build the dataset of a size; one that is there is checked and left as it is."""
    flags = ["--source", str(source), "--output_dir", str(dataset_dir), "--image_size", size]
    command = [sys.executable, str(BUILD), *flags, *SPLITS]
    subprocess.run(command, check=True, stdout=sys.stderr)


def table(predictions: Mapping[str, Sequence[pa.Table]], costs: Mapping[str, float]) -> str:
    """Return the table of sizes.

    Args:
        predictions: predictions_test.parquet of each seed's run, by size; one of them is BASE.
        costs: of a training step for a photo, times BASE.
    """
    rows = []
    base = {str(id_): row for row, id_ in enumerate(predictions[BASE][0]["id"].to_pylist())}
    for name, tables in predictions.items():
        ids = [str(id_) for id_ in tables[0]["id"].to_pylist()]
        assert {*ids} == base.keys(), f"{name} has other test photos than {BASE}"
        order = np.array([base[id_] for id_ in ids])
        of_seeds = [figures_of(each) for each in tables]
        of_base = [figures_of(each)[order] for each in predictions[BASE]]
        values = np.concatenate([*of_seeds, *of_base], axis=1)
        drawn = bootstrap_means(np.array(tables[0]["bin_group"].to_pylist()), values)
        # Row, of this size or of BASE, seed, figure; the first row is what was measured.
        drawn = np.vstack([values.mean(axis=0), drawn]).reshape(len(drawn) + 1, 2, -1, 3)
        drawn[..., 1] **= 0.5
        ours, theirs = drawn.mean(axis=2).transpose(1, 0, 2)
        cells = [name]
        for column, form in enumerate((".1f", ".3f", ".3f")):
            ahead = ours[:, column] - theirs[:, column]
            cells += [interval(ours[:, column], form)]
            cells += ["" if name == BASE else interval(ahead, f"+{form}")]
        rows.append([*cells, f"{costs[name]:.2f}"])
    header = ["pixels", "accuracy %", "difference", "RMSE", "difference", "nats", "difference"]
    return markdown([*header, f"cost, times {BASE}"], rows)


def step_costs(model: str, sizes: Sequence[str]) -> dict[str, float]:
    """Return what a training step takes for a photo of each size, times that of BASE."""
    sys.path.insert(0, str(TRAIN.parent))
    device: Any = importlib.import_module("training.device")
    in_bf16 = device.device_has_bf16(on_cpu=True)
    # What train.py takes on a CPU in bf16.
    kind = {"attn_implementation": "eager"} if in_bf16 else {}
    config = AutoConfig.from_pretrained(model, num_labels=5)
    models = {}
    for size in sizes:
        config.image_size = int(size)
        models[size] = AutoModelForImageClassification.from_config(
            config, dtype=torch.float32, **kind
        )
    seconds: dict[str, list[float]] = {size: [] for size in sizes}
    for turn in range(ROUNDS + 1):  # the first one warms up
        for size, network in models.items():
            photos = torch.randn(BATCH_SIZE, 3, int(size), int(size))
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                loss = network(pixel_values=photos).logits.square().sum()
            loss.backward()
            if turn:
                seconds[size].append(time.perf_counter() - start)
    medians = {size: statistics.median(of_size) for size, of_size in seconds.items()}
    return {size: median / medians[BASE] for size, median in medians.items()}


def main() -> None:
    """Build and train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, type=Path, help="bin-images/ and metadata/")
    parser.add_argument(
        "--output_dir", required=True, type=Path, help="gets a folder for each dataset and run"
    )
    parser.add_argument("--model_name_or_path", required=True, help="of 224 pixels")
    parser.add_argument(
        "--sizes", nargs="+", default=["160", BASE, PADDED, "320", "384"], help=f"with {BASE}"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    arguments, more = parser.parse_known_args()
    if BASE not in arguments.sizes:
        parser.error(f"--sizes: {BASE} is what the others are compared with; add it.")
    flags = ["--model_name_or_path", arguments.model_name_or_path, "--disable_tqdm", "true", *more]
    trainings = Trainings(arguments.output_dir, flags, "1e-3", arguments.seeds, predicts=True)
    predictions = {}
    for name in arguments.sizes:
        source, dataset_dir = arguments.source, arguments.output_dir / f"bins_{name}"
        if name == PADDED:
            source = arguments.output_dir / "padded_mirror"
            pad_photos(arguments.source, source)
        build(source, dataset_dir, BASE if name == PADDED else name)
        run_dirs = [
            trainings.run_flags(name, ["--dataset_dir", str(dataset_dir)], seed)
            for seed in arguments.seeds
        ]
        predictions[name] = [pq.read_table(each / "predictions_test.parquet") for each in run_dirs]
    numbers = [name for name in arguments.sizes if name != PADDED]
    costs = step_costs(arguments.model_name_or_path, numbers)
    print(table(predictions, costs | {PADDED: costs[BASE]}))


if __name__ == "__main__":
    main()
