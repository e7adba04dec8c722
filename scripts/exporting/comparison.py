"""What two forms of one model answer to the test split, beside each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from count_distribution import confidence_levels
from items.answers import told_items
from serving.bin_counter import BinCounter, Network, Seen
from visits.chain import change_columns, possible_changes

FORMS = ("safetensors", "exported")
OF_SIZES = {"items": "the size of items", "volume_changes": "the change of volume"}


@dataclass(frozen=True)
class VisitedPhotos:
    """The test split, the visits of a bin one after another.

    Args:
        photos: JPEGs.
        labels: int (num_photos,).
        follows: bool (num_photos,), whether a photo shows the bin of the one before it.
    """

    photos: list[bytes]
    labels: np.ndarray
    follows: np.ndarray


@dataclass
class Answers:
    """What one form of the model answers to photos, batch after batch."""

    network: Network
    counts: list[np.ndarray] = field(default_factory=list)
    items: list[np.ndarray] = field(default_factory=list)
    changes: list[np.ndarray] = field(default_factory=list)
    last_view: np.ndarray | None = None

    def ask(self, batch: np.ndarray, follows: np.ndarray | None) -> None:
        """Ask about a batch, and about the change to each photo that follows another.

        Args:
            batch: uint8 (batch, height, width, 3).
            follows: bool (batch,), whether a photo shows the bin of the one before it, which may be
                the last of the batch before; None where there is no change head.
        """
        if follows is None:
            self._keep(self.network.look(batch))
            return
        seen, views = self.network.look_for_changes(batch)
        self._keep(seen)
        if follows.any():
            first = views[:1] if self.last_view is None else self.last_view
            before = np.concatenate([first, views[:-1]])
            self.changes.append(self.network.changes(before[follows], views[follows]))
        self.last_view = views[-1:]

    def _keep(self, seen: Seen) -> None:
        self.counts.append(seen.probabilities)
        if seen.items is not None:
            self.items.append(seen.items)


def compared_counts(answers: Mapping[str, Answers], split: VisitedPhotos) -> dict[str, Any]:
    """Return what export.json says of the counts."""
    probabilities = {form: np.concatenate(given.counts) for form, given in answers.items()}
    return {"num_photos": len(split.labels), **comparison(probabilities, split.labels)}


def compared_changes(
    answers: Mapping[str, Answers], split: VisitedPhotos, counter: BinCounter
) -> dict[str, Any]:
    """Return what export.json says of the changes, as they are given to users."""
    later = np.flatnonzero(split.follows)
    if len(later) == 0:
        return {"num_pairs": 0}
    said = {form: np.concatenate(given.changes) for form, given in answers.items()}
    changes = {form: counter.visit_model.changes(each) for form, each in said.items()}
    true = change_columns(counter.counts)[split.labels[later - 1], split.labels[later]]
    compared = {"num_pairs": len(later), "changes": comparison(changes, true)}
    volumes = [said[form][:, len(possible_changes(counter.counts)) :] for form in FORMS]
    if volumes[0].size:
        off = off_by(*(each[:, :1] for each in volumes), *(each[:, 1:] for each in volumes))
        compared["volume_changes"] = differences(off)
    return compared


def compared_items(answers: Mapping[str, Answers]) -> dict[str, float]:
    """Return what export.json says of the items: how far both forms are apart."""
    plain, fast = (told_items(np.concatenate(answers[form].items)) for form in FORMS)
    sizes = off_by(plain.means, fast.means, np.log(plain.spreads), np.log(fast.spreads))
    return differences(np.concatenate([sizes, fast.distinct - plain.distinct], axis=1))


def off_by(
    means: np.ndarray, fast_means: np.ndarray, log_spreads: np.ndarray, fast_spreads: np.ndarray
) -> np.ndarray:
    """Return how far both forms are apart in what they say of sizes, of one shape.

    Returns: for the means in what the safetensors say that they are off by, then for the
        logarithms of spreads.
    """
    of_means = (fast_means - means) / np.exp(log_spreads)
    return np.concatenate([of_means, fast_spreads - log_spreads], axis=1)


def differences(off: np.ndarray) -> dict[str, float]:
    """Return the largest and the mean difference, as export.json has them."""
    return {
        "largest_difference": float(np.abs(off).max()),
        "mean_difference": float(np.abs(off).mean()),
    }


def comparison(of_form: Mapping[str, np.ndarray], labels: np.ndarray) -> dict[str, Any]:
    """Return the figures of each form, and how far they are apart.

    Args:
        of_form: what each of FORMS answers, float (num_rows, num_classes).
        labels: int (num_rows,).
    """
    # One grouping for both: a photo that crosses an edge would take its whole error with it.
    levels = confidence_levels(of_form["safetensors"].max(axis=1))
    difference = of_form["exported"] - of_form["safetensors"]
    return {
        **{form: figures(rows, labels, levels) for form, rows in of_form.items()},
        **differences(difference),
    }


def figures(probabilities: np.ndarray, labels: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """Return how well probabilities, (num_rows, num_classes), fit labels, (num_rows,).

    Args:
        levels: int (num_rows,), the groups in which confidence and accuracy are compared.
    """
    probabilities = probabilities.astype(np.float64)
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    of_label = probabilities[np.arange(len(labels)), labels]
    gaps = np.bincount(levels, confidence - is_right)
    return {
        "accuracy": float(is_right.mean()),
        "negative_log_likelihood": float(-np.log(np.maximum(of_label, 1e-300)).mean()),
        "expected_calibration_error": float(np.abs(gaps).sum() / len(labels)),
    }
