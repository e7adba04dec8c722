"""Rank the training labels that look wrong, for a person's look or to train without them.

Each photo's count is judged by a classifier that was fitted on other bin groups: a logistic
regression on what the model sees of the photo, in NUM_FOLDS folds of whole groups. That takes one
pass over the photos instead of NUM_FOLDS trainings. Features of a model that was fine-tuned on
these very labels remember some of them, and a wrong label then looks righter than it is: a model
that was never trained on them, such as the pretrained one, is fairer, and counts worse.

Which labels are likely wrong is decided by confident learning, as cleanlab does it. Source:
Northcutt et al., Confident learning: estimating uncertainty in dataset labels, JAIR 2021.
"""

import csv
import shlex
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import AutoModelForImageClassification, ViTImageProcessor

from auditing.bins import AuditBin, DatasetBins, UnusablePhotoError, decode_photo
from auditing.parts import BATCH_SIZE
from auditing.verdicts import harmless
from one_line_parser import reason_of
from output_files import whole_file

LABEL_ERRORS = "label_errors.csv"
NUM_FOLDS = 5
SEED = 0
# How freely the regression may fit; the one of the least loss on other groups is taken.
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
COLUMNS = ("id", "bin_group", "expected_quantity", "likely_count", "probability_of_label")


def rank_label_errors(
    model_dir: Path, dataset_dir: Path, output_dir: Path, review_budget: float
) -> None:
    """Write label_errors.csv: the labels of the training split that are likely wrong, worst first.

    Args:
        review_budget: share of the labels that the file holds at most. Of a count that even a good
            model gets right for half of the photos, far more are unlikely than wrong.

    Raises: ValueError: no model, no training split, or too few bin groups.
    """
    source = DatasetBins(dataset_dir, ["train"], None)
    columns = ["id", "bin_group", "expected_quantity"]
    bins = source.dataset.table("train", columns)
    ids = bins["id"].to_pylist()
    groups = [
        group or bin_id for group, bin_id in zip(bins["bin_group"].to_pylist(), ids, strict=True)
    ]
    labels = bins["expected_quantity"].to_numpy()
    features = photo_features(model_dir, source)
    probabilities, counts = cross_validated_probabilities(features, labels, groups)
    likely, score = likely_errors(probabilities, np.searchsorted(counts, labels))
    listed = likely[: int(review_budget * len(labels))]

    path = output_dir / LABEL_ERRORS
    with (
        whole_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        for row in listed:
            count = counts[probabilities[row].argmax()]
            line = [harmless(ids[row]), harmless(groups[row]), labels[row], count]
            writer.writerow([*line, f"{score[row]:.6f}"])
    accuracy = (counts[probabilities.argmax(axis=1)] == labels).mean()
    print(f"Right of {len(ids):,} labels when predicted from other bins: {accuracy:.1%}")
    print(f"Likely wrong labels: {len(likely):,}; the first {len(listed):,} are in {path}")
    print(
        "Look at the first ones before you believe them: a weak model's own errors are among them."
    )
    print(
        f"Next: the build_dataset.py command of {dataset_dir / 'README.md'} with --exclude "
        f"{shlex.quote(str(path))} and another --output_dir leaves them out."
    )


def photo_features(model_dir: Path, source: DatasetBins) -> np.ndarray:
    """Return what a model sees of each photo, float32 (num_bins, num_features).

    Its labels may be no counts.

    Raises: ValueError: no model, or a damaged one, or a photo that cannot be used.
    """
    if not (model_dir / "config.json").is_file():
        raise ValueError(f"--model {model_dir} holds no model: name RUN/model.")
    try:
        model = AutoModelForImageClassification.from_pretrained(
            model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
        # By its name: with torchvision AutoImageProcessor takes one that resizes differently.
        image_processor = ViTImageProcessor.from_pretrained(model_dir, local_files_only=True)
    except Exception as error:  # a damaged folder makes transformers raise nearly anything
        raise ValueError(
            f"--model {model_dir} cannot be loaded ({reason_of(error)}): copy it again."
        ) from error
    model.to(torch.accelerator.current_accelerator() or "cpu")
    found: list[np.ndarray] = []
    bins = source.bins()
    with (
        torch.inference_mode(),
        tqdm(total=source.num_bins, unit="photos", desc="features") as progress,
    ):
        while batch := list(islice(bins, BATCH_SIZE)):
            photos = [_decoded(a_bin, image_processor) for a_bin in batch]
            inputs = image_processor(images=photos, return_tensors="pt").to(model.device)
            last = model(**inputs, output_hidden_states=True).hidden_states[-1]
            # Of a transformer the first token and the mean of all, of a convolution the mean.
            is_tokens = last.ndim == 3
            seen = (last[:, 0], last.mean(dim=1)) if is_tokens else (last.mean(dim=(2, 3)),)
            found.append(torch.cat(seen, dim=1).float().cpu().numpy())
            progress.update(len(batch))
    return np.concatenate(found)


def _decoded(a_bin: AuditBin, image_processor: ViTImageProcessor) -> np.ndarray:
    """Return a photo in the size that the model takes: fifty whole ones may be gigabytes."""
    size = image_processor.size["height"], image_processor.size["width"]
    try:
        return decode_photo(a_bin.photo or b"", size, image_processor.resample)
    except UnusablePhotoError as error:
        raise ValueError(f"bin {a_bin.id}: {error} Build the dataset again.") from error


def cross_validated_probabilities(
    features: np.ndarray, labels: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return each photo's distribution over counts, from a classifier that saw other groups only.

    Args:
        features: (num_bins, num_features). labels: (num_bins,), items. groups: (num_bins,).

    Returns: float (num_bins, num_counts), and the counts of the columns, increasing.

    Raises: ValueError: too few groups for NUM_FOLDS folds with every count in each.
    """
    counts = np.unique(labels)
    features = features.astype(np.float64)
    folds = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=SEED)
    if len(set(groups)) < NUM_FOLDS:
        raise ValueError(f"The training split has fewer than {NUM_FOLDS} bin groups: build more.")
    divided = list(folds.split(features, labels, groups))
    if any(len(np.unique(labels[train])) < len(counts) for train, _ in divided):
        raise ValueError(
            "A count occurs in too few bin groups of the training split to be judged from the "
            "others: build more bins, or --min_count and --max_count closer together."
        )

    def predicted(inverse_penalty: float) -> np.ndarray:
        probabilities = np.empty((len(labels), len(counts)))
        for train, held_out in divided:
            classifier = make_pipeline(
                StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=500)
            )
            classifier.fit(features[train], labels[train])
            probabilities[held_out] = classifier.predict_proba(features[held_out])
        return probabilities

    tried = [predicted(inverse_penalty) for inverse_penalty in INVERSE_PENALTIES]
    return min(tried, key=lambda found: log_loss(labels, found, labels=counts)), counts


def likely_errors(
    probabilities: np.ndarray, label_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which labels are likely wrong, and how likely each label is.

    Args:
        probabilities: float (num_bins, num_counts), cross-validated.
        label_ids: int (num_bins,), columns.

    Returns: int (num_errors,), rows, the least likely label first; and float (num_bins,), the
        probability of each bin's own label.
    """
    score = get_label_quality_scores(label_ids, probabilities, method="self_confidence")
    likely = find_label_issues(label_ids, probabilities, filter_by="both", n_jobs=1)
    rows = np.flatnonzero(likely)
    return rows[np.argsort(score[rows], kind="stable")], score
