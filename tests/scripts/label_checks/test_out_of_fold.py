import numpy as np
import pytest

from label_checks.label_errors import likely_errors
from label_checks.out_of_fold import distributions, folds_of_groups, sizes


def clusters(num_bins: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features that tell the count well, labels, and groups of two."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, 6, size=num_bins)
    features = generator.normal(size=(num_bins, 8))
    features[np.arange(num_bins), labels] += 6
    return features, labels, [f"group {row // 2}" for row in range(num_bins)]


def test_wrong_labels_are_found_and_come_first() -> None:
    features, labels, groups = clusters(400)
    wrong = np.arange(0, 400, 20)
    labels[wrong] = labels[wrong] % 5 + 1
    counts = np.arange(1, 6)
    folds = folds_of_groups(labels, groups)
    probabilities = distributions(features, labels, counts, folds)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    likely, score = likely_errors(probabilities, np.searchsorted(counts, labels))
    assert len(set(likely) & set(wrong)) >= 18
    assert len(set(likely) - set(wrong)) <= 4
    assert np.all(np.diff(score[likely]) >= 0)


def test_no_group_helps_to_judge_itself() -> None:
    # Photos of one group are the same, their labels pure chance: whoever saw the group, knows.
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.integers(1, 4, size=150), 2)
    features = np.repeat(generator.normal(size=(150, 60)), 2, axis=0)
    groups = [f"group {row // 2}" for row in range(300)]
    counts = np.arange(1, 4)
    folds = folds_of_groups(labels, groups)
    probabilities = distributions(features, labels, counts, folds)
    assert (counts[probabilities.argmax(axis=1)] == labels).mean() < 0.5


def test_too_few_groups_are_refused() -> None:
    _, labels, _ = clusters(40)
    with pytest.raises(ValueError, match="fewer than 5 bin groups"):
        folds_of_groups(labels, ["one"] * 40)
    labels[:] = 1
    labels[:2] = 2
    with pytest.raises(ValueError, match="too few bin groups"):
        folds_of_groups(labels, ["both", "both", *map(str, range(38))])


def test_a_value_that_is_not_known_or_in_one_fold_alone_costs_no_bin_its_answer() -> None:
    features, labels, groups = clusters(200)
    folds = folds_of_groups(labels, groups)
    values = labels.astype(float)
    values[:50] = np.nan
    values[60] = 9
    found = distributions(features, values, np.array([1, 2, 3, 4, 5, 9]), folds)
    assert found.sum(axis=1) == pytest.approx(np.ones(200))
    assert (found[:50, :5].argmax(axis=1) + 1 == labels[:50]).mean() > 0.9
    assert found[60, 5] < 1e-6  # of its own value no other fold knows


def test_sizes_are_told_from_other_groups_with_how_far_off_they_are() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(600, 5))
    noise = generator.normal(size=(600, 2)) * [0.1, 0.5]
    targets = features[:, :2] * [1.0, 2.0] + noise
    targets[:30] = np.nan
    labels, groups = generator.integers(1, 4, size=600), [str(row // 2) for row in range(600)]
    means, spreads = sizes(features, targets, folds_of_groups(labels, groups))
    assert spreads == pytest.approx([0.1, 0.5], rel=0.15)
    assert np.corrcoef(means[:30, 0], features[:30, 0])[0, 1] > 0.95


def test_where_all_are_equal_that_is_what_is_said() -> None:
    features, labels, groups = clusters(100)
    folds = folds_of_groups(labels, groups)
    found = distributions(features, np.full(100, 2), np.array([1, 2, 3]), folds)
    assert found == pytest.approx(np.tile([0, 1, 0], (100, 1)), abs=1e-6)
    means, spreads = sizes(features, np.full((100, 2), 4.0), folds)
    assert means == pytest.approx(np.full((100, 2), 4.0))
    assert (spreads > 0).all()
