import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compare_runs import read_predictions
from evaluation import (
    Evaluation,
    by_key,
    confusion_matrix,
    figures,
    overall,
    read_evaluation,
    reliability,
    risk_coverage,
    worst_errors,
)


def evaluation(probabilities: list[list[float]], expected: list[int]) -> Evaluation:
    num_bins, num_counts = np.shape(probabilities)
    return Evaluation(
        ids=np.array([f"{index:05d}" for index in range(num_bins)]),
        group=np.array([f"g{index}" for index in range(num_bins)]),
        expected=np.array(expected),
        counts=np.arange(1, num_counts + 1),
        probabilities=np.array(probabilities),
    )


# Sure and right, sure and wrong by one, unsure and right, unsure and wrong by two.
FOUR = evaluation(
    [[0.9, 0.1, 0.0], [0.95, 0.05, 0.0], [0.3, 0.4, 0.3], [0.4, 0.3, 0.3]], [1, 2, 2, 3]
)


def test_the_confusion_matrix_has_what_was_expected_in_its_rows() -> None:
    assert confusion_matrix(FOUR).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_the_figures_are_those_of_the_metric_that_training_prints() -> None:
    found = overall(FOUR)
    assert found["accuracy"]["value"] == 0.5
    assert found["within_one_accuracy"]["value"] == 0.75
    means = np.array([1.1, 1.05, 2.0, 1.9])
    expected_rmse = np.sqrt(np.mean((means - [1, 2, 2, 3]) ** 2))
    assert found["rmse"]["value"] == pytest.approx(expected_rmse)
    assert found["mae"]["value"] == pytest.approx((0 + 1 + 0 + 1) / 4)
    assert found["negative_log_likelihood"]["value"] == pytest.approx(
        -np.mean(np.log([0.9, 0.05, 0.4, 0.3]))
    )
    for figure in found.values():
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_the_interval_is_wider_where_photos_come_in_groups() -> None:
    generator = np.random.default_rng(0)
    right = np.repeat(generator.random(50) < 0.5, 8)
    single = evaluation([[0.9, 0.1] if is_right else [0.1, 0.9] for is_right in right], [1] * 400)
    grouped = Evaluation(
        single.ids,
        np.repeat([f"g{index}" for index in range(50)], 8),
        *(single.expected, single.counts, single.probabilities),
    )

    def width(case: Evaluation) -> float:
        figure = overall(case)["accuracy"]
        return figure["high"] - figure["low"]

    assert width(grouped) > 2 * width(single)


def test_calibration_error_is_the_distance_between_confidence_and_accuracy() -> None:
    rows, error = reliability(FOUR)
    assert [(row["low"], row["num_bins"]) for row in rows] == [(0.4, 2), (0.9, 2)]
    assert rows[1]["confidence"] == pytest.approx(0.925)
    assert rows[1]["accuracy"] == 0.5
    assert error == pytest.approx((abs(0.4 - 0.5) + abs(0.925 - 0.5)) / 2)


def test_a_model_that_is_always_sure_and_right_has_no_calibration_error() -> None:
    assert reliability(evaluation([[1.0, 0.0]] * 5, [1] * 5))[1] == 0.0


def test_risk_is_that_of_the_surest_answers_and_ties_come_in_one_step() -> None:
    coverage, risk, area = risk_coverage(FOUR)
    assert coverage.tolist() == [0.25, 0.5, 1.0]
    assert risk.tolist() == [1.0, 0.5, 0.5]
    assert area == pytest.approx(0.25 * 1.0 + 0.25 * 0.5 + 0.5 * 0.5)


@given(st.permutations(range(4)))
def test_the_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    shuffled = Evaluation(
        *(FOUR.ids[order], FOUR.group[order], FOUR.expected[order]),
        *(FOUR.counts, FOUR.probabilities[order]),
    )
    assert risk_coverage(shuffled)[2] == pytest.approx(risk_coverage(FOUR)[2])
    assert reliability(shuffled)[1] == pytest.approx(reliability(FOUR)[1])
    assert FOUR.ids[worst_errors(FOUR, 9)].tolist() == (
        shuffled.ids[worst_errors(shuffled, 9)].tolist()
    )


def test_the_worst_errors_are_the_surest_wrong_answers() -> None:
    assert worst_errors(FOUR, 9).tolist() == [1, 3]
    assert worst_errors(FOUR, 1).tolist() == [1]


def test_errors_are_shown_for_each_value_of_a_key() -> None:
    rows = by_key(FOUR, np.array([1, 1, 2, 2]))
    assert [(row["key"], row["num_bins"], row["accuracy"]["value"]) for row in rows] == [
        (1, 2, 0.5),
        (2, 2, 0.5),
    ]


def test_without_a_dataset_nothing_is_said_of_distinct_items() -> None:
    assert figures(FOUR, None)["by_distinct_items"] is None
    assert len(figures(FOUR, [1, 1, 2, 3])["by_distinct_items"]) == 3


def test_rows_that_are_no_distributions_are_refused() -> None:
    columns = {"id": ["00001"], "bin_group": ["00001"], "expected_quantity": [1]}
    table = pa.table(columns | {"probability_1": [0.9], "probability_2": [0.3]})
    with pytest.raises(ValueError, match="do not sum to 1"):
        read_evaluation(table)


@pytest.mark.parametrize("group_type", [pa.string(), pa.null()])
def test_a_bin_of_which_the_group_is_unknown_is_a_group_by_itself(group_type: pa.DataType) -> None:
    table = pa.table(
        {
            "id": ["00001", "00002", "00003"],
            "bin_group": pa.nulls(3, group_type),
            "expected_quantity": [1, 2, 1],
            "count": [1, 1, 1],
            "probability_1": [0.9, 0.6, 1.0],
            "probability_2": [0.1, 0.4, 0.0],
        }
    )
    assert figures(read_evaluation(table), None)["num_groups"] == 3
    assert read_predictions(table).group.tolist() == ["00001", "00002", "00003"]
    known = table.set_column(1, "bin_group", pa.array(["00001", "00001", None]))
    assert figures(read_evaluation(known), None)["num_groups"] == 2
