"""The test knows chance: on halves of drawn and of real bins it alarms as often as it says."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binom, ks_2samp

from dataset_builds import all_rows, build
from monitoring.group_test import difference, holm
from monitoring.photo_statistics import photo_statistics
from paths import real_path

NUM_DRAWS = 499


def test_p_values_of_a_family_are_those_of_r() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    adjusted = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]


@pytest.mark.parametrize("shift", [0.05, 0.1, 0.2])
def test_where_each_photo_is_a_group_of_its_own_it_is_the_test_of_kolmogorov_and_smirnov(
    shift: float,
) -> None:
    generator = np.random.default_rng(3)
    before, now = generator.normal(size=500), generator.normal(shift, size=800)
    found = difference(before, np.arange(500), now, 4999)
    expected = ks_2samp(before, now, method="asymp")
    assert found.distance == expected.statistic
    assert found.p_value == pytest.approx(expected.pvalue, rel=0.25, abs=0.01)


def test_the_place_and_the_shares_there_are_told() -> None:
    before, now = np.repeat([1.0, 2.0, 3.0], [20, 10, 10]), np.repeat([1.0, 2.0, 3.0], [10, 10, 20])
    found = difference(before, np.arange(40), now, 99)
    assert (found.distance, found.at) == (0.25, 1)
    assert found.shares == (0.5, 0.25)


def test_photos_of_one_group_are_not_taken_for_so_many_bins() -> None:
    """Of pairs of equal photos half tell nothing new: chance alone moves them further."""
    generator = np.random.default_rng(5)
    num_alarms = num_alarms_without_groups = 0
    for _ in range(300):
        before, now = (np.repeat(generator.normal(size=100), 2) for _ in range(2))
        group = np.repeat(np.arange(100), 2)
        num_alarms += difference(before, group, now, NUM_DRAWS).p_value <= 0.1
        num_alarms_without_groups += ks_2samp(before, now, method="asymp").pvalue <= 0.1
    low, high = binom.ppf([0.001, 0.999], 300, 0.1)
    assert low <= num_alarms <= high
    assert num_alarms_without_groups > high


def statistics_of(dataset_dir: Path, image_size: int) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """Return all photos' statistics, float (num_photos, 4), their groups, and the photos."""
    rows = all_rows(dataset_dir)
    photos = [row["image"]["bytes"] for row in rows]
    values = np.array([photo_statistics(photo, image_size) for photo in photos])
    return values, np.array([row["bin_group"] for row in rows]), photos


def family_p_values(
    before: np.ndarray,
    now: np.ndarray,
    group: np.ndarray,
    num_halves: int,
    knows_groups: bool = True,
) -> np.ndarray:
    """Return the smallest p-value of each of many splits in halves, of whole groups.

    Args:
        before, now: float (num_photos, num_statistics), of the same photos; one half is taken from
            the one, the other from the other.
        knows_groups: whether the test is told of them, or takes each photo for a group.
    """
    generator = np.random.default_rng(7)
    names = np.unique(group)
    smallest = []
    for _ in range(num_halves):
        is_before = np.isin(group, generator.permutation(names)[: len(names) // 2])
        pairs = zip(before[is_before].T, now[~is_before].T, strict=True)
        known = group[is_before] if knows_groups else np.arange(is_before.sum())
        found = [difference(one, known, other, NUM_DRAWS) for one, other in pairs]
        smallest.append(holm(np.array([one.p_value for one in found])).min())
    return np.array(smallest)


def darker(photo: bytes, factor: float) -> bytes:
    """Return a photo of which so much light is left."""
    with Image.open(io.BytesIO(photo)) as opened:
        pixels = opened.convert("RGB").point(lambda value: int(factor * value))
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_halves_of_one_dataset_alarm_as_often_as_alpha_says_and_darker_ones_nearly_always(
    dataset_dir: Path,
) -> None:
    values, group, photos = statistics_of(dataset_dir, 32)
    found = family_p_values(values, values, group, 200)
    for alpha in (0.1, 0.2):
        # Holm's is a bound, and a little below it where statistics go together.
        assert np.count_nonzero(found <= alpha) <= binom.ppf(0.999, 200, alpha)
        assert np.count_nonzero(found <= alpha) >= binom.ppf(0.001, 200, alpha / 3)
    dark = np.array([photo_statistics(darker(photo, 0.8), 32) for photo in photos])
    assert np.mean(family_p_values(values, dark, group, 40) <= 0.05) > 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_halves_of_real_bins_alarm_as_often_as_alpha_says(tmp_path: Path) -> None:
    """Prints what docs/metrics.md says of it."""
    flags = ("--max_bins", "1600", "--image_size", "224")
    values, group, photos = statistics_of(build(real_path("abid"), tmp_path / "bins", *flags), 224)
    print(f"\n{len(group):,} photos, {len(np.unique(group)):,} groups, 200 halves")
    found = family_p_values(values, values, group, 200)
    unaware = family_p_values(values, values, group, 200, knows_groups=False)
    for alpha in (0.01, 0.05, 0.1):
        alarms, others = (np.count_nonzero(one <= alpha) for one in (found, unaware))
        print(f"alpha {alpha}: {alarms / 200:.1%} alarm, {others / 200:.1%} without groups")
        assert binom.ppf(0.001, 200, alpha / 3) <= alarms <= binom.ppf(0.999, 200, alpha)
    for factor in (0.97, 0.95):
        dark = np.array([photo_statistics(darker(photo, factor), 224) for photo in photos])
        power = np.mean(family_p_values(values, dark, group, 50) <= 0.01)
        print(f"{factor} of the light: {power:.0%} are found at alpha 0.01")
    assert power > 0.8
