import math
import re
from pathlib import Path

import pytest

import train
from jobs.metric_definitions import (
    REGEXES,
    is_better_when_larger,
    metric_definitions,
    metric_values,
)

LINES = """
{'loss': '1.609', 'grad_norm': '2.1', 'learning_rate': '1e-05', 'epoch': '0.5'}
metrics split=train step=10 epoch=0.5 loss=1.609 grad_norm=2.1 learning_rate=1e-05
{'eval_loss': 1.397, 'eval_accuracy': 0.371, 'eval_within_one_accuracy': 0.8, 'epoch': 1.0}
metrics split=validation step=20 epoch=1 loss=1.397 accuracy=0.371 within_one_accuracy=0.8
metrics split=test step=20 epoch=1 loss=nan accuracy=0.4 quadratic_weighted_kappa=-0.02
metrics split=validation step=20 epoch=1 rmse_mode=1 change_loss=0.71 runtime=0.5
metrics split=test step=20 epoch=1 change_direction=0.92 change_direction_by_records=0.5 \
change_direction_by_single_counts=0.85 visits_accuracy=0.42 visits_single_accuracy=0.37
{'test_change_direction': '0.92', 'test_visits_accuracy': '0.42'}
{'train_runtime': '9.1', 'train_samples_per_second': '11.2', 'train_loss': '1.5'}
"""


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("train_loss", [1.609, 1.609]),
        ("learning_rate", [1e-5, 1e-5]),
        ("eval_loss", [1.397, 1.397]),
        ("eval_accuracy", [0.371, 0.371]),
        ("eval_within_one_accuracy", [0.8, 0.8]),
        ("test_accuracy", [0.4]),
        ("test_quadratic_weighted_kappa", [-0.02]),
        ("train_samples_per_second", [11.2]),
        ("eval_rmse", []),
        ("eval_change_loss", [0.71]),
        ("test_change_direction", [0.92, 0.92]),
        ("test_change_direction_by_single_counts", [0.85]),
        ("test_visits_accuracy", [0.42, 0.42]),
    ],
)
def test_both_forms_of_a_line_are_read(name: str, values: list[float]) -> None:
    assert metric_values(name, LINES) == values


def test_a_value_that_is_no_number_is_read_as_such() -> None:
    (value,) = metric_values("test_loss", LINES)
    assert math.isnan(value)
    assert metric_values("eval_loss", "{'eval_loss': '-inf'}") == [-math.inf]


def test_every_expression_has_the_one_group_that_aws_wants_and_there_are_at_most_forty() -> None:
    definitions = metric_definitions()
    assert len(definitions) <= 40
    for definition in definitions:
        assert re.compile(definition["Regex"]).groups == 1
        assert len(definition["Regex"]) <= 500


def test_only_accuracies_and_agreement_should_grow() -> None:
    larger = {name for name in REGEXES if is_better_when_larger(name)}
    assert {"eval_accuracy", "eval_quadratic_weighted_kappa", "test_accuracy_5"} <= larger
    assert {"test_change_direction", "test_change_count_accuracy"} <= larger
    assert not larger & {"eval_loss", "eval_rmse", "eval_mae", "train_loss", "eval_change_loss"}
    assert not larger & {"test_change_calibration_error", "test_visits_rmse"}


def test_what_train_really_prints_is_read(
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train.main(
        ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
        + ["--do_eval", "--do_predict", "--num_train_epochs", "1", "--learning_rate", "1e-5"]
        + ["--output_dir", str(tmp_path / "run"), "--logging_steps", "1", "--disable_tqdm", "true"]
    )
    log = capsys.readouterr().out
    trainers = "\n".join(line for line in log.splitlines() if line.startswith("{"))
    ours = "\n".join(line for line in log.splitlines() if line.startswith("metrics "))
    for name in REGEXES:
        assert metric_values(name, trainers), name
        assert metric_values(name, ours)[0] == pytest.approx(
            metric_values(name, trainers)[0], rel=1e-3
        )
    assert 0 < metric_values("learning_rate", log)[-1] <= 1e-5
