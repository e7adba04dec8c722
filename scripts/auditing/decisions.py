"""From a count's probabilities and a record to a decision: the audit's theory, in pure functions.

What is known of a bin: a photo, which gives a distribution over what it holds, p(c), and a record
r. A record is right with probability 1 - w (w: --wrong_rate), and then r = c; else it is wrong, and
says r with probability q(r | c), the error model. The photo tells nothing of whether somebody
forgot to write something down, so that by Bayes

    P(c | photo, r)  is proportional to  p(c) * ((1 - w) [r = c] + w q(r | c))

and the bin is wrong with probability 1 - P(r | photo, r). This holds where p is calibrated on bins
that hold each count as often as these do. The records themselves say how often that is, since most
of them are right: count_weights learns from them by how much to lean p towards each count.

Where a bin was photographed more than once, P(c | photo, r) is that of visits.chain, given all its
photos and records; all else is the same. The chain takes p as it leans: the weights are learned
first, from each photo and its record alone, since the chain is to know how often these bins hold
each count, and photos that the model has not seen in pairs count there, too. A record is taken to
be wrong whatever the records of other visits are. Somebody who forgot a pick is behind all later
records, so that these err together: what two such records agree in is worth less than is said here.

An audit leaves a number in the inventory for each bin. If it is not what the bin holds, that costs
`missed_error`, sooner or later. There are three things to do:

    ok             leave r                         missed_error * (1 - P(r))
    wrong          write the likeliest other c     missed_error * (1 - P(c))
    check by hand  a person counts                 manual_check, and then the number is right

and the cheapest is done, but that a count is written only where it is certain: P(c) is CERTAINTY at
least. Below, a program that knows little would rewrite right records wherever no check is to be
had, because a count is a little likelier than the recorded one.

A budget is the same rule: to spend a limited number of checks where they save most means to check
the bins where the best answer without a check is wrong most often, which is what one price of a
check would have chosen, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

OK, CHECK, WRONG = "ok", "check by hand", "wrong"
# In this order where they cost the same: the least work first, and rather a person than a guess.
DECISIONS = (OK, CHECK, WRONG)
CERTAINTY = 0.95  # of a count that is to be written without a person's look, whatever that costs
# Chosen on the validation split: less made small audits worse, more learned less from large ones.
PRIOR_BINS = 200
MAX_STEPS, SMALLEST_STEP = 200, 1e-4


@dataclass(frozen=True)
class Costs:
    """In any one currency: an error that stays in the inventory, and a person's look at one bin."""

    missed_error: float
    manual_check: float


def count_posterior(
    probabilities: np.ndarray,
    recorded: np.ndarray,
    record_probabilities: np.ndarray,
    wrong_rate: float,
) -> np.ndarray:
    """Return how likely each count is, once the record is known too.

    Args:
        probabilities: float (num_bins, num_counts), what the photo says; rows sum to 1.
        recorded: int (num_bins,), the column of the recorded count.
        record_probabilities: float (num_counts, num_counts), of ErrorModel.record_probabilities;
            or (num_bins, num_counts, num_counts), where it is known for each bin.
        wrong_rate: share of records that are wrong, above 0 and below 1.

    Returns: float (num_bins, num_counts); rows sum to 1.
    """
    return given(probabilities, record_likelihoods(recorded, record_probabilities, wrong_rate))


def record_likelihoods(
    recorded: np.ndarray, record_probabilities: np.ndarray, wrong_rate: float
) -> np.ndarray:
    """Return how likely each record is where the bin holds each count, (num_bins, num_counts).

    Args: as in count_posterior; a wrong_rate of 1 takes the records for wrong.
    """
    if record_probabilities.ndim == 2:
        of_wrong = record_probabilities[:, recorded].T
    else:
        of_wrong = record_probabilities[np.arange(len(recorded)), :, recorded]
    is_right = np.eye(record_probabilities.shape[-1])[recorded]
    return wrong_rate * of_wrong + (1 - wrong_rate) * is_right


def given(probabilities: np.ndarray, likelihoods: np.ndarray) -> np.ndarray:
    """Return distributions over counts, (num_bins, num_counts), given something else: Bayes."""
    joint = probabilities * likelihoods
    return joint / joint.sum(axis=1, keepdims=True)


def count_weights(
    probabilities: np.ndarray,
    recorded: np.ndarray,
    record_probabilities: np.ndarray,
    wrong_rate: float,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Return how much more often these bins hold each count than the photos alone say.

    The weights of the greatest likelihood of all records together, which expectation maximization
    and iterative scaling find: with them the photos say each count as often as photos and records
    do. PRIOR_BINS further bins, of which the photos are right, keep a small audit from leaning on
    few records. Source of the idea for labels that are known: Saerens et al., Adjusting the outputs
    of a classifier to new a priori probabilities, Neural Computation 2002.

    Args: as in count_posterior, and
        start: (num_counts,), weights that may be near those looked for.

    Returns: float (num_counts,), to be given to `reweighted`.
    """
    weights = np.ones(probabilities.shape[1]) if start is None else start
    if len(probabilities) == 0:
        return weights
    prior = PRIOR_BINS * probabilities.mean(axis=0)
    for _ in range(MAX_STEPS):
        leaning = reweighted(probabilities, weights)
        known = count_posterior(leaning, recorded, record_probabilities, wrong_rate).sum(axis=0)
        thought = leaning.sum(axis=0) * (1 + PRIOR_BINS / len(probabilities))
        # A count that no photo allows at all stays impossible.
        step = np.divide(known + prior, thought, out=np.ones_like(weights), where=thought > 0)
        weights = weights * step
        if np.abs(np.log(step)).max() < SMALLEST_STEP:
            break
    return weights


def reweighted(probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return distributions over counts, (num_bins, num_counts), that lean as `weights` say."""
    weighted = probabilities * weights
    return weighted / weighted.sum(axis=1, keepdims=True)


def wrong_probability(posterior: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return how likely each record is wrong, (num_bins,).

    A sum of what speaks against the record: 1 - P(record) would round small ones away.
    """
    against = posterior.copy()
    against[np.arange(len(recorded)), recorded] = 0.0
    return against.sum(axis=1)


def expected_costs(posterior: np.ndarray, recorded: np.ndarray, costs: Costs) -> np.ndarray:
    """Return what each decision costs on average, (num_bins, 3), in the order of DECISIONS.

    Infinite where a count would be written that is not certain.
    """
    others = posterior.copy()
    others[np.arange(len(recorded)), recorded] = 0.0
    ok = costs.missed_error * others.sum(axis=1)
    likeliest = others.max(axis=1)
    wrong = np.where(likeliest >= CERTAINTY, costs.missed_error * (1 - likeliest), np.inf)
    return np.column_stack([ok, np.full(len(posterior), costs.manual_check), wrong])


def decide(costs_of_decisions: np.ndarray) -> np.ndarray:
    """Return the cheapest decision of each bin, int (num_bins,), an index into DECISIONS."""
    return costs_of_decisions.argmin(axis=1)


def risk_without_check(posterior: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Return how often the best answer without a check is wrong, (num_bins,)."""
    return expected_costs(posterior, recorded, Costs(1.0, np.inf)).min(axis=1)


def spend_budget(risk: np.ndarray, review_budget: float) -> np.ndarray:
    """Return which bins to check with a limited number of checks: those of the largest risk.

    Args:
        risk: float (num_bins,), of risk_without_check.
        review_budget: share of the bins, 0 to 1; the number of checks is rounded down.

    Returns: bool (num_bins,). Of bins of the same risk the earlier ones are taken, and none
        without a risk.
    """
    num_checks = int(review_budget * len(risk) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    chosen = np.zeros(len(risk), dtype=bool)
    chosen[np.argsort(-risk, kind="stable")[:num_checks]] = True
    return chosen & (risk > 0)


def corrected_count(
    posterior: np.ndarray, recorded: np.ndarray, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest count other than the recorded one, int (num_bins,), items; and how
    likely it is, float (num_bins,).
    """
    others = posterior.copy()
    others[np.arange(len(recorded)), recorded] = -1.0
    return np.asarray(counts)[others.argmax(axis=1)], np.maximum(others.max(axis=1), 0.0)


def count_interval(
    probabilities: np.ndarray, counts: Sequence[int], coverage: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the central interval that holds the count with some probability.

    Args:
        probabilities: float (num_bins, num_counts); rows sum to 1.
        coverage: 0.9 leaves at most 5 % on each side.

    Returns: int (num_bins,) each, items.
    """
    cumulative = probabilities.cumsum(axis=1)
    cumulative = cumulative / cumulative[:, -1:]
    tail = (1 - coverage) / 2
    low = (cumulative > tail).argmax(axis=1)
    high = (cumulative >= 1 - tail).argmax(axis=1)
    return np.asarray(counts)[low], np.asarray(counts)[high]
