import math

import numpy as np
import pytest

from items.evidence import (
    NO_ITEMS,
    Powers,
    RecordedItems,
    counts_with_items,
    item_evidence,
)
from items.settings import ItemSettings
from items.sizes import SIZES
from items.steps import POWER, UsualChanges, changed_record, mirrored, usual_changes
from usual_items import USUAL

COUNTS = (1, 2, 3)
CHANGES = UsualChanges(
    means=((0.0, 0.7, 1.1), (-0.7, 0.0, 0.4), (-1.1, -0.4, 0.0)), spreads=((0.6,) * 3,) * 3
)
SETTINGS = ItemSettings(3, usual=USUAL, powers=Powers(1, 1, 1, 1), usual_changes=CHANGES)
# Two small items alike and a large one; without the large one.
FULL, SMALL = RecordedItems((2, 1), (10.0, 100.0), (0.5, 2.0)), RecordedItems((2,), (10.0,), (0.5,))
STEP = np.array([[0, 1]])


def answers(volume: float, spread: float = 0.5) -> list[float]:
    means = [math.log(volume) if name == "volume" else 0.5 for name in SIZES]
    return [*means, *[math.log(spread)] * len(SIZES), 0.0, 0.0, 0.0]


def told(times: float, spread: float = 0.1) -> np.ndarray:
    return np.array([[math.log(times), math.log(spread)]])


def test_two_right_records_are_likelier_by_the_change_of_volume_alone() -> None:
    said = np.array([answers(120), answers(20)])
    found = SETTINGS.step_evidence(said, [FULL, SMALL], STEP, told(20 / 120))
    assert found is not None
    times = math.log(20 / 120)

    def density(value: float, mean: float, spread: float) -> float:
        return -(((value - mean) / spread) ** 2) / 2 - math.log(spread)

    expected = POWER * (density(times, times, 0.1) - density(times, -0.4, 0.6))
    assert found[0, 2, 1] == pytest.approx(expected)
    # Where both are wrong nobody knows more: a count that neither record has.
    assert found[0, 0, 0] == found[0, 1, 0] == found[0, 0, 2] == found[0, 1, 2] == 0


def test_a_wrong_record_has_the_items_of_the_right_one() -> None:
    """Both records say three; the second photo shows that the large item is gone."""
    said = np.array([answers(120, 0.2), answers(20, 0.2)])
    records = [FULL, FULL]
    found = SETTINGS.step_evidence(said, records, STEP, None)
    assert found is not None
    # Of the same record the contents are the same: nothing new without a change of volume.
    assert found[0] == pytest.approx(np.zeros((3, 3)))
    with_change = SETTINGS.step_evidence(said, records, STEP, told(20 / 120))
    assert with_change is not None
    assert with_change[0, 2, 1] > 1 > with_change[0, 2, 2]
    # A record that names something else, and does not fit its photo: two of the others are likely.
    other = RecordedItems((1, 1, 1), (900.0, 800.0, 700.0), (9.0, 9.0, 9.0))
    stranger = SETTINGS.step_evidence(said, [FULL, other], STEP, None)
    assert stranger is not None
    assert stranger[0, 2, 1] > 3


def test_the_mirror_of_a_step_says_the_same() -> None:
    said = np.array([answers(120), answers(20)])
    change = told(0.3, 0.3)
    ahead = SETTINGS.step_evidence(said, [FULL, SMALL], STEP, change)
    back = SETTINGS.step_evidence(said[::-1], [SMALL, FULL], STEP, mirrored(change))
    assert ahead is not None
    assert back is not None
    assert ahead[0] == pytest.approx(back[0].T)


def test_what_a_record_alone_made_of_a_count_is_not_counted_twice() -> None:
    """Given a right record, a count has the mean over its contents, in place of the own ones."""
    said = np.array([answers(120, 0.3), answers(30, 0.3)])
    other = RecordedItems((1, 1), (40.0, 3.0), (1.0, 1.0))
    found = SETTINGS.step_evidence(said, [FULL, other], STEP, None)
    assert found is not None
    photo = np.full((1, 3), 1 / 3)
    alone = counts_with_items(photo, item_evidence(said[1:], [other], USUAL), Powers(1, 1, 1, 1))
    given = counts_with_items(photo, item_evidence(said[1:], [FULL], USUAL), Powers(1, 1, 1, 1))
    both = alone[0] * np.exp(found[0, 2])
    # Of two counts that are not the second record's, the first record alone decides.
    assert both[0] / both[2] == pytest.approx(given[0, 0] / given[0, 2])


def test_a_photo_between_two_visits_counts_once() -> None:
    said = np.array([answers(120, 0.3), answers(30, 0.3), answers(120, 0.3)])
    other = RecordedItems((1, 1), (40.0, 3.0), (1.0, 1.0))
    alone = SETTINGS.step_evidence(said, [FULL, other], STEP, None)
    chain = np.array([[0, 1], [1, 2]])
    both = SETTINGS.step_evidence(said, [FULL, other, FULL], chain, None)
    assert alone is not None
    assert both is not None
    assert both[0, 2] + both[1, :, 2] == pytest.approx(alone[0, 2])


def test_visits_of_which_little_is_known_say_nothing() -> None:
    said = np.array([answers(120), answers(20)])
    unseen = said.copy()
    unseen[1] = np.nan
    no_change = np.full((1, 2), np.nan)
    for records, seen in (([FULL, NO_ITEMS], said), ([NO_ITEMS, SMALL], said)):
        found = SETTINGS.step_evidence(seen, records, STEP, no_change)
        assert found is not None
        assert (found == 0).all()
    many = RecordedItems((40,), (1.0,), (1.0,))  # no model counts so far
    found = SETTINGS.step_evidence(said, [FULL, many], STEP, told(0.5))
    assert found is not None
    assert (found == 0).all()
    # Without a photo of one visit, what is known of it still says something of the other.
    found = SETTINGS.step_evidence(unseen, [FULL, SMALL], STEP, no_change)
    assert found is not None
    assert np.isfinite(found).all()
    assert (found[0, 2, [0, 2]] == 0).all()
    assert (found[0, [0, 1], 1] != 0).any()
    assert ItemSettings(3).step_evidence(said, [FULL, SMALL], STEP, None) is None


def test_usual_changes_are_those_of_the_records_both_ways() -> None:
    generator = np.random.default_rng(0)
    columns = generator.integers(0, 3, (400, 2))
    times = (columns[:, 1] - columns[:, 0]) * 0.5 + generator.normal(0, 0.2, 400)
    times[:20] = np.nan
    found = usual_changes(times, columns, COUNTS)
    assert found is not None
    means, spreads = np.array(found.means), np.array(found.spreads)
    assert means == pytest.approx(-means.T)
    assert spreads == pytest.approx(spreads.T)
    assert means[0] == pytest.approx([0, 0.5, 1.0], abs=0.08)
    assert spreads[0, 1] == pytest.approx(0.2, abs=0.04)
    assert usual_changes(times[:22], columns[:22], COUNTS) is None


def test_a_changed_record_is_the_record_but_for_what_went_or_came() -> None:
    generator = np.random.default_rng(0)
    others = [NO_ITEMS, RecordedItems((3,), (7.0,), (1.0,)), RecordedItems((1,), (8.0,), (2.0,))]
    fewer = changed_record(FULL, 2, others, generator)
    assert fewer.count == 2
    assert {*fewer.volumes} <= {*FULL.volumes}
    more = changed_record(FULL, 5, others, generator)
    assert more == RecordedItems((2, 1, 1, 1), (10.0, 100.0, 7.0, 8.0), (0.5, 2.0, 1.0, 2.0))
    assert changed_record(NO_ITEMS, 2, others, generator) == NO_ITEMS
