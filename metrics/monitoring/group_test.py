"""Have two samples of photos come from one source? A test that knows that photos come in groups.

The distance is that of Kolmogorov and Smirnov: the largest difference between the shares of photos
whose value is at most x, over all x. How large it is by chance is found by drawing: both samples as
whole bin groups of the reference, each as large as it is. Tables of the distance take photos for
independent, which those of one bin are not, and values for different, which counts are not.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp

NUM_DRAWS = 9_999
SEED = 0
AT_ONCE = 20_000_000  # numbers that are drawn at once: 160 MB


@dataclass(frozen=True)
class Difference:
    """How far a statistic of the observed photos lies from that of the reference.

    Args:
        distance: share of photos, 0 to 1.
        at: where it is that large: of the photos up to here and here.
        shares: of the reference and of the observed photos up to there.
        p_value: how often chance makes it as large.
        by_chance: float (NUM_DRAWS,), sorted distances of chance.
    """

    distance: float
    at: float
    shares: tuple[float, float]
    p_value: float
    by_chance: np.ndarray


def difference(
    reference: np.ndarray, group: np.ndarray, observed: np.ndarray, num_draws: int = NUM_DRAWS
) -> Difference:
    """Hold observed values against the reference's.

    The groups of the observed photos need not be known: they are taken to be like the reference's.

    Args:
        reference: float (num_reference,).
        group: (num_reference,), the name of each bin's group.
        observed: float (num_observed,).
    """
    found = ks_2samp(reference, observed, method="asymp")
    at = float(found.statistic_location)
    by_chance = chance_distances(reference, group, len(observed), num_draws)
    # Sums in another order differ in the last digits, and distances of counts are often equal.
    as_large = np.count_nonzero(by_chance >= found.statistic - 1e-9)
    return Difference(
        distance=float(found.statistic),
        at=at,
        shares=(float(np.mean(reference <= at)), float(np.mean(observed <= at))),
        p_value=(1 + as_large) / (1 + num_draws),
        by_chance=np.sort(by_chance),
    )


def chance_distances(
    values: np.ndarray, group: np.ndarray, num_observed: int, num_draws: int
) -> np.ndarray:
    """Return the distances of pairs of samples that both come as the reference did, (num_draws,).

    A group is in a sample as often as a Poisson number says. Source: Chamandy et al., Estimating
    uncertainty for massive data streams, Google, 2012.
    """
    _, index = np.unique(group, return_inverse=True)
    num_groups = int(index.max()) + 1
    order = np.argsort(values, kind="stable")
    is_last = np.append(np.diff(values[order]) > 0, True)  # of equal values
    generator = np.random.default_rng(SEED)

    def shares(rate: float, size: int) -> np.ndarray:
        """Return the share of each photo in some samples, (size, num_photos), by value."""
        weights = generator.poisson(rate, size=(size, num_groups))[:, index[order]]
        return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1)

    size = max(1, AT_ONCE // len(values))
    distances = []
    for start in range(0, num_draws, size):
        drawn = min(size, num_draws - start)
        apart = shares(1.0, drawn) - shares(num_observed / len(values), drawn)
        distances.append(np.abs(apart.cumsum(axis=1)[:, is_last]).max(axis=1))
    return np.concatenate(distances)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Return p-values such that one below alpha is an error in a share alpha of all families.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.

    Args:
        p_values: float (num_tests,), of one family.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
    return adjusted
