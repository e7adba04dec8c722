"""All kinds of wrong records that an audit is measured on."""

from audit_evaluation.cases import (
    Cases,
    JudgedBins,
    real_changes,
    real_pairs,
    real_pairs_with_visits,
    symmetric_errors,
    symmetric_errors_with_visits,
)
from audit_evaluation.item_cases import (
    real_changes_with_items,
    real_pairs_with_items,
    real_pairs_with_visits_and_items,
)
from visits.settings import VisitModel

FEWEST_CASES = 10  # a tenth of them is wrong


def cases_of(bins: JudgedBins, model: VisitModel) -> list[Cases]:
    """Return all kinds of cases; of those with visits, the ones that the counts allow.

    Args:
        model: of the folder of the model that was asked.

    Raises: ValueError: too few photos for a tenth of them to get a wrong record.
    """
    alone = [real_pairs(bins, model), symmetric_errors(bins, model)]
    for cases in alone:
        if len(cases.rows) < FEWEST_CASES:
            raise ValueError(f"only {len(cases.rows)} test photos can get a record of {cases.name}")
    others = [
        real_changes(bins, model),
        real_pairs_with_visits(bins, model),
        symmetric_errors_with_visits(bins, model),
    ]
    if bins.items is not None:
        others += [
            real_pairs_with_items(bins, bins.items, model),
            real_pairs_with_visits_and_items(bins, bins.items, model),
            real_changes_with_items(bins, bins.items, model),
        ]
    return alone + [cases for cases in others if len(cases.rows) >= FEWEST_CASES]
