from dataclasses import replace

import numpy as np
import pytest

from audit_evaluation.cases import PHOTO, RECORDS, Cases, JudgedBins, JudgedItems, real_changes
from audit_evaluation.item_cases import (
    ITEMS,
    VISITS,
    real_changes_with_items,
    real_pairs_with_visits_and_items,
)
from drawn_visits import COUNTS, drawn_visits
from items.evidence import Powers, RecordedItems, usual_items
from items.settings import ItemSettings
from items.steps import UsualChanges
from visits.settings import VisitModel


def with_items(noise: float, tells_changes: bool = False) -> tuple[JudgedBins, VisitModel]:
    """Return drawn visits whose items are all of ten cubic inches, and what photos show of them."""
    bins, model = drawn_visits(2.0, 2.0)
    generator = np.random.default_rng(3)
    records = [RecordedItems((COUNTS[c],), (10.0,), (1.0,)) for c in bins.true]
    alike = [RecordedItems((n,), (v,), (1.0,)) for n in COUNTS for v in (4.0, 25.0)]
    usual = usual_items([*alike, *records], COUNTS, 5)
    changes = np.log(np.array(COUNTS)[None, :] / np.array(COUNTS)[:, None])
    settings = ItemSettings(
        5,
        usual=usual,
        powers=Powers(1.0, 1.0, 0.0, 0.0),
        usual_changes=UsualChanges(tuple(map(tuple, changes.tolist())), ((0.7,) * 5,) * 5),
    )
    volumes = np.log([record.volume for record in records])
    answers = np.zeros((len(records), 13))
    answers[:, 0] = volumes + generator.normal(0, noise, len(records))
    answers[:, 4], answers[:, 7] = np.log(noise), 3.0
    steps = bins.steps
    told = np.column_stack([volumes[steps[:, 1]] - volumes[steps[:, 0]], np.full(len(steps), -2.0)])
    items = JudgedItems(answers, records, settings, told if tells_changes else None)
    return replace(bins, items=items), model


def areas(cases: Cases, bins: JudgedBins) -> dict[str, float]:
    """Return how often a right record is less suspicious than a wrong one, to all who judge."""
    true = bins.true[cases.rows]
    wrong = np.array([columns[0] for columns in cases.wrong_records])
    rows = np.arange(len(true))
    found = {}
    for name, known in {"audit": cases.audit, **cases.rivals}.items():
        own, other = (known.given(recorded)[rows, recorded] for recorded in (true, wrong))
        found[name] = float((own[:, None] > other[None, :]).mean())
    return found


def test_items_tell_wrong_records_where_photos_count_badly() -> None:
    bins, model = with_items(0.2)
    assert bins.items is not None
    cases = real_changes_with_items(bins, bins.items, model)
    assert {*cases.rivals} == {VISITS, ITEMS, PHOTO, RECORDS}
    found = areas(cases, bins)
    assert found["audit"] > found[VISITS] + 0.1
    assert found["audit"] >= found[ITEMS] - 0.02
    pairs = real_pairs_with_visits_and_items(bins, bins.items, model)
    found = areas(pairs, bins)
    assert found["audit"] > found[VISITS] + 0.1
    assert found[ITEMS] > found[PHOTO] + 0.1


def test_the_cases_and_their_wrong_counts_are_those_of_real_changes() -> None:
    bins, model = with_items(0.2)
    assert bins.items is not None
    plain, cases = real_changes(bins, model), real_changes_with_items(bins, bins.items, model)
    assert np.array_equal(plain.rows, cases.rows)
    for one, other in zip(plain.wrong_records, cases.wrong_records, strict=True):
        assert np.array_equal(one, other)
    known = cases.audit.given(bins.true[cases.rows])
    assert known.sum(axis=1) == pytest.approx(1)
    # All are told that there was a change.
    assert (known[np.arange(len(known)), bins.true[cases.rows ^ 1]] == 0).all()


def test_a_change_of_volume_that_two_photos_tell_says_more() -> None:
    found = []
    for tells_changes in (False, True):
        bins, model = with_items(1.0, tells_changes)
        assert bins.items is not None
        cases = real_changes_with_items(bins, bins.items, model)
        found.append(areas(cases, bins)["audit"])
    assert found[1] > found[0] + 0.05
