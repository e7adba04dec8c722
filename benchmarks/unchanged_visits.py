"""Measure how sure a change head is that nothing has changed, where nothing has.

    python benchmarks/unchanged_visits.py --model runs/visits/changes-seed42/model \\
        --dataset_dir data/bins

No two photos are known to show a bin at which nothing has changed. So each photo of the test split
is compared with itself, under other light and as far apart as two visits lie, and beside it with
the photo of another bin. That is easier than two real visits, of which no figure says how well they
are told. Half of all visits are taken to find nothing changed (--unchanged_rate 0.5).
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForImageClassification

from training_recipe import markdown

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
APART = (0, 2, 4, 8, 12)  # pixels of 224; of two visits in training 8 is the median
SHOWN = 0.9  # of each photo's edge: 11 pixels of 224 leave all of that within the photo
LIGHT = 0.05  # standard deviation of each channel's, on -1 to 1
BATCH_SIZE = 32


def main() -> None:
    """Ask the model, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="a model folder with a head")
    parser.add_argument("--dataset_dir", required=True, help="its test split is read")
    parser.add_argument("--num_photos", type=int, default=320, help="default: %(default)s")
    arguments = parser.parse_args()
    data: Any = importlib.import_module("training.bin_dataset")
    normalize = importlib.import_module("recipe.augmentation").normalize
    load_head = importlib.import_module("visits.head").load_head
    settings = importlib.import_module("visits.settings")

    processor = AutoImageProcessor.from_pretrained(arguments.model)
    model: Any = AutoModelForImageClassification.from_pretrained(arguments.model).eval()
    load_head(model, arguments.model, processor.size["height"])
    visit_model = settings.read_visit_model(arguments.model)
    rows = data.load_bins(arguments.dataset_dir, ["test"])["test"]
    photos = data.collate(list(data.decoded_photos(rows, arguments.num_photos)))["pixel_values"]
    photos = normalize(photos, processor.image_mean, processor.image_std)
    torch.manual_seed(0)

    def unchanged(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
        """Return how likely 'unchanged' is of each pair, (num_photos,)."""
        found = []
        for first in range(0, len(before), BATCH_SIZE):
            projected = []
            for shown in (before, after):
                model(pixel_values=shown[first : first + BATCH_SIZE])
                projected.append(model.change_head.projected())
            answers = model.change_head(*projected).softmax(dim=-1).double().numpy()
            found.append(visit_model.changes(answers, 0.5)[:, answers.shape[1] // 2])
        return np.concatenate(found)

    table = []
    with torch.no_grad():
        for pixels in APART:
            before, after = moved_apart(photos, pixels)
            light = LIGHT * torch.randn(len(photos), 3, 1, 1)
            table.append(row(f"itself, {pixels} pixels apart", unchanged(before, after + light)))
        table.append(row("another bin", unchanged(photos, photos.roll(1, dims=0))))
    print(markdown(["a photo, compared with", "unchanged: mean", "over a half, %"], table))


def moved_apart(photos: torch.Tensor, pixels: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the middle of each photo, and what lies so many pixels of 224 beside it."""
    middle = torch.zeros(len(photos), 2, 3)
    middle[:, 0, 0] = middle[:, 1, 1] = SHOWN
    beside = middle.clone()
    beside[:, :, 2] = functional.normalize(torch.randn(len(photos), 2), dim=1) * pixels / 112
    before, after = (
        functional.grid_sample(
            photos,
            functional.affine_grid(moves, list(photos.shape), align_corners=False),
            align_corners=False,
        )
        for moves in (middle, beside)
    )
    return before, after


def row(name: str, probabilities: np.ndarray) -> list[str]:
    """Return a row of the table."""
    return [name, f"{probabilities.mean():.2f}", f"{100 * (probabilities > 0.5).mean():.0f}"]


if __name__ == "__main__":
    main()
