"""Rank the training labels that look wrong, for a person's look or to train without them.

Each photo's count is judged by a classifier that was fitted on other bin groups: a logistic
regression on what the model sees of the photo, in five folds of whole groups. That takes one pass
over the photos instead of five trainings. Features of a model that was fine-tuned on these very
labels remember some of them, and a wrong label then looks righter than it is: a model that was
never trained on them, such as the pretrained one, is fairer, and counts worse.

Which labels are likely wrong is decided by confident learning, as cleanlab does it. Source:
Northcutt et al., Confident learning: estimating uncertainty in dataset labels, JAIR 2021.

What such a label should be is suggested by all that is known of the bin, and not by its photo alone
(label_checks.suggested_labels).
"""

import csv
import shlex
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from tqdm import tqdm
from transformers import AutoModelForImageClassification, ViTImageProcessor

from auditing.bins import AuditBin, DatasetBins, UnusablePhotoError, decode_photo
from auditing.parts import BATCH_SIZE
from auditing.record_lines import record_of
from auditing.verdicts import harmless
from label_checks.out_of_fold import distributions, folds_of_groups
from label_checks.suggested_labels import LabelledBins, suggested_counts
from one_line_parser import reason_of
from output_files import whole_file

LABEL_ERRORS = "label_errors.csv"
COLUMNS = (
    *("id", "bin_group", "expected_quantity", "likely_count", "probability_of_label"),
    "suggested",
)


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
    bins = labelled_bins(source)
    groups = [group or own for group, own in zip(bins.groups, bins.ids, strict=True)]
    features = photo_features(model_dir, source).astype(np.float64)
    counts, folds = np.unique(bins.labels), folds_of_groups(bins.labels, groups)
    probabilities = distributions(features, bins.labels, counts, folds)
    suggested = suggested_counts(bins, features, probabilities, tuple(counts.tolist()), folds)
    likely, score = likely_errors(probabilities, np.searchsorted(counts, bins.labels))
    listed = likely[: int(review_budget * len(bins.labels))]

    path = output_dir / LABEL_ERRORS
    with (
        whole_file(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        for row in listed:
            count = counts[probabilities[row].argmax()]
            line = [harmless(bins.ids[row]), harmless(groups[row]), bins.labels[row], count]
            writer.writerow([*line, f"{score[row]:.6f}", suggested[row]])
    accuracy = (counts[probabilities.argmax(axis=1)] == bins.labels).mean()
    print(f"Right of {len(bins.ids):,} labels when predicted from other bins: {accuracy:.1%}")
    print(f"Likely wrong labels: {len(likely):,}; the first {len(listed):,} are in {path}")
    print(
        "Look at the first ones before you believe them: a weak model's own errors are among them."
    )
    print(
        f"Next: the build_dataset.py command of {dataset_dir / 'README.md'} with --exclude "
        f"{shlex.quote(str(path))} and another --output_dir leaves them out."
    )


def labelled_bins(source: DatasetBins) -> LabelledBins:
    """Return the records of a dataset's training split; of the photos nothing is read."""
    table = source.dataset.table("train", ["id", "bin_group", "expected_quantity"])
    ids, groups, labels = (table[name].to_pylist() for name in table.column_names)
    items = (map(asdict, a_bin.items) for a_bin in source.bins(photos_of=()))
    records = [record_of(label, list(each)) for label, each in zip(labels, items, strict=True)]
    return LabelledBins(ids, groups, np.array(labels), records)


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
