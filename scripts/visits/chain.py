"""What a bin holds, given all of its visits: the theory of counting with visits, in pure functions.

The counts of a bin's visits, c_1 to c_n, are a chain: each is known through what its own photo
shows and through what happened since the visit before. Of a visit there may be

    p(c)    what its photo says, a distribution over counts
    r(c)    how likely its record is where the bin holds c: an error model; 1 for one count alone
            where somebody has counted by hand, the same for all where there is no record

and of a step from one visit to the next

    h(d)    what the two photos say of the change d, a distribution over changes
    u(c, d) how often a bin that holds c changes by d, as records have shown it

Any of them may be missing: it is 1 then, whatever the count. Photos are looked at twice, once alone
and once in pairs, and h knows already how often each change is; so the three are weighted (a
logarithmic pool), and the chain is a conditional random field:

    P(c_1 .. c_n)  is proportional to  product of  p(c_t)^a r(c_t)  and of  s(c_t, c_t+1)
    s(c, c')  =  h(c' - c)^b u(c, c')^g  where the count has changed

The weights are those of the greatest likelihood on the validation split (`fit_weights`), which is
concave where counts have changed, and so has one greatest value. A visit that is alone keeps what
its photo says, p(c) r(c). Forward and backward sums give each visit's distribution given all of
them. Sources: Lafferty, McCallum and Pereira, Conditional random fields, ICML 2001; Rabiner, A
tutorial on hidden Markov models, 1989.

A visit that nothing happened since (d = 0) hardly occurs in the photos that all this was learned
from. How often it is so, a user knows and this project does not: the rate is what h and u have for
d = 0 (`with_unchanged_rate`, `usual_steps`), and it is not weighted. s(c, c) is what the changes of
a count have on average, times the odds of that rate, times what h says beyond these odds, to the
power of b.

What the records name beside a count may speak for counts at both visits of a step, too
(items.steps): it counts as much as a photo.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from likeliest_weights import likeliest

PRIOR_FORCE = 4.0  # nats, of what is believed before a pair was seen, for a weight off by one
SMALLEST = 1e-12  # of a probability: what nobody has seen is not impossible


@dataclass(frozen=True)
class ChainWeights:
    """How much of each kind of evidence counts: exponents, 0 and more.

    Args:
        photo: of what a visit's own photo says, where the visit is not alone.
        change: of what two photos say of the change between them.
        usual: of how counts usually change.
    """

    photo: float
    change: float
    usual: float


# Before any was fitted: half of everything where photos are looked at twice. Where no two photos
# are compared each is looked at once, and counts whole.
BELIEVED, BELIEVED_WITHOUT_CHANGES = ChainWeights(0.5, 0.5, 0.5), ChainWeights(1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Visits:
    """Photos, and the steps among them. A row has one step to it and one from it at most.

    Args:
        probabilities: float (num_rows, num_counts), what each photo says; rows sum to 1.
        steps: int (num_steps, 2), rows, the earlier one first.
        changes: float (num_steps, num_changes), what both photos say, in the order of
            `possible_changes`; a row of NaN where nothing does.
        counts: (num_counts,), items, increasing.
        others: float (num_steps, num_counts, num_counts), a logarithm: what else speaks for each
            count before, and each after; it counts as much as a photo. None: nothing.
    """

    probabilities: np.ndarray
    steps: np.ndarray
    changes: np.ndarray
    counts: tuple[int, ...]
    others: np.ndarray | None = None


def possible_changes(counts: Sequence[int]) -> tuple[int, ...]:
    """Return every change that counts allow, items, increasing; mirrored it is the same."""
    return tuple(sorted({after - before for before in counts for after in counts}))


def change_columns(counts: Sequence[int]) -> np.ndarray:
    """Return which of `possible_changes` leads from a count to another, int (counts, counts).

    Row: the count before, column: the count after.
    """
    items = np.asarray(counts)
    return np.searchsorted(possible_changes(counts), items[None, :] - items[:, None])


def of_changed(
    logits: np.ndarray, columns: np.ndarray, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs with a change, as if 'unchanged' could not be.

    Args:
        logits: float (num_steps, num_changes). columns: int (num_steps,), the true change's.

    Returns: both of those pairs, float (num_pairs, num_changes - 1) and int (num_pairs,).
    """
    none = possible_changes(counts).index(0)
    changed = columns != none
    columns = columns[changed]
    return np.delete(logits[changed], none, axis=1), columns - (columns > none)


def usual_steps(record_probabilities: np.ndarray, unchanged_rate: float) -> np.ndarray:
    """Return how often a bin goes from a count to another, float (counts, counts); rows sum to 1.

    Args:
        record_probabilities: of ErrorModel: with a zero diagonal, rows sum to 1.
        unchanged_rate: how often nothing has changed from one visit to the next, 0 to 1.
    """
    unchanged = np.eye(len(record_probabilities)) * unchanged_rate
    return unchanged + (1 - unchanged_rate) * record_probabilities


def with_unchanged_rate(
    changes: np.ndarray, counts: Sequence[int], learned_rate: float, unchanged_rate: float
) -> np.ndarray:
    """Return distributions over changes for another share of visits without a change.

    Bayes: the odds of 'unchanged' are multiplied by what the odds of the two rates differ by.

    Args:
        changes: float (num_steps, num_changes).
        learned_rate: the share in training. unchanged_rate: the share here; both 0 to 1.
    """
    none = possible_changes(counts).index(0)
    factor = np.ones(changes.shape[1])
    factor[none] = unchanged_rate / max(learned_rate, SMALLEST)
    others = np.arange(changes.shape[1]) != none
    factor[others] = (1 - unchanged_rate) / max(1 - learned_rate, SMALLEST)
    weighted = np.maximum(changes, SMALLEST) * factor
    return weighted / weighted.sum(axis=1, keepdims=True)


def visit_posteriors(
    visits: Visits,
    weights: ChainWeights,
    usual: np.ndarray,
    records: np.ndarray | None = None,
) -> np.ndarray:
    """Return how likely each count is at each visit, given all visits of its bin.

    Args:
        usual: float (num_counts, num_counts), of `usual_steps`.
        records: float (num_rows, num_counts), how likely what is recorded is for each count: 1
            everywhere where there is no record. Default: no visit has one.

    Returns: float (num_rows, num_counts); rows sum to 1.
    """
    evidence = _evidence(visits, weights, records)
    joint = evidence.copy()  # all there is of a visit that is alone
    if len(visits.steps):
        chains = _chains(visits.steps, len(evidence))
        forward, backward = _messages(*_potentials(visits, weights, usual, evidence, chains))
        is_visit = chains >= 0
        joint[chains[is_visit]] = (forward + backward)[is_visit]
    return np.exp(joint - _log_sum(joint, axis=1)[:, None])


def with_other_photos(
    posteriors: np.ndarray, before: np.ndarray, after: np.ndarray, weights: ChainWeights
) -> np.ndarray:
    """Return posteriors as they were if the photos said something else.

    Args:
        posteriors: float (num_rows, num_counts), each of a visit with other visits, given what all
            photos of its bin say.
        before, after: the same shape, what its own photo said, and what it says instead.
    """
    said, instead = (np.log(np.maximum(each, SMALLEST)) for each in (before, after))
    logarithms = np.log(np.maximum(posteriors, SMALLEST)) + weights.photo * (instead - said)
    return np.exp(logarithms - _log_sum(logarithms, axis=1)[:, None])


def step_joints(visits: Visits, weights: ChainWeights, usual: np.ndarray) -> np.ndarray:
    """Return how likely each two counts are at the two visits of each step, given these two alone.

    Args: as in visit_posteriors.

    Returns: float (num_steps, num_counts, num_counts): before, after; each step sums to 1.
    """
    of_photo = weights.photo * np.log(np.maximum(visits.probabilities, SMALLEST))
    before, after = of_photo[visits.steps[:, 0]], of_photo[visits.steps[:, 1]]
    joint = before[:, :, None] + after[:, None, :] + _of_steps(visits, weights, usual)
    joint -= _log_sum(joint.reshape(-1, joint.shape[1] ** 2), axis=1)[:, None, None]
    return np.exp(joint)


def log_likelihood(
    visits: Visits, weights: ChainWeights, usual: np.ndarray, true: np.ndarray
) -> float:
    """Return the logarithm of how likely the true counts of all visits in steps are, together.

    Args:
        true: int (num_rows,), the column of the count that each visit found.
    """
    evidence = _evidence(visits, weights, None)
    chains = _chains(visits.steps, len(evidence))
    single, pair = _potentials(visits, weights, usual, evidence, chains)
    forward, _ = _messages(single, pair)
    is_visit = chains >= 0
    column = true[np.maximum(chains, 0)]
    of_singles = np.take_along_axis(single, column[:, :, None], axis=2)[:, :, 0]
    first, second = np.nonzero(is_visit[:, 1:])
    of_pairs = pair[first, second, column[first, second], column[first, second + 1]]
    return float((of_singles * is_visit).sum() + of_pairs.sum() - _log_sum(forward[:, -1], 1).sum())


def fit_weights(
    visits: Visits, usual: np.ndarray, true: np.ndarray, *, with_changes: bool = True
) -> ChainWeights:
    """Return the weights under which the true counts are likeliest, none below 0.

    Few visits leave the weights near what is believed before.

    Args:
        true: as in log_likelihood.
        with_changes: whether what photos say of changes counts at all.
    """
    in_steps = np.unique(visits.steps)
    believed = BELIEVED if with_changes else BELIEVED_WITHOUT_CHANGES
    names = ("photo", "change", "usual") if with_changes else ("photo", "usual")
    if len(in_steps) == 0:
        return believed
    prior = np.array([getattr(believed, name) for name in names])
    row_of = np.full(len(visits.probabilities), -1)
    row_of[in_steps] = np.arange(len(in_steps))
    known = Visits(
        visits.probabilities[in_steps], row_of[visits.steps], visits.changes, visits.counts
    )

    def weights_at(point: np.ndarray) -> ChainWeights:
        return replace(believed, **dict(zip(names, point.tolist(), strict=True)))

    def value(point: np.ndarray) -> float:
        likelihood = log_likelihood(known, weights_at(point), usual, true[in_steps])
        return likelihood - PRIOR_FORCE * float(np.square(point - prior).sum())

    return weights_at(likeliest(value, prior))


def _chains(steps: np.ndarray, num_rows: int) -> np.ndarray:
    """Return the rows of each chain in order, int (num_chains, longest), -1 after its end.

    Rows without a step are in none: the longest chain may be long, and most rows are alone.
    """
    following = np.full(num_rows, -1)
    following[steps[:, 0]] = steps[:, 1]
    current = np.setdiff1d(steps[:, 0], steps[:, 1])
    columns = []
    while (current >= 0).any():
        columns.append(current)
        current = np.where(current >= 0, following[current], -1)
    return np.column_stack(columns)


def _evidence(visits: Visits, weights: ChainWeights, records: np.ndarray | None) -> np.ndarray:
    """Return the logarithms of what photo and record of each visit say, (num_rows, num_counts)."""
    is_alone = np.ones(len(visits.probabilities), dtype=bool)
    is_alone[visits.steps.ravel()] = False
    of_photo = np.where(is_alone, 1.0, weights.photo)[:, None]
    evidence = of_photo * np.log(np.maximum(visits.probabilities, SMALLEST))
    if records is not None:
        with np.errstate(divide="ignore"):  # a count that is known leaves no other
            evidence = evidence + np.log(records)
    return evidence


def _potentials(
    visits: Visits,
    weights: ChainWeights,
    usual: np.ndarray,
    evidence: np.ndarray,
    chains: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms of what speaks for each count, and for each two that follow.

    Args:
        evidence: of _evidence. chains: of _chains.

    Returns: float (num_chains, longest, num_counts), and (num_chains, longest - 1, num_counts,
        num_counts): before, after. All counts alike behind a chain's end, which says nothing.
    """
    num_rows, num_counts = evidence.shape
    step_to = np.full(num_rows, -1)
    step_to[visits.steps[:, 1]] = np.arange(len(visits.steps))

    is_visit = chains >= 0
    behind_the_end = -np.log(num_counts)  # so that all counts there make a factor of 1
    singles = np.where(is_visit[:, :, None], evidence[np.maximum(chains, 0)], behind_the_end)
    pairs = np.zeros((*chains[:, 1:].shape, num_counts, num_counts))
    is_later = is_visit[:, 1:]
    pairs[is_later] = _of_steps(visits, weights, usual)[step_to[chains[:, 1:][is_later]]]
    return singles, pairs


def _of_steps(visits: Visits, weights: ChainWeights, usual: np.ndarray) -> np.ndarray:
    """Return the logarithm of what speaks for each two counts at a step, (num_steps, C, C)."""
    num_counts = len(usual)
    columns, none = change_columns(visits.counts), possible_changes(visits.counts).index(0)
    rate = np.clip(usual[0, 0], SMALLEST, 1 - SMALLEST)
    # Both directions are one fact: the geometric mean of what is usual ahead and back.
    of_usual = np.log(np.maximum(np.sqrt(usual * usual.T) / (1 - rate), SMALLEST))
    said = np.clip(visits.changes, SMALLEST, 1.0)
    unchanged = np.clip(said[:, none], SMALLEST, 1 - SMALLEST)
    of_change = np.log(said / (1 - unchanged)[:, None])
    evidence = np.log(unchanged / (1 - unchanged) * (1 - rate) / rate)
    is_silent = np.isnan(visits.changes).any(axis=1)
    of_change[is_silent], evidence[is_silent] = 0.0, 0.0

    pooled = weights.usual * of_usual + weights.change * of_change[:, columns]
    same = np.arange(num_counts)
    pooled[:, same, same] = -np.inf
    if num_counts > 1:  # a single count can only stay
        # As much as a change on average, times the odds.
        changed = _log_sum(pooled.reshape(-1, num_counts**2), axis=1) - np.log(num_counts)
        odds = np.log(rate / (1 - rate)) + weights.change * evidence
        pooled[:, same, same] = (changed + odds)[:, None]
    else:
        pooled[:] = 0.0
    return pooled if visits.others is None else pooled + weights.photo * visits.others


def _messages(single: np.ndarray, pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return forward sums, with each visit's own evidence, and backward sums, without it."""
    forward, backward = single.copy(), np.zeros_like(single)
    for place in range(1, single.shape[1]):
        before = forward[:, place - 1, :, None] + pair[:, place - 1]
        forward[:, place] += _log_sum(before, axis=1)
    for place in range(single.shape[1] - 2, -1, -1):
        after = (backward[:, place + 1] + single[:, place + 1])[:, None, :] + pair[:, place]
        backward[:, place] = _log_sum(after, axis=2)
    return forward, backward


def _log_sum(logarithms: np.ndarray, axis: int) -> np.ndarray:
    """Return the logarithm of the sum of what these are logarithms of."""
    highest = np.max(logarithms, axis=axis, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(logarithms - highest).sum(axis=axis))
    return total + highest.squeeze(axis)
