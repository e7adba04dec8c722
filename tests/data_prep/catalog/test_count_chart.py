import io

import numpy as np
import pytest
from PIL import Image

from catalog.count_chart import draw_counts

SPLITS = {"train": {1: 900, 2: 1700}, "validation": {1: 100}, "test": {2: 190, 3: 5}}


def pixels(series: dict[str, dict[int, int]]) -> np.ndarray:
    with Image.open(io.BytesIO(draw_counts(series, "Bins"))) as chart:
        assert chart.format == "PNG"
        return np.asarray(chart.convert("RGB"))


def area(chart: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((chart == np.array(colour)).all(axis=2).sum())


BLUE, ORANGE, GREY = (0x44, 0x77, 0xAA), (0xEE, 0x88, 0x66), (0x99, 0x99, 0x99)


def test_each_series_has_bars_as_high_as_its_bins_are_many() -> None:
    chart = pixels(SPLITS)
    # The legend's patches are small beside the bars.
    assert area(chart, BLUE) == pytest.approx(26 * area(chart, ORANGE), rel=0.5)
    assert area(chart, BLUE) == pytest.approx(13 * area(chart, GREY), rel=0.5)


def test_a_single_series_grows_with_its_counts() -> None:
    few, many = pixels({"bins": {1: 10, 2: 1}}), pixels({"bins": {1: 10, 2: 10}})
    assert area(many, BLUE) == pytest.approx(20 / 11 * area(few, BLUE), rel=0.1)


def test_counts_that_few_bins_have_share_a_bar_so_that_the_chart_stays_readable() -> None:
    assert pixels({"bins": dict.fromkeys(range(89), 5)}).shape == (
        pixels({"bins": dict.fromkeys(range(22), 5)}).shape
    )


@pytest.mark.parametrize("series", [{}, {"bins": {}}, {"train": {1: 1}, "test": {}}])
def test_a_chart_of_little_or_nothing_is_drawn_all_the_same(
    series: dict[str, dict[int, int]],
) -> None:
    assert pixels(series).size
