"""Chains against sums over every way that the counts of a bin's visits may have been."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from visits.chain import (
    BELIEVED,
    BELIEVED_WITHOUT_CHANGES,
    PRIOR_FORCE,
    ChainWeights,
    Visits,
    change_columns,
    fit_weights,
    log_likelihood,
    of_changed,
    possible_changes,
    step_joints,
    usual_steps,
    visit_posteriors,
    with_unchanged_rate,
)
from visits.error_model import ErrorModel

COUNTS = (1, 2, 3, 5)
WEIGHTS = ChainWeights(photo=0.7, change=0.9, usual=0.4)
USUAL = usual_steps(ErrorModel({(1, 2): 30, (2, 3): 9}).record_probabilities(COUNTS), 0.05)


def distributions(generator: np.random.Generator, *shape: int) -> np.ndarray:
    values = generator.random(shape) ** 2 + 0.01
    return values / values.sum(axis=-1, keepdims=True)


def drawn_visits(steps: list[list[int]], num_rows: int, seed: int = 0) -> Visits:
    generator = np.random.default_rng(seed)
    return Visits(
        distributions(generator, num_rows, len(COUNTS)),
        np.array(steps, dtype=int).reshape(-1, 2),
        distributions(generator, len(steps), len(possible_changes(COUNTS))),
        COUNTS,
    )


def of_step(said: np.ndarray, before: int, after: int) -> float:
    """Return what speaks for two counts at a step, as the docstring of visits.chain has it."""
    changes = list(possible_changes(COUNTS))
    none, rate = changes.index(0), USUAL[0, 0]

    def changed(a: int, b: int) -> float:
        value = (np.sqrt(USUAL[a, b] * USUAL[b, a]) / (1 - rate)) ** WEIGHTS.usual
        if np.isnan(said).any():
            return value
        share = said[changes.index(COUNTS[b] - COUNTS[a])] / (1 - said[none])
        return value * share**WEIGHTS.change

    if before != after:
        return changed(before, after)
    pairs = [(a, b) for a, b in product(range(len(COUNTS)), repeat=2) if a != b]
    average = sum(changed(a, b) for a, b in pairs) / len(COUNTS)
    odds = rate / (1 - rate)
    if np.isnan(said).any():
        return average * odds
    learned = said[none] / (1 - said[none]) / odds
    return average * odds * learned**WEIGHTS.change


def by_every_way(visits: Visits, chain: list[int], records: np.ndarray | None = None) -> np.ndarray:
    """Return how likely each way is that the counts of one chain may have been, not summed to 1."""
    ways = np.empty([len(COUNTS)] * len(chain))
    for way in product(range(len(COUNTS)), repeat=len(chain)):
        value = 1.0
        for row, column in zip(chain, way, strict=True):
            alone = len(chain) == 1
            value *= visits.probabilities[row, column] ** (1.0 if alone else WEIGHTS.photo)
            value *= 1.0 if records is None else records[row, column]
        for step, (earlier, later) in enumerate(visits.steps.tolist()):
            if earlier not in chain:
                continue
            a, b = way[chain.index(earlier)], way[chain.index(later)]
            value *= of_step(visits.changes[step], a, b)
        ways[way] = value
    return ways


def marginals(ways: np.ndarray) -> list[np.ndarray]:
    total = ways.sum()
    axes = range(ways.ndim)
    return [ways.sum(axis=tuple(a for a in axes if a != axis)) / total for axis in axes]


# A chain out of order, one of two, and a visit alone.
STEPS, CHAINS = [[4, 1], [0, 3], [1, 2]], [[4, 1, 2], [0, 3], [5]]


@pytest.mark.parametrize("with_records", [False, True])
@pytest.mark.parametrize("gap", [False, True])
def test_each_visit_has_what_all_ways_together_say(with_records: bool, gap: bool) -> None:
    visits = drawn_visits(STEPS, 6)
    if gap:
        visits.changes[2] = np.nan
    records = None
    if with_records:
        records = np.ones((6, len(COUNTS)))
        records[1] = [0, 0, 1, 0]  # counted by hand
        records[3] = [0.9, 0.05, 0.03, 0.02]
    posteriors = visit_posteriors(visits, WEIGHTS, USUAL, records)
    for chain in CHAINS:
        for row, expected in zip(
            chain, marginals(by_every_way(visits, chain, records)), strict=True
        ):
            np.testing.assert_allclose(posteriors[row], expected, atol=1e-12)
    np.testing.assert_allclose(posteriors.sum(axis=1), 1)


def test_the_likelihood_is_that_of_the_one_way_it_was() -> None:
    visits, true = drawn_visits(STEPS, 6), np.array([0, 3, 2, 1, 1, 2])
    expected = 0.0
    for chain in (chain for chain in CHAINS if len(chain) > 1):
        ways = by_every_way(visits, chain)
        expected += float(np.log(ways[tuple(true[chain])] / ways.sum()))
    assert log_likelihood(visits, WEIGHTS, USUAL, true) == pytest.approx(expected)


def test_a_step_alone_is_a_chain_of_two() -> None:
    visits = drawn_visits([[1, 0]], 2)
    (joint,) = step_joints(visits, WEIGHTS, USUAL)
    ways = by_every_way(visits, [1, 0])
    np.testing.assert_allclose(joint, ways / ways.sum(), atol=1e-12)


def test_what_photos_say_backwards_is_the_mirror_of_what_they_say_ahead() -> None:
    ahead = drawn_visits([[0, 1]], 2)
    back = Visits(ahead.probabilities, ahead.steps[:, ::-1], ahead.changes[:, ::-1], COUNTS)
    first, second = (visit_posteriors(visits, WEIGHTS, USUAL) for visits in (ahead, back))
    np.testing.assert_allclose(first, second, atol=1e-12)


def test_a_visit_alone_keeps_what_its_photo_and_its_record_say() -> None:
    visits = drawn_visits([], 3)
    np.testing.assert_allclose(visit_posteriors(visits, WEIGHTS, USUAL), visits.probabilities)
    records = np.array([[0.2, 0.2, 0.2, 0.4]] * 3)
    joint = visits.probabilities * records
    posteriors = visit_posteriors(visits, WEIGHTS, USUAL, records)
    np.testing.assert_allclose(posteriors, joint / joint.sum(axis=1, keepdims=True))


def test_columns_lead_from_count_to_count() -> None:
    assert possible_changes((1, 2, 3)) == (-2, -1, 0, 1, 2)
    assert possible_changes(COUNTS) == (-4, -3, -2, -1, 0, 1, 2, 3, 4)
    columns = change_columns(COUNTS)
    changes = np.array(possible_changes(COUNTS))
    for (before, after), column in np.ndenumerate(columns):
        assert changes[column] == COUNTS[after] - COUNTS[before]


def test_the_rate_of_what_is_unchanged_is_bayes() -> None:
    # Of 100 pairs 20 were unchanged, in training; here 2 of 100 are.
    answers = np.array([[0.3, 0.5, 0.2]])
    changed = with_unchanged_rate(answers, (1, 2), learned_rate=0.2, unchanged_rate=0.02)
    joint = np.array([0.3 / 0.8 * 0.98, 0.5 / 0.2 * 0.02, 0.2 / 0.8 * 0.98])
    np.testing.assert_allclose(changed[0], joint / joint.sum())
    same = with_unchanged_rate(answers, (1, 2), learned_rate=0.2, unchanged_rate=0.2)
    np.testing.assert_allclose(same, answers)
    never = with_unchanged_rate(answers, (1, 2), learned_rate=0.2, unchanged_rate=0.0)
    np.testing.assert_allclose(never[0], [0.6, 0, 0.4], atol=1e-9)


def test_pairs_without_a_change_are_left_out() -> None:
    logits = np.arange(9.0).reshape(3, 3)
    left, columns = of_changed(logits, np.array([0, 1, 2]), (1, 2))
    assert left.tolist() == [[0, 2], [6, 8]]
    assert columns.tolist() == [0, 1]


def test_weights_are_those_that_the_counts_were_drawn_with() -> None:
    generator = np.random.default_rng(1)
    num_bins = 3000
    steps = [[2 * number, 2 * number + 1] for number in range(num_bins)]
    visits = drawn_visits(steps, 2 * num_bins)
    joints = step_joints(visits, WEIGHTS, USUAL).reshape(num_bins, -1)
    drawn = [generator.choice(joints.shape[1], p=joint) for joint in joints]
    true = np.array([divmod(number, len(COUNTS)) for number in drawn]).ravel()
    fitted = fit_weights(visits, USUAL, true)
    for name in ("photo", "change", "usual"):
        assert getattr(fitted, name) == pytest.approx(getattr(WEIGHTS, name), abs=0.12)
    assert fit_weights(visits, USUAL, true, with_changes=False).change == 0


def test_few_visits_leave_the_weights_where_they_were_believed() -> None:
    few, none, true = drawn_visits([[0, 1]], 2), drawn_visits([], 2), np.array([0, 1])
    for with_changes, believed in ((True, BELIEVED), (False, BELIEVED_WITHOUT_CHANGES)):
        fitted = fit_weights(few, USUAL, true, with_changes=with_changes)
        for name, value in vars(fitted).items():
            assert abs(value - getattr(believed, name)) < 0.3
        assert fit_weights(none, USUAL, true, with_changes=with_changes) == believed


def test_evidence_that_misleads_gets_no_weight_rather_than_a_negative_one() -> None:
    generator = np.random.default_rng(2)
    num_bins = 400
    visits = drawn_visits([[2 * n, 2 * n + 1] for n in range(num_bins)], 2 * num_bins)
    true = visits.probabilities.argmax(axis=1)
    columns = change_columns(COUNTS)[true[0::2], true[1::2]]
    # What the photos say of the change is never what happened.
    wrong = (columns + generator.integers(1, 9, num_bins)) % 9
    misled = Visits(visits.probabilities, visits.steps, np.eye(9)[wrong], COUNTS)
    assert fit_weights(misled, USUAL, true).change == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("weights", [WEIGHTS, ChainWeights(1.0, 1.0, 1.0), ChainWeights(1, 0, 0.3)])
def test_the_rate_of_what_is_unchanged_counts_whole_whatever_the_weights(
    weights: ChainWeights,
) -> None:
    """Photos and usual changes that say nothing leave the odds as they were given."""
    nothing = np.full((2, 4), 0.25)
    errors = np.where(np.eye(4, dtype=bool), 0, 1 / 3)
    for rate in (0.001, 0.3, 0.9):
        visits = Visits(nothing, np.array([[0, 1]]), np.full((1, 9), np.nan), COUNTS)
        (joint,) = step_joints(visits, weights, usual_steps(errors, rate))
        assert np.trace(joint) == pytest.approx(rate)


def test_one_count_can_only_stay() -> None:
    visits = Visits(np.ones((2, 1)), np.array([[0, 1]]), np.ones((1, 1)), (3,))
    usual = usual_steps(np.zeros((1, 1)), 0.5)
    assert visit_posteriors(visits, WEIGHTS, usual).tolist() == [[1.0], [1.0]]


def test_a_weight_that_ends_at_zero_leaves_the_others_their_best() -> None:
    generator = np.random.default_rng(3)
    num_bins, counts = 300, (1, 2, 3, 4, 5)
    true = generator.integers(0, 5, size=2 * num_bins)
    true[1::2] = (true[::2] + generator.integers(1, 5, size=num_bins)) % 5
    photos = generator.dirichlet(np.full(5, 0.5), size=2 * num_bins)
    photos[np.arange(2 * num_bins), true] += 0.5
    photos /= photos.sum(axis=1, keepdims=True)
    # The opposite of what is so: the less of it the better.
    of_changes = np.full((num_bins, 9), 0.01)
    of_changes[np.arange(num_bins), 4 - (true[1::2] - true[::2])] = 1.0
    of_changes /= of_changes.sum(axis=1, keepdims=True)
    steps = np.arange(2 * num_bins).reshape(-1, 2)
    visits = Visits(photos, steps, of_changes, counts)
    usual = usual_steps((np.ones((5, 5)) - np.eye(5)) / 4, 0.01)
    fitted = fit_weights(visits, usual, true)
    assert fitted.change == 0.0

    def value(weights: ChainWeights) -> float:
        off = sum((getattr(weights, n) - 0.5) ** 2 for n in ("photo", "change", "usual"))
        return log_likelihood(visits, weights, usual, true) - PRIOR_FORCE * off

    for name in ("photo", "change", "usual"):
        for move in (-0.05, 0.05):
            other = replace(fitted, **{name: getattr(fitted, name) + move})
            if getattr(other, name) >= 0:
                assert value(other) < value(fitted), (name, move)
