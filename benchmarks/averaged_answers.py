"""Measure what it brings to average several answers to a photo: of its mirror, of several models.

    python benchmarks/averaged_answers.py runs/recipe/default-seed*/model --dataset_dir data/bins

Each photo of the validation split is counted by each model as it is and mirrored. The table has
each model alone (means over the models), with the photo's mirror, and the mean of all models,
without and with it; beside each figure how far it is from that of a model alone: the same photos,
paired, with 95 % bootstrap intervals over bin groups.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification

from common_recipe import photos_of
from training_recipe import markdown
from visits_over_seeds import outcomes_of, row_of

BATCH = 64
ALONE = "each model alone"


def answers(model_dir: Path, bins: Dataset) -> np.ndarray:
    """Return what a model says of photos and of their mirrors, (2, num_photos, num_counts)."""
    model = AutoModelForImageClassification.from_pretrained(model_dir).eval()
    processor = AutoImageProcessor.from_pretrained(model_dir, use_fast=False)
    said = []
    for start in tqdm(range(0, len(bins), BATCH), desc=str(model_dir), unit="batches"):
        batch = bins[start : start + BATCH]["image"]
        photos = processor(images=batch, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            logits = [model(pixel_values=shown).logits for shown in (photos, photos.flip(-1))]
        said.append(torch.stack(logits).double().softmax(-1).numpy())
    return np.concatenate(said, axis=1)


def averaged(said: np.ndarray) -> dict[str, np.ndarray]:
    """Return the probabilities of each way to answer, (num_models, num_photos, num_counts).

    Args:
        said: float (num_models, 2, num_photos, num_counts), the second of each of the mirrors.
    """
    together = np.broadcast_to(said.mean(axis=0), said.shape)
    return {
        ALONE: said[:, 0],
        "with the photo's mirror": said.mean(axis=1),
        "mean of the models": together[:, 0],
        "mean of the models, with the mirror": together.mean(axis=1),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model folders")
    parser.add_argument("--dataset_dir", required=True, help="that they were trained on")
    arguments = parser.parse_args()
    for path in (*arguments.models, Path(arguments.dataset_dir)):
        if not path.is_dir():
            parser.error(f"{path}: there is no such folder.")
    bins = photos_of(arguments.dataset_dir, "validation")
    counts = np.array([int(name) for name in bins.features["label"].names])
    expected, ids = np.array(bins["expected_quantity"]), bins["id"]
    groups = np.array([group or i for group, i in zip(bins["bin_group"], ids, strict=True)])
    said = np.stack([answers(model_dir, bins) for model_dir in arguments.models])
    outcomes = {
        way: [outcomes_of(of_model, counts, expected) for of_model in of_models]
        for way, of_models in averaged(said).items()
    }
    rows = []
    for way, of_models in outcomes.items():
        cells = [way]
        for heading in of_models[0]:
            ways = {
                name: np.column_stack([of_model[heading] for of_model in outcomes[name]])
                for name in (way, ALONE)
            }
            ways = ways if way != ALONE else {ALONE: ways[ALONE], "again": ways[ALONE]}
            _, value, _, difference = row_of(heading, groups, ways)
            cells += [value, difference if way != ALONE else ""]
        rows.append(cells)
    header = ["validation split", "accuracy %", "difference", "RMSE", "difference"]
    print(markdown([*header, "nats", "difference"], rows))


if __name__ == "__main__":
    main()
