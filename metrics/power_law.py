"""How an error falls with the number of training photos: a power law above a floor.

error(n) = floor + scale * n ** -exponent. Source: Rosenfeld et al., A constructive prediction of
the generalization error across scales, ICLR 2020. A few sizes hardly tell a low floor from a low
exponent: a law is worth something only with what else would fit as well.
"""

from dataclasses import dataclass

import numpy as np

# Networks that learn from photos are found between 0.07 and 0.5: Hestness et al., Deep learning
# scaling is predictable, empirically, 2017.
EXPONENTS = np.geomspace(0.03, 1.0, 71)


@dataclass(frozen=True)
class PowerLaws:
    """Several laws side by side, each of them float (num_laws,)."""

    floor: np.ndarray
    scale: np.ndarray  # the error above the floor with one photo
    exponent: np.ndarray  # NaN where nothing falls

    def at(self, num_photos: np.ndarray) -> np.ndarray:
        """Return the errors with these numbers of photos, (num_laws, num_sizes)."""
        sizes = np.asarray(num_photos, dtype=float)
        falls = self.scale[:, None] * sizes ** -self.exponent[:, None]
        return self.floor[:, None] + np.where(self.scale[:, None] == 0, 0.0, falls)


def fitted_laws(num_photos: np.ndarray, errors: np.ndarray, weights: np.ndarray) -> PowerLaws:
    """Return the law that is nearest to each row of errors, by least squares.

    For a given exponent a law is a straight line, so all of EXPONENTS are tried: no start is to be
    guessed, and no minimum is missed.

    Args:
        num_photos: (num_sizes,), at least three different ones.
        errors: float (num_laws, num_sizes), 0 or more.
        weights: (num_sizes,), of the squares, such as how many runs an error is the mean of.
    """
    smallest = num_photos.min()
    best = np.full(len(errors), np.inf)
    law = np.zeros((3, len(errors)))
    for exponent in EXPONENTS:
        falls = (num_photos / smallest) ** -exponent
        for floor, scale in _lines(falls, errors, weights):
            away = errors - floor[:, None] - scale[:, None] * falls
            squares = np.where((floor >= 0) & (scale >= 0), away**2 @ weights, np.inf)
            is_better = squares < best
            best = np.where(is_better, squares, best)
            found = np.stack([floor, scale * smallest**exponent, np.full(len(errors), exponent)])
            law = np.where(is_better, found, law)
    floors, scales, exponents = law
    return PowerLaws(floors, scales, np.where(scales == 0, np.nan, exponents))


def _lines(
    falls: np.ndarray, errors: np.ndarray, weights: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return floor and scale of the straight lines among which the best one is.

    The free one; and where a part of it is negative, one of those without a floor or without a
    slope. Each (num_laws,).
    """
    share = weights / weights.sum()
    mean_fall, mean_error = falls @ share, errors @ share
    away = falls - mean_fall
    slope = errors @ (share * away) / (away**2 @ share)
    through_zero = errors @ (share * falls) / (falls**2 @ share)
    none = np.zeros(len(errors))
    return [
        (mean_error - slope * mean_fall, slope),
        (none, through_zero),
        (mean_error, none),
    ]
