from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditing.decisions import (
    CERTAINTY,
    CHECK,
    DECISIONS,
    OK,
    WRONG,
    Costs,
    corrected_count,
    count_interval,
    count_posterior,
    count_weights,
    decide,
    expected_costs,
    reweighted,
    risk_without_check,
    spend_budget,
    wrong_probability,
)
from visits.error_model import ErrorModel

COUNTS = (1, 2, 3, 4, 5)
ERRORS = ErrorModel({(1, 2): 20, (2, 3): 30, (2, 4): 5}).record_probabilities(COUNTS)

distributions = st.lists(st.floats(1e-6, 1), min_size=5, max_size=5).map(
    lambda weights: np.array(weights) / sum(weights)
)


def decision_of(posterior: np.ndarray, recorded: np.ndarray, costs: Costs) -> str:
    return DECISIONS[decide(expected_costs(posterior, recorded, costs))[0]]


@given(distributions, st.integers(0, 4), st.floats(0.001, 0.999))
def test_the_posterior_is_that_of_counting_all_worlds(
    probabilities: np.ndarray, recorded: int, wrong_rate: float
) -> None:
    # Each world: what the bin holds, whether the record is wrong, what it says.
    weight = {
        (true, is_wrong): probabilities[true]
        * (wrong_rate if is_wrong else 1 - wrong_rate)
        * (ERRORS[true, recorded] if is_wrong else float(true == recorded))
        for true, is_wrong in product(range(5), (False, True))
    }
    total = sum(weight.values())
    wrong = sum(w for (_, is_wrong), w in weight.items() if is_wrong) / total
    by_count = [(weight[true, False] + weight[true, True]) / total for true in range(5)]
    posterior = count_posterior(probabilities[None], np.array([recorded]), ERRORS, wrong_rate)
    assert posterior[0] == pytest.approx(by_count)
    assert wrong_probability(posterior, np.array([recorded]))[0] == pytest.approx(wrong)


def test_how_wrong_records_come_about_may_be_known_for_each_bin() -> None:
    others = ErrorModel({(1, 5): 50}).record_probabilities(COUNTS)
    probabilities = np.array([[0.1, 0.2, 0.4, 0.2, 0.1], [0.3, 0.3, 0.1, 0.1, 0.2]])
    recorded = np.array([1, 4])
    together = count_posterior(probabilities, recorded, np.stack([ERRORS, others]), 0.1)
    for row, errors in enumerate((ERRORS, others)):
        of_row = slice(row, row + 1)
        alone = count_posterior(probabilities[of_row], recorded[of_row], errors, 0.1)
        assert together[of_row] == pytest.approx(alone)
    by_first = count_posterior(probabilities, recorded, ERRORS, 0.1)
    assert together[1] != pytest.approx(by_first[1])


@given(distributions, st.integers(0, 4), st.floats(0, 10), st.floats(0, 10))
def test_the_decision_is_the_cheapest_of_all_that_can_be_done(
    posterior: np.ndarray, recorded: int, missed_error: float, manual_check: float
) -> None:
    # What is left in the inventory: any count costs missed_error where the bin holds another one.
    left = [missed_error * sum(posterior[c] for c in range(5) if c != n) for n in range(5)]
    # A count is written where it is certain; the recorded one may stay.
    allowed = [n for n in range(5) if n == recorded or posterior[n] >= CERTAINTY]
    least = min([*(left[n] for n in allowed), manual_check])
    costs = expected_costs(
        posterior[None], np.array([recorded]), Costs(missed_error, manual_check)
    )[0]
    assert costs.min() == pytest.approx(least)
    assert costs[DECISIONS.index(OK)] == pytest.approx(left[recorded])


def test_decisions_follow_the_photo_where_it_is_clear() -> None:
    sure = np.array([[0.001, 0.001, 0.996, 0.001, 0.001]])
    for recorded, said in ((2, OK), (1, WRONG)):
        column = np.array([recorded])
        posterior = count_posterior(sure, column, ERRORS, 0.3)
        assert decision_of(posterior, column, Costs(20, 1)) == said
    suggested, certainty = corrected_count(posterior, column, COUNTS)
    assert suggested.tolist() == [3]
    assert certainty == pytest.approx(posterior[:, 2])


def test_a_photo_that_says_nothing_leaves_the_wrong_rate() -> None:
    uniform, columns = np.full((5, 5), 0.2), np.arange(5)
    # Only with errors that are alike everywhere: a record of 1 is else rarer among the wrong ones.
    alike = (1 - np.eye(5)) / 4
    posterior = count_posterior(uniform, columns, alike, 0.05)
    assert wrong_probability(posterior, columns) == pytest.approx(np.full(5, 0.05))


def test_limits_of_rate_and_costs() -> None:
    probabilities, column = np.array([[0.5, 0.2, 0.1, 0.1, 0.1]]), np.array([1])
    never = count_posterior(probabilities, column, ERRORS, 1e-12)
    always = count_posterior(probabilities, column, ERRORS, 1 - 1e-12)
    assert wrong_probability(never, column)[0] == pytest.approx(0, abs=1e-10)
    assert wrong_probability(always, column)[0] == pytest.approx(1)
    posterior = count_posterior(probabilities, column, ERRORS, 0.2)
    assert decision_of(posterior, column, Costs(1, 0)) == CHECK  # a check is free
    assert decision_of(posterior, column, Costs(0, 1)) == OK  # errors are free
    assert decision_of(posterior, column, Costs(1, 5)) == OK  # a check never pays
    # The record is wrong for sure, but nobody knows what is right.
    assert decision_of(always, column, Costs(1, 5)) == OK
    assert decision_of(always, column, Costs(20, 1)) == CHECK


def test_small_suspicions_are_not_rounded_away() -> None:
    column = np.array([0])
    posterior = count_posterior(np.array([[1 - 1e-15, 1e-15, 0, 0, 0]]), column, ERRORS, 1e-6)
    assert 0 < wrong_probability(posterior, column)[0] < 1e-20


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
    st.floats(0, 1),
)
def test_a_budget_takes_the_largest_risks_and_no_more(risks: list[float], budget: float) -> None:
    risk = np.array(risks)
    chosen = spend_budget(risk, budget)
    assert chosen.sum() <= budget * len(risk) + 1e-6
    if chosen.any() and not chosen.all():
        assert risk[chosen].min() >= risk[~chosen].max()
    assert not chosen[risk == 0].any()


def test_a_budget_is_one_price_of_a_check() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(5), size=500)
    recorded = generator.integers(0, 5, size=500)
    posterior = count_posterior(probabilities, recorded, ERRORS, 0.1)
    risk = risk_without_check(posterior, recorded)
    chosen = spend_budget(risk, 0.3)
    assert chosen.sum() == 150
    price = (risk[chosen].min() + risk[~chosen].max()) / 2
    decision = decide(expected_costs(posterior, recorded, Costs(1, price)))
    assert np.array_equal(decision == DECISIONS.index(CHECK), chosen)


def test_budgets_at_both_ends() -> None:
    risk = np.array([0.1, 0.4, 0.2])
    assert spend_budget(risk, 0.0).sum() == 0
    assert spend_budget(risk, 1.0).all()
    assert spend_budget(np.empty(0), 0.5).tolist() == []
    assert spend_budget(np.ones(100), 0.29).sum() == 29  # 0.29 * 100 is below 29 in floats


def test_an_interval_leaves_at_most_five_percent_on_each_side() -> None:
    probabilities = np.array(
        [[0.04, 0.5, 0.46, 0, 0], [0.06, 0.88, 0.06, 0, 0], [0, 0, 1, 0, 0], [0.2] * 5]
    )
    low, high = count_interval(probabilities, COUNTS, 0.9)
    assert low.tolist() == [2, 1, 3, 1]
    assert high.tolist() == [3, 3, 3, 5]


def world(
    num_bins: int, shares: np.ndarray, wrong_rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what photos say that were learned where all counts are as frequent, records, truth."""
    generator = np.random.default_rng(2)
    true = generator.choice(5, size=num_bins, p=shares)
    # A photo shows the count with an error of about one item; Bayes with equal shares.
    shown = true + generator.normal(size=num_bins)
    weights = np.exp(-((np.arange(5) - shown[:, None]) ** 2) / 2)
    errors = (generator.random((num_bins, 1)) > ERRORS[true].cumsum(axis=1)).sum(axis=1)
    recorded = np.where(generator.random(num_bins) < wrong_rate, errors, true)
    return weights / weights.sum(axis=1, keepdims=True), recorded, true


def test_records_say_how_often_bins_hold_each_count() -> None:
    shares = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    probabilities, recorded, true = world(20_000, shares, 0.1)
    weights = count_weights(probabilities, recorded, ERRORS, 0.1)
    assert weights / weights.sum() == pytest.approx(shares, abs=0.02)
    # Where 5 is recorded, which few bins hold, too few are suspected without them.
    is_five = recorded == 4
    share_wrong = (recorded != true)[is_five].mean()
    for leaning, is_right in ((probabilities, False), (reweighted(probabilities, weights), True)):
        posterior = count_posterior(leaning, recorded, ERRORS, 0.1)
        suspected = wrong_probability(posterior, recorded)[is_five].mean()
        assert (suspected == pytest.approx(share_wrong, rel=0.15)) == is_right


def test_few_records_change_little_and_none_nothing() -> None:
    probabilities, recorded, _ = world(5, np.array([0, 0, 0, 0, 1.0]), 0.0)
    weights = count_weights(probabilities, recorded, ERRORS, 0.05)
    assert reweighted(probabilities, weights) == pytest.approx(probabilities, abs=0.05)
    assert count_weights(probabilities[:0], recorded[:0], ERRORS, 0.05).tolist() == [1.0] * 5


def test_a_count_that_no_photo_allows_stays_impossible() -> None:
    probabilities = np.array([[0.5, 0.5, 0, 0, 0]] * 300)
    weights = count_weights(probabilities, np.array([0, 1, 4] * 100), ERRORS, 0.05)
    assert np.isfinite(weights).all()
    assert not reweighted(probabilities, weights)[:, 2:].any()


def test_honest_probabilities_give_honest_suspicions() -> None:
    """In worlds drawn as the theory says, so many are wrong as are suspected."""
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet(np.ones(5), size=200_000)
    true = (generator.random((200_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    is_wrong = generator.random(200_000) < 0.2
    errors = (generator.random((200_000, 1)) > ERRORS[true].cumsum(axis=1)).sum(axis=1)
    recorded = np.where(is_wrong, errors, true)
    suspicion = wrong_probability(count_posterior(probabilities, recorded, ERRORS, 0.2), recorded)
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        level = (suspicion >= low) & (suspicion < high)
        assert is_wrong[level].mean() == pytest.approx(suspicion[level].mean(), abs=0.02)
