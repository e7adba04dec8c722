import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launching.tuned_hyperparameters import Trial, best_trial, tuned_values
from tuning.trials import picture, table, write_trials

TRIALS = [
    Trial("trial-1", "Completed", 1.2, 1e-3, 32, 3),
    Trial("trial-2", "Stopped", 0.9, 2e-3, 64, 6),
    Trial("trial-3", "Completed", 1.1, 5e-4, 64, 4),
    Trial("trial-4", "Failed", None, 3e-3, 32, 2, "exit code 1: out of memory, sorry"),
    Trial("trial-5", "Completed", 1.1, 6e-4, 32, 5),
    Trial("trial-6", "InProgress", None, 7e-4, 32, 5),
]


def test_the_best_is_the_first_of_the_best_that_were_completed() -> None:
    best = best_trial(TRIALS, "eval_loss")
    assert best is not None
    assert best.name == "trial-3"


def test_an_accuracy_should_grow() -> None:
    best = best_trial(TRIALS, "eval_accuracy")
    assert best is not None
    assert best.name == "trial-1"


def test_without_a_completed_trial_none_is_best() -> None:
    assert best_trial([], "eval_loss") is None
    assert best_trial([TRIALS[1], TRIALS[3], TRIALS[5]], "eval_loss") is None
    assert best_trial([replace(TRIALS[0], objective=float("nan"))], "eval_loss") is None


def test_the_chosen_values_have_the_names_of_train_pys_flags() -> None:
    assert tuned_values(TRIALS[0]) == {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 3,
    }


def test_the_table_has_a_row_a_trial_with_exact_figures() -> None:
    rows = list(csv.DictReader(io.StringIO(table(TRIALS, "eval_loss"))))
    assert [row["trial"] for row in rows] == [trial.name for trial in TRIALS]
    assert [row["eval_loss"] for row in rows] == ["1.2", "0.9", "1.1", "", "1.1", ""]
    assert rows[3]["reason"] == "exit code 1: out of memory, sorry"
    assert float(rows[1]["learning_rate"]) == 2e-3


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[:1], TRIALS[3:4]])
def test_a_picture_can_be_drawn_of_any_trials(trials: list[Trial]) -> None:
    image = Image.open(io.BytesIO(picture(trials, "eval_loss")))
    assert image.format == "PNG"
    # Something is drawn: a colour beside black, white and grey.
    assert np.asarray(image.convert("HSV"))[..., 1].max() > 100


def test_both_files_arrive_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    write_trials(TRIALS, "eval_loss", tmp_path / "runs")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "trials.csv",
        "trials.png",
    ]
    assert (tmp_path / "runs" / "trials.csv").read_text() == table(TRIALS, "eval_loss")
