"""How many of the records are wrong, as the records and the photos themselves say.

For each rate w the records have a likelihood: that of record r of a bin is

    (1 - w) p(r) + w * (sum over c of p(c) q(r | c))

with p and q as in decisions.py, and p leaning as count_weights makes it for this w. A model that
sees nothing in the photos gives each w nearly the same likelihood: then little is learned, and what
was believed before is most of what is left. That is Beta(1, 19), of mean DEFAULT_WRONG_RATE. The
mean of what is likely is taken: with few records, or a poor model, it is near what was believed,
with many the records' own. (To take what was believed until the interval is narrow cost calibration
on the validation split: an error of 4.2 % against 1.2 %, where 10 % of the records of its real
pairs were wrong.) It is as right as p is calibrated for these bins, and q for these records: photos
that the model counts badly and is sure of look like wrong records.
"""

from dataclasses import dataclass

import numpy as np

from auditing.decisions import PRIOR_BINS, count_weights, record_likelihoods, reweighted

DEFAULT_WRONG_RATE = 0.05
BELIEF = 1 / DEFAULT_WRONG_RATE - 2  # the exponent of 1 - w in Beta(1, 19)
LOWEST, HIGHEST = 1e-3, 0.5  # above a half, nobody would call it a record
NUM_COARSE, NUM_FINE, NUM_SHOWN = 16, 24, 1000  # rates: two rounds of asking, and between them
IRRELEVANT = 8.0  # less likely than the likeliest by this logarithm
TELLING = 0.087  # half the width of the interval of Beta(1, 19)


@dataclass(frozen=True)
class WrongRate:
    """The share of the records that are wrong, 0 to 1.

    Args:
        low, high: 95 % of what is likely; None for a rate that a person gave.
        is_learned: whether the records say clearly more than was believed before.
    """

    value: float
    low: float | None = None
    high: float | None = None
    is_learned: bool = False


def estimate_wrong_rate(
    probabilities: np.ndarray, recorded: np.ndarray, record_probabilities: np.ndarray
) -> WrongRate:
    """Return the rate that records and photos speak for, with 95 % of what is likely around it.

    The interval takes bins for independent; where several rows show one bin it is too narrow.

    Args: as in decisions.count_posterior.
    """

    def log_posteriors(rates: np.ndarray) -> np.ndarray:
        weights, found = None, []
        for rate in rates.tolist():
            given = (probabilities, recorded, record_probabilities, rate)
            weights = count_weights(*given, start=weights)
            found.append(log_likelihood(*given, weights) + BELIEF * np.log1p(-rate))
        return np.array(found)

    coarse = np.geomspace(LOWEST, HIGHEST, NUM_COARSE)
    logarithms = log_posteriors(coarse)
    likely = np.flatnonzero(logarithms > logarithms.max() - IRRELEVANT)
    first, last = coarse[max(likely[0] - 1, 0)], coarse[min(likely[-1] + 1, NUM_COARSE - 1)]
    fine = np.geomspace(first, last, NUM_FINE)
    rates = np.geomspace(first, last, NUM_SHOWN)
    logarithms = np.interp(np.log(rates), np.log(fine), log_posteriors(fine))
    # Times the rate: of the same steps in logarithms each is as wide as its rate.
    mass = np.exp(logarithms - logarithms.max()) * rates
    mass /= mass.sum()
    low, high = (float(rates[np.searchsorted(mass.cumsum(), tail)]) for tail in (0.025, 0.975))
    value = float(mass @ rates)
    return WrongRate(value, low, high, is_learned=high - low < max(TELLING, value))


def log_likelihood(
    probabilities: np.ndarray,
    recorded: np.ndarray,
    record_probabilities: np.ndarray,
    wrong_rate: float,
    weights: np.ndarray,
) -> float:
    """Return the logarithm of what count_weights makes as large as it can.

    Args: as in count_posterior; weights: (num_counts,), of count_weights.
    """
    if len(recorded) == 0:
        return 0.0
    leaning = reweighted(probabilities, weights)
    rows = np.arange(len(recorded))
    wrong = (leaning * record_likelihoods(recorded, record_probabilities, 1.0)).sum(axis=1)
    of_records = np.log((1 - wrong_rate) * leaning[rows, recorded] + wrong_rate * wrong).sum()
    possible = probabilities > 0
    logarithms = np.log(leaning, out=np.zeros_like(leaning), where=possible)
    return float(of_records + PRIOR_BINS * (probabilities * logarithms).sum() / len(recorded))
