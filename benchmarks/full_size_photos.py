"""Measure how far a model's answer on a full-size photo is from that on the photo as stored.

    python data_prep/build_dataset.py --source ../shared/abid_originals \\
        --output_dir data/originals --test_fraction 1.0
    python benchmarks/full_size_photos.py --model runs/vit_tiny/model \\
        --dataset_dir data/originals --photos ../shared/abid_originals/bin-images

Training sees photos that were resized once and stored as JPEG; an endpoint sees the camera's own.
The same resampler on both sides leaves the JPEG step between them, and this is what it costs.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import ImageClassificationPipeline, pipeline

from common_recipe import photos_of


def probabilities(
    classify: ImageClassificationPipeline, photos: Sequence[Image.Image], labels: list[str]
) -> np.ndarray:
    """Return the probabilities of the labels, float (num_photos, num_labels)."""
    answers = [{a["label"]: a["score"] for a in answer} for answer in classify(list(photos))]
    return np.array([[answer[label] for label in labels] for answer in answers])


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder of a run")
    parser.add_argument("--dataset_dir", required=True, help="dataset built from the photos")
    parser.add_argument("--photos", required=True, type=Path, help="the photos themselves")
    arguments = parser.parse_args()
    for path in (arguments.model, arguments.dataset_dir, arguments.photos):
        if not Path(path).is_dir():
            parser.error(f"{path}: there is no such folder.")

    classify = pipeline("image-classification", model=arguments.model, top_k=None)
    labels = list(classify.model.config.label2id)
    bins = photos_of(arguments.dataset_dir, "test")
    differences, num_changed = [], 0
    for start in tqdm(range(0, len(bins), 32), desc="batches of 32"):
        batch = bins[start : start + 32]
        full_size = [Image.open(arguments.photos / f"{bin_id}.jpg") for bin_id in batch["id"]]
        stored = probabilities(classify, batch["image"], labels)
        served = probabilities(classify, full_size, labels)
        differences.append(np.abs(stored - served))
        num_changed += int((stored.argmax(axis=1) != served.argmax(axis=1)).sum())
    difference = np.concatenate(differences)
    print(f"{len(bins)} photos at full size against the same photos as stored:")
    print(f"  mean difference of a probability      {difference.mean():.4f}")
    print(f"  median of the largest of each photo   {np.median(difference.max(axis=1)):.4f}")
    print(f"  most likely count differs             {100 * num_changed / len(bins):.1f} %")


if __name__ == "__main__":
    main()
