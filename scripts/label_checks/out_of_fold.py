"""What regressions say of photos whose bin groups they were not fitted on."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUM_FOLDS = 5
SEED = 0
# How freely a regression may fit; the one of the least loss on other groups is taken.
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
SMALLEST = 1e-9  # of a class that no photo of the other groups has
LEAST_SPREAD = 1e-3  # of a size's logarithm: where all are equal it would be 0
# Rows to fit on, and rows to be told of.
Folds = Sequence[tuple[np.ndarray, np.ndarray]]


def folds_of_groups(labels: np.ndarray, groups: Sequence[str]) -> Folds:
    """Return NUM_FOLDS folds of whole groups, with every label about as often in each.

    Raises: ValueError: too few groups for every label to be among the others of each fold.
    """
    if len(set(groups)) < NUM_FOLDS:
        raise ValueError(f"The training split has fewer than {NUM_FOLDS} bin groups: build more.")
    dividing = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=SEED)
    folds = list(dividing.split(labels, labels, groups))
    num_labels = len(np.unique(labels))
    if any(len(np.unique(labels[train])) < num_labels for train, _ in folds):
        raise ValueError(
            "A count occurs in too few bin groups of the training split to be judged from the "
            "others: build more bins, or --min_count and --max_count closer together."
        )
    return folds


def distributions(
    features: np.ndarray, values: np.ndarray, classes: np.ndarray, folds: Folds
) -> np.ndarray:
    """Return how likely each class is by each photo, float (num_bins, num_classes).

    Args:
        features: (num_bins, num_features).
        values: (num_bins,), one of `classes`, which increase; NaN where it is not known.
    """
    is_known = ~np.isnan(values.astype(np.float64))

    def predicted(inverse_penalty: float) -> np.ndarray:
        found = np.full((len(values), len(classes)), SMALLEST)
        for train, held_out in folds:
            rows = train[is_known[train]]
            there = np.unique(values[rows])
            if len(there) < 2:  # there is nothing to tell apart
                found[np.ix_(held_out, np.searchsorted(classes, there))] = 1.0
                continue
            classifier = make_pipeline(
                StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=500)
            )
            classifier.fit(features[rows], values[rows])
            columns = np.searchsorted(classes, classifier.classes_)
            found[np.ix_(held_out, columns)] = classifier.predict_proba(features[held_out])
        return found / found.sum(axis=1, keepdims=True)

    def loss(found: np.ndarray) -> float:
        return float(log_loss(values[is_known], found[is_known], labels=classes))

    return min(map(predicted, INVERSE_PENALTIES), key=loss)


def sizes(features: np.ndarray, targets: np.ndarray, folds: Folds) -> tuple[np.ndarray, np.ndarray]:
    """Return what each photo says of sizes, float (num_bins, num_sizes), and their spreads.

    Args:
        targets: float (num_bins, num_sizes), logarithms; NaN where they are not known.

    Returns: means; and float (num_sizes,), how far off they are: standard deviations.

    Raises: ValueError: some fold has none to be fitted on.
    """
    is_known = ~np.isnan(targets).any(axis=1)

    def predicted(inverse_penalty: float) -> np.ndarray:
        found = np.empty(targets.shape)
        for train, held_out in folds:
            rows = train[is_known[train]]
            regression = make_pipeline(StandardScaler(), Ridge(alpha=1 / inverse_penalty))
            regression.fit(features[rows], targets[rows])
            told = regression.predict(features[held_out])
            found[held_out] = told.reshape(-1, targets.shape[1])  # flat where there is one size
        return found

    def squared_errors(found: np.ndarray) -> np.ndarray:
        return np.square(found - targets)[is_known].mean(axis=0)

    means = min(map(predicted, INVERSE_PENALTIES), key=lambda each: squared_errors(each).sum())
    return means, np.maximum(np.sqrt(squared_errors(means)), LEAST_SPREAD)
