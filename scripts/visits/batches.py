"""Batches that keep the visits of a bin together, in training and in evaluation.

In training all visits of a bin stand side by side: a *run* of them is one or more photos, of which
each shows the bin of the one before. What augmentation draws for a run it draws once, and runs of
one length are mixed with one another, visit with visit, so that a change stays a change.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from visits.neighbours import visit_runs

SEEN_TWICE = 16


class VisitSampler(Sampler[int]):
    """Rows in an order that is drawn anew for each epoch, the visits of a bin one after another.

    Args:
        ids, groups: as in visit_steps.
        seed: an epoch's order follows from it and the epoch's number alone, so that a run that goes
            on repeats it.
    """

    def __init__(self, ids: Sequence[str], groups: Sequence[str | None], seed: int) -> None:
        self.runs = visit_runs(ids, groups)
        self.num_rows = len(ids)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch, which counts from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        for run in torch.randperm(len(self.runs), generator=generator).tolist():
            yield from self.runs[run]
        self.epoch += 1  # as accelerate's own sampler does, whoever does not set it


def run_layout(groups: Sequence[str | None]) -> dict[str, torch.Tensor]:
    """Return which photos of a batch belong together.

    Args:
        groups: (batch,), the bin group of each, as VisitSampler orders them.

    Returns: int64 tensors: `run` (batch,), which run each photo is in, from 0 on; `partner`
        (batch,), the photo that each is mixed with, of the run before it among those of its length;
        `later` (num_steps,), the photos that show the bin of the photo before them.
    """
    follows = np.array(
        [
            row > 0 and group is not None and group == groups[row - 1]
            for row, group in enumerate(groups)
        ]
    )
    run = np.cumsum(~follows) - 1
    starts, lengths = np.flatnonzero(~follows), np.bincount(run)
    partner_run = np.arange(len(starts))
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        partner_run[alike] = np.roll(alike, 1)
    place = np.arange(len(groups)) - starts[run]
    return {
        "run": torch.from_numpy(run),
        "partner": torch.from_numpy(starts[partner_run[run]] + place),
        "later": torch.from_numpy(np.flatnonzero(follows)),
    }


def num_seen_twice(num_photos: int) -> int:
    """Return how many photos of a training batch are shown twice: one in SEEN_TWICE, at least one.

    No two real visits are known to show the same items, so that what an unchanged bin looks like is
    learned from these: one photo under different light and geometry.
    """
    return max(1, num_photos // SEEN_TWICE)


def share_unchanged(num_steps: int, num_photos: int, batch_size: int) -> float:
    """Return which share of the pairs in training is one photo twice.

    Args:
        num_steps: from a visit to the next, among num_photos. Where a batch ends some are cut.
        batch_size: photos that are taken at once.
    """
    twice = num_photos / batch_size * num_seen_twice(batch_size)
    return twice / (twice + num_steps * (1 - 1 / batch_size))


def with_unchanged(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a training batch with its first photos once more at its end, and all of its pairs.

    Args:
        batch: of training.bin_dataset.collate, with the keys of run_layout.

    Returns: the batch, its photos and labels longer by num_seen_twice; `seen_twice`, int64
        (num_seen_twice,), the rows at their end; `earlier` and `later`, int64 (num_pairs,) rows.
    """
    num_photos = len(batch["labels"])
    num_twice = num_seen_twice(num_photos)
    first = torch.arange(num_twice, device=batch["later"].device)
    again = num_photos + first
    longer = {
        name: torch.cat([batch[name], batch[name][:num_twice]])
        for name in ("pixel_values", "labels", "run", "partner")
    }
    return (
        dict(batch)
        | longer
        | {
            "earlier": torch.cat([batch["later"] - 1, first]),
            "later": torch.cat([batch["later"], again]),
            "seen_twice": again,
        }
    )


class VisitPairs(Dataset[dict[str, Any]]):
    """Two visits at once, each with its photo, for an evaluation in any order.

    Args:
        photos: rows with pixel_values and labels.
        steps: int (num_steps, 2), rows of `photos`, the earlier one first.
    """

    def __init__(self, photos: Any, steps: np.ndarray) -> None:
        self.photos = photos
        self.steps = steps.tolist()

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> dict[str, Any]:
        earlier, later = (self.photos[row] for row in self.steps[step])
        return later | {f"earlier_{name}": value for name, value in earlier.items()}
