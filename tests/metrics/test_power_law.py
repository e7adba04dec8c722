import numpy as np
import pytest

from power_law import EXPONENTS, fitted_laws

SIZES = np.array([950, 1_900, 3_800, 5_100])


@pytest.mark.parametrize("exponent", EXPONENTS[[10, 40, 60]])
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_a_law_is_found_again(exponent: float, floor: float) -> None:
    errors = floor + 2.5 * SIZES**-exponent
    laws = fitted_laws(SIZES, errors[None], np.ones(4))
    assert laws.exponent[0] == pytest.approx(exponent)
    assert laws.floor[0] == pytest.approx(floor, abs=1e-6)
    assert laws.at(np.array([200_000]))[0, 0] == pytest.approx(
        floor + 2.5 * 200_000**-exponent, abs=1e-6
    )


def test_no_part_of_a_law_is_negative() -> None:
    """A line on paper would have a floor below 0, errors that grow a negative slope."""
    steep = 2.0 - 0.15 * np.log(SIZES)
    growing = np.array([1.0, 1.1, 1.2, 1.3])
    laws = fitted_laws(SIZES, np.stack([steep, growing]), np.ones(4))
    assert (laws.floor >= 0).all()
    assert laws.scale.tolist()[1] == 0.0
    assert np.isnan(laws.exponent[1])
    assert laws.floor[1] == pytest.approx(growing.mean())
    assert (laws.at(np.array([10**9])) >= 0).all()


def test_what_more_runs_say_weighs_more() -> None:
    errors = np.array([[1.0, 0.9, 0.8, 0.9]])
    near = fitted_laws(SIZES, errors, np.array([1, 1, 1, 100])).at(SIZES)[0, 3]
    far = fitted_laws(SIZES, errors, np.array([100, 100, 100, 1])).at(SIZES)[0, 3]
    assert abs(near - 0.9) < 0.01 < abs(far - 0.9)
