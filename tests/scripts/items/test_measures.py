import numpy as np
import pytest

from items.measures import distinct_items, fitted_spread_factors, item_figures
from items.sizes import SIZES

MAX_DISTINCT = 3


def drawn(
    num_photos: int, off: float, said: float, missing: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Return answers and targets: means are `off` by one standard deviation, and `said` to be."""
    generator = np.random.default_rng(0)
    sizes = generator.normal(5, 2, (num_photos, len(SIZES)))
    means = sizes + generator.normal(0, off, sizes.shape)
    distinct = generator.integers(1, MAX_DISTINCT + 1, num_photos)
    logits = 9.0 * (np.arange(MAX_DISTINCT) == distinct[:, None] - 1)
    sizes[generator.random(sizes.shape) < missing] = np.nan
    answers = np.hstack([means, np.full_like(means, np.log(said)), logits])
    return answers, np.column_stack([sizes, distinct])


def test_figures_say_how_much_is_told_and_how_honest_the_spread_is() -> None:
    honest = item_figures(*drawn(20_000, off=1.0, said=1.0))
    assert set(honest) == {
        *(f"{name}_{figure}" for name in SIZES for figure in ("r2", "covered")),
        "distinct_accuracy",
    }
    assert honest["distinct_accuracy"] == 1
    for name in SIZES:
        assert honest[f"{name}_r2"] == pytest.approx(0.75, abs=0.01)
        assert honest[f"{name}_covered"] == pytest.approx(0.9, abs=0.01)
    too_sure = item_figures(*drawn(20_000, off=1.0, said=0.5))
    assert too_sure["volume_r2"] == honest["volume_r2"]
    assert too_sure["volume_covered"] == pytest.approx(0.59, abs=0.01)


def test_fitted_spreads_are_honest() -> None:
    answers, targets = drawn(20_000, off=1.0, said=0.4)
    factors = fitted_spread_factors(answers, targets)
    assert factors == pytest.approx(np.full(len(SIZES), 2.5), abs=0.05)
    answers[:, len(SIZES) : 2 * len(SIZES)] += np.log(factors)
    assert item_figures(answers, targets)["weight_covered"] == pytest.approx(0.9, abs=0.01)


def test_what_nobody_knows_has_no_figures() -> None:
    answers, targets = drawn(50, off=1.0, said=1.0)
    targets[:, :-1] = np.nan
    assert item_figures(answers, targets) == {"distinct_accuracy": 1.0}
    assert fitted_spread_factors(answers, targets).tolist() == [1.0] * len(SIZES)
    targets[:, -1] = [MAX_DISTINCT + 1, np.nan] * 25
    assert item_figures(answers, targets) == {}
    assert len(distinct_items(answers, targets)[1]) == 0
