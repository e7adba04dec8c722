import numpy as np
import pytest

from auditing.wrong_rate import DEFAULT_WRONG_RATE, estimate_wrong_rate, log_likelihood
from visits.error_model import ErrorModel

ERRORS = ErrorModel({(1, 2): 20, (2, 3): 30, (2, 4): 5}).record_probabilities((1, 2, 3, 4, 5))
# How often these bins hold each count; the model learned where all are as frequent.
SHARES = np.array([0.3, 0.25, 0.2, 0.15, 0.1])


def world(
    num_bins: int, wrong_rate: float, seed: int = 0, noise: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Return honest distributions over counts, and records of which a share is wrong."""
    generator = np.random.default_rng(seed)
    true = generator.choice(5, size=num_bins, p=SHARES)
    shown = true + noise * generator.normal(size=num_bins)
    weights = np.exp(-(((np.arange(5) - shown[:, None]) / noise) ** 2) / 2)
    errors = (generator.random((num_bins, 1)) > ERRORS[true].cumsum(axis=1)).sum(axis=1)
    recorded = np.where(generator.random(num_bins) < wrong_rate, errors, true)
    return weights / weights.sum(axis=1, keepdims=True), recorded


@pytest.mark.parametrize("wrong_rate", [0.01, 0.05, 0.1, 0.2, 0.3])
def test_many_records_say_how_many_of_them_are_wrong(wrong_rate: float) -> None:
    rate = estimate_wrong_rate(*world(4000, wrong_rate, seed=1), ERRORS)
    assert rate.is_learned
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low < wrong_rate < rate.high
    assert rate.high - rate.low < 0.06


def test_the_interval_holds_the_rate_about_as_often_as_it_says() -> None:
    held = 0
    for seed in range(20):
        rate = estimate_wrong_rate(*world(300, 0.1, seed), ERRORS)
        assert rate.low is not None
        assert rate.high is not None
        held += rate.low <= 0.1 <= rate.high
    assert held >= 17


def test_what_tells_nothing_leaves_what_was_believed_before() -> None:
    nothing = estimate_wrong_rate(np.empty((0, 5)), np.empty(0, dtype=int), ERRORS)
    assert nothing.value == pytest.approx(DEFAULT_WRONG_RATE, abs=0.003)
    assert not nothing.is_learned
    # A model that sees nothing, however many records there are.
    probabilities, recorded = world(2000, 0.2)
    blind = estimate_wrong_rate(np.full_like(probabilities, 0.2), recorded, ERRORS)
    assert 0.5 * DEFAULT_WRONG_RATE < blind.value < 2.5 * DEFAULT_WRONG_RATE
    assert not blind.is_learned
    assert blind.low is not None
    assert blind.high is not None
    assert blind.high - blind.low > 0.1
    # Few records, a poor model.
    few = estimate_wrong_rate(*world(50, 0.1, noise=2.0), ERRORS)
    assert not few.is_learned
    assert few.value == pytest.approx(DEFAULT_WRONG_RATE, abs=0.02)


def test_one_count_and_counts_that_no_photo_allows_break_nothing() -> None:
    alone = ErrorModel().record_probabilities((4,))
    one = estimate_wrong_rate(np.ones((200, 1)), np.zeros(200, dtype=int), alone)
    assert np.isfinite(one.value)
    sure = np.eye(5)[np.arange(200) % 5]
    rate = estimate_wrong_rate(sure, (np.arange(200) + (np.arange(200) < 20)) % 5, ERRORS)
    assert rate.value == pytest.approx(0.1, abs=0.03)


def test_the_likelihood_is_that_of_counting_all_worlds() -> None:
    probabilities, recorded = world(40, 0.1)
    expected = sum(
        np.log(
            sum(
                p[true] * ((0.9 if true == record else 0) + 0.1 * ERRORS[true, record])
                for true in range(5)
            )
        )
        for p, record in zip(probabilities, recorded, strict=True)
    )
    weights = np.ones(5)
    # Without weights the photos' own share is the same whatever the rate.
    of_photos = 200 * (probabilities * np.log(probabilities)).sum() / 40
    found = log_likelihood(probabilities, recorded, ERRORS, 0.1, weights)
    assert found == pytest.approx(expected + of_photos)
