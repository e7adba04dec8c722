import numpy as np
import pytest

from items.evidence import NO_ITEMS, RecordedItems
from label_checks.out_of_fold import distributions, folds_of_groups
from label_checks.suggested_labels import LabelledBins, suggested_counts

NUM_GROUPS = 300


def drawn_bins(
    generator: np.random.Generator, with_items: bool
) -> tuple[LabelledBins, np.ndarray, np.ndarray]:
    """Return bins seen twice, each visit an item fewer or more, and what photos show of them.

    A photo shows the volume well and the number of items badly. A tenth of the records are those of
    the bin's other visit.

    Returns: the bins, their features, and what they hold.
    """
    held, records = [], []
    for _ in range(NUM_GROUPS):
        first = int(generator.integers(2, 6))
        volumes = np.exp(generator.normal(3, 1.5, size=first)).tolist()
        for count in (first, first - 1):
            held.append(count)
            each = tuple(volumes[:count])
            records.append(RecordedItems((1,) * count, each, tuple(v / 30 for v in each)))
    counts = np.array(held)
    shown = np.log([record.volume for record in records])
    features = np.column_stack(
        [
            shown + generator.normal(0, 0.1, size=len(counts)),
            counts + generator.normal(0, 1.5, size=len(counts)),
            generator.normal(size=(len(counts), 3)),
        ]
    )
    written = np.arange(len(counts))
    wrong = generator.random(len(counts)) < 0.1
    written[wrong] ^= 1  # of the other visit of the pair
    bins = LabelledBins(
        ids=[f"{row:05d}" for row in range(len(counts))],
        groups=[f"{row // 2:05d}" for row in range(len(counts))],
        labels=counts[written],
        records=[records[row] if with_items else NO_ITEMS for row in written],
    )
    return bins, features, counts


@pytest.mark.parametrize("with_items", [True, False])
def test_visits_and_items_say_more_than_the_photos_count(with_items: bool) -> None:
    bins, features, held = drawn_bins(np.random.default_rng(0), with_items)
    counts = (1, 2, 3, 4, 5)
    folds = folds_of_groups(bins.labels, [str(group) for group in bins.groups])
    probabilities = distributions(features, bins.labels, np.array(counts), folds)
    suggested = suggested_counts(bins, features, probabilities, counts, folds)
    assert (suggested != bins.labels).all()
    wrong = bins.labels != held
    others = probabilities.copy()
    others[np.arange(len(held)), bins.labels - 1] = 0
    by_photo = others.argmax(axis=1) + 1
    right = (suggested == held)[wrong].mean(), (by_photo == held)[wrong].mean()
    assert right[0] > right[1] + 0.1, right


def test_bins_without_visits_are_judged_by_their_photos() -> None:
    bins, features, _ = drawn_bins(np.random.default_rng(1), with_items=True)
    alone = LabelledBins(bins.ids, [None] * len(bins.ids), bins.labels, bins.records)
    folds = folds_of_groups(bins.labels, list(bins.ids))
    probabilities = distributions(features, bins.labels, np.arange(1, 6), folds)
    suggested = suggested_counts(alone, features, probabilities, (1, 2, 3, 4, 5), folds)
    assert set(suggested.tolist()) <= {1, 2, 3, 4, 5}
    assert (suggested != bins.labels).all()
