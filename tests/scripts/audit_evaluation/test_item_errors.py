import numpy as np
import pytest

from audit_evaluation.cases import JudgedBins, JudgedItems
from audit_evaluation.item_errors import (
    MISSING,
    TOO_MANY,
    checked_share,
    exchanged_items,
    item_errors,
    wrong_pairs,
)
from drawn_visits import COUNTS
from items.evidence import NO_ITEMS, Powers, RecordedItems, usual_items
from items.settings import ItemSettings
from visits.error_model import ErrorModel
from visits.settings import VisitModel

KNOWS_NOTHING = VisitModel(ErrorModel())


def drawn_bins(num_pairs: int, noise: float) -> tuple[JudgedBins, JudgedItems]:
    """Return pairs of visits, at the second of which some item is gone, and photos of volumes."""
    generator = np.random.default_rng(0)
    records, groups = [], []
    for pair in range(num_pairs):
        number = int(generator.integers(2, 6))
        volumes = tuple(np.round(generator.lognormal(3, 1.2, number), 3).tolist())
        full = RecordedItems((1,) * number, volumes, (1.0,) * number)
        gone = int(generator.integers(number))
        left = [volume for place, volume in enumerate(volumes) if place != gone]
        records += [full, RecordedItems((1,) * len(left), tuple(left), (1.0,) * len(left))]
        groups += [f"{pair:04d}"] * 2
    answers = np.zeros((len(records), 8 + 5))
    answers[:, 0] = [np.log(record.volume) + generator.normal(0, noise) for record in records]
    answers[:, 4] = np.log(noise)
    answers[:, 7] = 3.0  # of the weight nothing is known
    all_alike = [RecordedItems((1,) * n, (v,) * n, (1.0,) * n) for n in COUNTS for v in (5, 60)]
    usual = usual_items(all_alike + records, COUNTS, 5)
    settings = ItemSettings(5, usual=usual, powers=Powers(1.0, 1.0, 0.0, 0.0))
    bins = JudgedBins(
        ids=[f"{row:05d}" for row in range(len(records))],
        groups=groups,
        true=np.array([record.count - 1 for record in records]),
        probabilities=np.full((len(records), 5), 0.2),
        counts=COUNTS,
    )
    return bins, JudgedItems(answers, records, settings)


def test_a_record_of_another_visit_names_too_many_or_too_few() -> None:
    bins, items = drawn_bins(5, 0.2)
    found = list(wrong_pairs(bins, items))
    assert [name for name, _ in found] == [TOO_MANY, MISSING] * 5
    for (_, fewer), (_, more) in zip(found[::2], found[1::2], strict=True):
        full, left = items.records[fewer.row], items.records[more.row]
        assert (fewer.record, more.record) == (left, full)
        assert fewer.volume == more.volume == pytest.approx(full.volume - left.volume)


def test_pairs_in_which_items_came_and_went_or_are_not_named_are_left_out() -> None:
    bins, items = drawn_bins(2, 0.2)
    other = RecordedItems((2,), (3.0,), (4.0,))
    records = [items.records[0], other, items.records[2], NO_ITEMS]
    assert not list(wrong_pairs(bins, JudgedItems(items.answers, records, items.settings)))


def test_an_exchange_leaves_the_count_and_takes_an_item_of_another_bin() -> None:
    bins, items = drawn_bins(30, 0.2)
    for wrong in exchanged_items(bins, items, np.random.default_rng(0)):
        own = items.records[wrong.row]
        assert wrong.record.count == own.count
        (put,) = {*wrong.record.volumes} - {*own.volumes}
        assert wrong.volume in own.volumes
        holders = {
            group
            for group, record in zip(bins.groups, items.records, strict=True)
            if put in record.volumes
        }
        assert bins.groups[wrong.row] not in holders


def test_large_items_that_are_missing_are_found_more_often() -> None:
    bins, items = drawn_bins(150, 0.1)
    errors = {error["name"]: error for error in item_errors(bins, items, KNOWS_NOTHING)}
    missing = errors[MISSING]
    assert missing["num_records"] == sum(size["num_records"] for size in missing["sizes"]) == 150
    found = [size["judges"]["photo and items"]["found"]["value"] for size in missing["sizes"]]
    assert found[2] > found[0] + 0.2
    assert missing["judges"]["photo and items"]["area_under_curve"]["value"] > 0.8
    # The photos alone know nothing: as often as any is checked.
    alone = missing["judges"]["photo alone"]["found"]
    assert alone["low"] <= alone["value"] <= alone["high"]
    assert [size["low"] for size in missing["sizes"]] == sorted(
        size["low"] for size in missing["sizes"]
    )


def test_of_few_wrong_records_no_figures_are_made() -> None:
    bins, items = drawn_bins(14, 0.1)
    assert [error["name"] for error in item_errors(bins, items, KNOWS_NOTHING)] == []


def test_the_first_are_checked_and_those_of_one_score_share_what_is_left() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 1.0, 0.0]])
    shares = checked_share(scores, weights, 0.5)
    assert shares[0].tolist() == [1.0, 0.5, 0.5, 0.0]
    assert shares[1, 0] == pytest.approx(2 / 3)
    assert shares[1, 2] == 0
    assert (weights * shares).sum(axis=1) == pytest.approx(weights.sum(axis=1) / 2)
