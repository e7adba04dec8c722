import math
from typing import Any

import numpy as np
import pytest

from auditing.item_hints import item_hints
from items.evidence import BELIEVED
from items.settings import ItemSettings
from items.sizes import SIZES
from usual_items import USUAL

SETTINGS = ItemSettings(max_distinct=3, usual=USUAL, powers=BELIEVED)
ONE_GONE = np.array([0.05, 0.85, 0.1])


def said(volume: float, distinct: list[float], spread: float = 0.2) -> np.ndarray:
    """Return what item heads say of a photo."""
    means = [math.log(volume) if name == "volume" else 0.5 for name in SIZES]
    return np.array([*means, *[math.log(spread)] * len(SIZES), *np.log(distinct)])


def item(name: str, quantity: int | None, volume: float | None) -> dict[str, Any]:
    return {"name": name, "quantity": quantity, "volume": volume, "weight": None}


BOXES = [item("Bolt", 2, 10.0), item("Nothing", 0, 9.0), item("Lamp", 1, 100.0)]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (120, ""),
        (90, ""),
        (60, "looks like half the volume of what should be there"),
        (28, "looks like a quarter of the volume of what should be there"),
        (230, "looks like twice the volume of what should be there"),
        (1100, "looks like ten times the volume of what should be there"),
        (5e6, "looks like far more than ten times the volume of what should be there"),
    ],
)
def test_a_volume_that_does_not_fit_is_said_in_words(volume: float, words: str) -> None:
    hints = item_hints(said(volume, [0.2, 0.6, 0.2]), 3, BOXES, None, SETTINGS)
    assert hints is not None
    assert hints.words == words
    assert (hints.recorded_volume, hints.missing) == (120.0, (None, None, None))
    assert hints.low < hints.seen_volume < hints.high
    assert hints.seen_volume == pytest.approx(volume)
    assert hints.high / hints.seen_volume == pytest.approx(math.exp(1.6449 * 0.2))


def test_kinds_of_items_that_do_not_fit_are_said_too() -> None:
    hints = item_hints(said(60, [0.95, 0.04, 0.01]), 3, BOXES, None, SETTINGS)
    assert hints is not None
    assert hints.words == (
        "looks like half the volume of what should be there and like one kind of item where the "
        "record names 2"
    )


def test_the_item_that_explains_what_is_missing_is_named() -> None:
    hints = item_hints(said(20, [0.8, 0.1, 0.1]), 3, BOXES, ONE_GONE, SETTINGS)
    assert hints is not None
    bolt, nothing, lamp = hints.missing
    assert nothing is None
    assert lamp is not None
    assert bolt is not None
    assert lamp > 0.8 > bolt
    assert BOXES[hints.likeliest_missing or 0]["name"] == "Lamp"
    small = item_hints(said(110, [0.1, 0.8, 0.1]), 3, BOXES, ONE_GONE, SETTINGS)
    assert small is not None
    assert small.likeliest_missing == 0


@pytest.mark.parametrize(
    "items", [[], [item("Bolt", None, 10.0)], [item("Bolt", 2, 10.0)], [item("Bolt", -3, 10.0)]]
)
def test_of_items_that_are_not_the_records_nothing_is_said(items: list[dict[str, Any]]) -> None:
    assert item_hints(said(20, [0.8, 0.1, 0.1]), 3, items, ONE_GONE, SETTINGS) is None


def test_lines_of_one_name_are_one_item() -> None:
    items = [item("Bolt", 1, 10.0), item("Lamp", 1, 100.0), item("Bolt", 1, 10.0)]
    lines = item_hints(said(20, [0.8, 0.1, 0.1]), 3, items, ONE_GONE, SETTINGS)
    whole = item_hints(said(20, [0.8, 0.1, 0.1]), 3, BOXES, ONE_GONE, SETTINGS)
    assert lines is not None
    assert whole is not None
    assert lines.words == whole.words
    assert lines.missing == (whole.missing[0], whole.missing[2], whole.missing[0])


def test_lines_that_cancel_one_another_are_no_item() -> None:
    items = [*BOXES, item("Nut", 1, 5.0), item("Nut", -1, 5.0)]
    hints = item_hints(said(20, [0.8, 0.1, 0.1]), 3, items, ONE_GONE, SETTINGS)
    assert hints is not None
    assert hints.missing[3:] == (None, None)


def test_items_without_a_size_have_no_volume_and_can_still_be_missing() -> None:
    items = [item("Bolt", 2, None), item("Lamp", 1, 100.0)]
    hints = item_hints(said(20, [0.8, 0.1, 0.1]), 3, items, ONE_GONE, SETTINGS)
    assert hints is not None
    assert math.isnan(hints.recorded_volume)
    assert "volume" not in hints.words
    assert sum(share or 0 for share in hints.missing) > 0.8


def test_a_model_that_holds_records_against_nothing_names_nothing_missing() -> None:
    hints = item_hints(said(20, [0.8, 0.1, 0.1]), 3, BOXES, ONE_GONE, ItemSettings(3))
    assert hints is not None
    assert hints.words.startswith("looks like a fifth of the volume")
    assert hints.likeliest_missing is None
