import numpy as np
import pytest

from count_distribution import counts_of_labels, mean_count, median_count, mode_count

COUNTS = (1, 2, 3, 4, 5)


def test_a_label_is_not_a_count() -> None:
    assert counts_of_labels(["1", "2", "3", "4", "5"])[0] == 1
    assert counts_of_labels(["0", "1", "2"])[0] == 0


@pytest.mark.parametrize(
    "names", [[], ["cat", "dog"], ["2", "1"], ["1", "1"], ["-1", "0"], ["1.5", "2"]]
)
def test_labels_that_are_not_counts_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="are not counts"):
        counts_of_labels(names)


def test_mode_median_and_mean_of_a_skewed_distribution_differ() -> None:
    probabilities = np.array([[0.4, 0.05, 0.1, 0.2, 0.25]])
    assert mode_count(probabilities, COUNTS) == [1]
    assert median_count(probabilities, COUNTS) == [3]
    np.testing.assert_allclose(mean_count(probabilities, COUNTS), [2.85])


def test_the_median_and_the_mean_err_least_of_all_answers() -> None:
    probabilities = np.random.default_rng(0).dirichlet([0.5] * 5, size=200)
    counts = np.array(COUNTS)
    answers = np.linspace(1, 5, 81)
    absolute = (probabilities[:, :, None] * abs(counts[:, None] - answers)).sum(axis=1)
    squared = (probabilities[:, :, None] * (counts[:, None] - answers) ** 2).sum(axis=1)
    at_median = (probabilities * abs(counts - median_count(probabilities, COUNTS)[:, None])).sum(1)
    at_mean = (probabilities * (counts - mean_count(probabilities, COUNTS)[:, None]) ** 2).sum(1)
    assert (at_median <= absolute.min(axis=1) + 1e-9).all()
    assert (at_mean <= squared.min(axis=1) + 1e-9).all()


def test_the_median_survives_rows_that_sum_to_a_little_less_than_one() -> None:
    probabilities = np.array([[0.0, 0.0, 0.0, 0.0, 0.9999999]])
    assert median_count(probabilities, COUNTS) == [5]
