"""What a training label most probably should be, if it is wrong: its bin's photo, items and visits.

An audit's Judge says so, of the training split itself, and hears nothing that has seen the bin:

    photo   the distribution over counts, of a regression that was fitted on other bin groups
    items   volumes, weight and distinct items, of regressions fitted so too, from what the same
            network sees, held against the items that the record names (items.evidence)
    visits  the records and photos of the bin's other visits, and how counts usually change
            (visits.chain)

The model's own heads are not asked. They were trained on these photos and pairs, and are surer of
them than they are right; so visits are compared by their counts alone. What all records together
say (how counts and volumes usually are, how often labels are wrong) is learned from these records,
among which one bin weighs little. The powers of the items' witnesses are fitted on the split's own
pairs of visits, of whose groups no regression knew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from auditing.parts import Part
from auditing.record_lines import recorded_columns
from auditing.verdicts import Judge
from auditing.visits_of_bins import SeenItems, SeenVisits, order_of_visits
from auditing.wrong_rate import DEFAULT_WRONG_RATE, WrongRate
from items.evidence import RecordedItems, fit_powers, item_evidence, usual_items
from items.settings import ItemSettings
from items.sizes import item_targets
from label_checks.out_of_fold import Folds, distributions, sizes
from visits.chain import possible_changes
from visits.error_model import ErrorModel, fit_error_model
from visits.neighbours import visit_steps
from visits.settings import VisitModel

AT_ONCE = 10_000  # bins that are held against their records, some kilobytes each
MOST_PAIRS = 2_000  # which say well enough how much five witnesses count


@dataclass(frozen=True)
class LabelledBins:
    """The records of a training split.

    Args:
        ids, groups: as in visits.neighbours.visit_steps.
        labels: int (num_bins,), the expected quantities.
        records: (num_bins,), the items that they name.
    """

    ids: Sequence[str]
    groups: Sequence[str | None]
    labels: np.ndarray
    records: Sequence[RecordedItems]

    def pairs(self) -> np.ndarray:
        """Return each two visits that follow each other, int (num_steps, 2), rows."""
        return visit_steps(self.ids, self.groups)


def suggested_counts(
    bins: LabelledBins,
    features: np.ndarray,
    probabilities: np.ndarray,
    counts: Sequence[int],
    folds: Folds,
) -> np.ndarray:
    """Return the likeliest count of each bin if its label is wrong, int (num_bins,), items.

    Args:
        features: float (num_bins, num_features), what a network sees of the photos.
        probabilities: float (num_bins, num_counts), of `counts`, from other bin groups.
        folds: of whole bin groups.
    """
    num_bins, counts = len(bins.labels), tuple(counts)
    error_model = fit_error_model(bins.ids, bins.groups, bins.labels.tolist())
    settings, answers = items_by_photo(bins, features, probabilities, counts, folds, error_model)
    with_items, items = probabilities, None
    if settings is not None:
        with_items = np.concatenate(
            [
                settings.counts_given(probabilities[rows], answers[rows], bins.records[rows])
                for start in range(0, num_bins, AT_ONCE)
                for rows in [slice(start, start + AT_ONCE)]
            ]
        )
        items = SeenItems(answers, recorded_columns(bins.records))
    nothing = np.full(num_bins, -1)
    no_changes = np.full((num_bins, len(possible_changes(counts))), np.nan)
    part = Part(
        first=0,
        ids=list(bins.ids),
        recorded=[str(label) for label in bins.labels],
        expected=bins.labels,
        problem=[""] * num_bins,
        note=[""] * num_bins,
        items=[[]] * num_bins,
        probabilities=probabilities,
        with_items=with_items,
        item_answers=None,
        compared=nothing,
        changes=no_changes,
    )
    seen = SeenVisits(with_items, nothing, no_changes, pa.array(bins.ids, pa.large_string()), items)
    judge = Judge(
        counts=counts,
        error_model=error_model,
        wrong_rate=WrongRate(DEFAULT_WRONG_RATE),
        costs=None,
        review_budget=None,
        item_settings=settings,
    )
    judge = judge.learning_from_records([part], num_bins, is_rate_given=False)
    order = order_of_visits(bins.ids, bins.groups)
    judge = judge.knowing_visits(seen, bins.labels, order, VisitModel(error_model), None)
    return judge.corrected_counts(part)


def items_by_photo(
    bins: LabelledBins,
    features: np.ndarray,
    probabilities: np.ndarray,
    counts: tuple[int, ...],
    folds: Folds,
    error_model: ErrorModel,
) -> tuple[ItemSettings | None, np.ndarray]:
    """Return how records are held against what photos show of items, and what they show.

    Returns: settings, None where the records tell too little; and answers as items.answers has
        them, each from other bin groups.
    """
    max_distinct = max(counts)
    usual = usual_items(bins.records, counts, max_distinct)
    steps = bins.pairs()
    changed = steps[bins.labels[steps[:, 0]] != bins.labels[steps[:, 1]]]
    targets = np.array(
        [item_targets(record.quantities, record.volumes, record.weights) for record in bins.records]
    )
    is_told = ~np.isnan(targets).any(axis=1)
    is_in_each = all(is_told[train].any() for train, _ in folds)
    if usual is None or len(changed) == 0 or not is_in_each:
        return None, np.empty((len(bins.labels), 0))
    means, spreads = sizes(features, targets[:, :-1], folds)
    numbers = np.where(targets[:, -1] <= max_distinct, targets[:, -1], np.nan)
    distinct = distributions(features, numbers, np.arange(1, max_distinct + 1), folds)
    log_spreads = np.tile(np.log(spreads), (len(means), 1))
    answers = np.column_stack([means, log_spreads, np.log(distinct)])
    changed = changed[:: -(-len(changed) // MOST_PAIRS)]
    # Each photo with its own record, and with that of the other visit.
    rows = np.concatenate([changed, changed[:, ::-1]]).ravel()
    held_against = np.concatenate([changed, changed]).ravel()
    powers = fit_powers(
        probabilities[rows],
        item_evidence(answers[rows], [bins.records[row] for row in held_against], usual),
        np.searchsorted(counts, bins.labels[held_against]),
        rows == held_against,
        error_model.record_probabilities(counts),
    )
    settings = ItemSettings(max_distinct, usual=usual)
    return replace(settings, powers=powers, num_pairs=len(changed)), answers
