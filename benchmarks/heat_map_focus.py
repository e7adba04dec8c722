"""Measure how much of a model's heat maps lies on the middle of the photos, where the items are.

    python benchmarks/heat_map_focus.py --model runs/vit_tiny/model --dataset_dir data/bins

Takes --num_photos photos of the test split, drawn with the seed 42. The middle is the square round
the centre with half of the area: a map that is the same everywhere has 50 % of itself there. Beside
the model stands one of the same form with random weights: a map that does not ask what the model
has learned would look alike (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018). Then
the hottest tenth of the places is covered, and the coldest, with the photo's mean colour: what the
expected count becomes says whether the maps are of the model's answer. 95 % intervals over bin
groups.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from training_recipe import bootstrap_means, interval, markdown

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
COVERED = 0.1  # of the places
BATCH_SIZE = 20


def main() -> None:
    """Map the photos, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, type=Path, help="a model folder")
    parser.add_argument("--dataset_dir", required=True, help="its test split is read")
    parser.add_argument("--num_photos", type=int, default=200, help="default: %(default)s")
    arguments = parser.parse_args()
    data: Any = importlib.import_module("training.bin_dataset")
    normalize = importlib.import_module("recipe.augmentation").normalize
    heat_maps = importlib.import_module("reviewing.heat_maps").heat_maps
    counts_of_labels = importlib.import_module("count_distribution").counts_of_labels

    processor = AutoImageProcessor.from_pretrained(arguments.model)
    trained: Any = AutoModelForImageClassification.from_pretrained(arguments.model).eval()
    labels = trained.config.id2label
    counts = counts_of_labels([labels[label] for label in sorted(labels)])
    torch.manual_seed(42)
    untrained = AutoModelForImageClassification.from_config(trained.config).eval()
    rows = data.load_bins(arguments.dataset_dir, ["test"])["test"].shuffle(seed=42)
    rows = rows.select(range(min(arguments.num_photos, len(rows))))
    photos = data.collate(list(data.decoded_photos(rows, len(rows))))["pixel_values"]
    photos = normalize(photos, processor.image_mean, processor.image_std)
    groups = np.unique(rows["bin_group"], return_inverse=True)[1]

    table = []
    for name, model in (("the model", trained), ("random weights", untrained)):
        expected_counts = counting(model.requires_grad_(False), counts)
        seconds, maps, answers = [], [], []
        for some in photos.split(BATCH_SIZE):
            start = time.perf_counter()
            answers.append(expected_counts(some))
            middle = time.perf_counter()
            maps.append(heat_maps(model, some, counts))
            seconds.append((middle - start, time.perf_counter() - middle))
        found, before = torch.cat(maps), torch.cat(answers)
        changes = [
            covered_change(expected_counts, photos, found * sign, before) for sign in (1, -1)
        ]
        shares = [share_in_middle(found.clamp(min=0)), share_in_middle((-found).clamp(min=0))]
        answer, mapped = 1000 / BATCH_SIZE * np.median(seconds, axis=0)
        table.append(
            [name]
            + [over_groups(100 * share, groups, ".0f") for share in shares]
            + [over_groups(change, groups, ".2f") for change in changes]
            + [f"{mapped:.0f} beside {answer:.0f}"]
        )
    print(f"{len(rows)} photos of the test split, {len(np.unique(groups))} bin groups, seed 42")
    header = ["", "more: % in the middle", "fewer: % in the middle"]
    header += ["hottest tenth covered, items", "coldest", "ms a map, an answer"]
    print(markdown(header, table))


def counting(model: Any, counts: Sequence[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what tells the expected count of photos, items."""

    def expected_counts(pixel_values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            probabilities = model(pixel_values=pixel_values).logits.softmax(dim=-1)
        return probabilities @ torch.tensor(counts, dtype=torch.float32)

    return expected_counts


def share_in_middle(maps: torch.Tensor) -> np.ndarray:
    """Return how much of each map lies in the middle half of the area, (num_photos,).

    Args:
        maps: float (num_photos, edge, edge), 0 and more. A map of nothing but 0 has NaN.
    """
    edge = maps.shape[-1]
    margin = edge * (1 - 0.5**0.5) / 2
    places = torch.arange(edge)
    # Of a place that the border runs through, the part within.
    within = (places + 1).clamp(max=edge - margin) - places.clamp(min=margin)
    within = within.clamp(min=0)
    inside = (maps * within[:, None] * within).sum(dim=(1, 2))
    return (inside / maps.sum(dim=(1, 2))).double().numpy()


def covered_change(
    expected_counts: Callable[[torch.Tensor], torch.Tensor],
    photos: torch.Tensor,
    maps: torch.Tensor,
    before: torch.Tensor,
) -> np.ndarray:
    """Return how the expected count changes where the hottest places are covered, (num_photos,)."""
    changes = []
    for some, hot, answer in zip(
        photos.split(BATCH_SIZE), maps.split(BATCH_SIZE), before.split(BATCH_SIZE), strict=True
    ):
        places = hot.flatten(1)
        hottest = places.topk(round(COVERED * places.shape[1]), dim=1).indices
        is_covered = torch.zeros_like(places).scatter(1, hottest, 1).view_as(hot)
        mask = torch.nn.functional.interpolate(is_covered[:, None], size=some.shape[-2:])
        mean = some.mean(dim=(2, 3), keepdim=True)
        changes.append(expected_counts(some * (1 - mask) + mean * mask) - answer)
    return torch.cat(changes).double().numpy()


def over_groups(values: np.ndarray, groups: np.ndarray, form: str) -> str:
    """Return the mean over photos with its interval; a photo without a value is left out."""
    is_known = np.isfinite(values)
    known = values[is_known, None]
    drawn = np.vstack([known.mean(axis=0), bootstrap_means(groups[is_known], known)])
    return interval(drawn[:, 0], form)


if __name__ == "__main__":
    main()
