import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

import train
from budget.training_time import TrainingTime, hours_minutes_seconds
from training.checkpoints import checkpoint_folders


class Training:
    """A training as its callback sees it, and a clock of its own.

    Args:
        hours: --max_hours.
        before: a training that this one goes on with, from its last checkpoint.
    """

    def __init__(self, hours: float | None, before: "Training | None" = None) -> None:
        self.now = 1000.0
        self.time = TrainingTime(hours, clock=lambda: self.now)
        self.arguments = TrainingArguments("unused", use_cpu=True)
        self.control = TrainerControl()
        self.state: TrainerState = TrainerState(
            max_steps=1000,
            global_step=before.state.global_step if before else 0,
            stateful_callbacks={"TrainingTime": before.saved} if before else {},
        )
        self.time.on_train_begin(self.arguments, self.state, self.control)

    def steps(self, number: int, seconds: float) -> None:
        """Take steps, each of which takes so many seconds."""
        for _ in range(number):
            self.now += seconds
            self.state.global_step += 1
            self.time.on_step_end(self.arguments, self.state, self.control)

    def evaluate(self, seconds: float, saving: float) -> bool:
        """Evaluate and save, and return whether the training ends."""
        self.now += seconds
        self.time.on_evaluate(self.arguments, self.state, self.control)
        self.save(saving)
        return self.control.should_training_stop

    def save(self, seconds: float) -> None:
        self.saved = self.time.state()
        self.now += seconds
        self.time.on_save(self.arguments, self.state, self.control)


def test_a_training_ends_at_the_last_evaluation_that_fits_with_its_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # An evaluation every 50 seconds, whose checkpoint takes 10: the third is saved after 160.
    for hours, ends_at in ((160 / 3600, 3), (159 / 3600, 2), (1 / 3600, 1)):
        training = Training(hours)
        number, ends = 0, False
        while not ends:
            training.steps(4, seconds=10 if number == 0 else 7.5)
            ends = training.evaluate(seconds=10, saving=10)
            number += 1
        assert number == ends_at
        assert training.control.should_save
        assert training.now - 1000 <= 3600 * hours or number == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ended step=12 epoch=0 by=max_hours hours=0.0416667 next_hours=0.0583333"
    assert len(lines) == 3


def test_time_counts_over_all_starts_as_checkpoints_know_it() -> None:
    first = Training(hours=1)
    first.steps(10, seconds=60)
    assert not first.evaluate(seconds=60, saving=0)  # 11 minutes
    first.steps(5, seconds=60)
    first.save(0)
    first.steps(3, seconds=60)  # and killed: three minutes are lost
    second = Training(hours=1, before=first)
    assert not second.control.should_training_stop
    second.steps(5, seconds=60)
    assert second.time.used == 60 * 21
    assert not second.evaluate(seconds=60, saving=0)  # 22 minutes
    assert second.saved["attributes"]["interval"] == 60 * 11  # not from where it went on


def test_what_had_ended_ends_at_once_and_goes_on_with_more_hours() -> None:
    first = Training(hours=0.5)
    first.steps(10, seconds=100)
    assert first.evaluate(seconds=0, saving=50)
    same = Training(hours=0.5, before=first)
    assert same.control.should_training_stop
    assert not Training(hours=0.6, before=first).control.should_training_stop
    assert not Training(hours=None, before=first).control.should_training_stop


def test_what_ends_for_another_reason_is_not_said_to_end_for_want_of_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    training = Training(hours=1e-9)
    training.steps(10, seconds=1)
    training.control.should_training_stop = True
    training.evaluate(seconds=1, saving=1)
    assert capsys.readouterr().out == ""


def test_a_hundred_steps_show_how_long_the_rest_takes_and_later_evaluations_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    training = Training(hours=None)
    training.steps(1, seconds=500)  # a first step waits for workers and compilers
    training.steps(98, seconds=2)
    training.evaluate(seconds=0, saving=0)
    assert capsys.readouterr().out == ""
    training.steps(1, seconds=2)
    assert capsys.readouterr().out == "time step=100 of=1000 remaining=0:30:00\n"
    training.steps(100, seconds=2)
    training.evaluate(seconds=199, saving=0)  # 1 second a step
    assert capsys.readouterr().out == "time step=200 of=1000 remaining=0:40:00\n"
    training.save(0)
    again = Training(hours=None, before=training)
    again.steps(99, seconds=2)
    assert capsys.readouterr().out == ""  # of this start
    again.steps(1, seconds=2)
    assert capsys.readouterr().out == "time step=300 of=1000 remaining=0:23:20\n"
    again.steps(700, seconds=2)
    again.evaluate(seconds=1, saving=0)
    assert capsys.readouterr().out == ""


def test_a_long_time_is_said_in_hours() -> None:
    assert hours_minutes_seconds(59.6) == "0:01:00"
    assert hours_minutes_seconds(100 * 3600 + 62) == "100:01:02"


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_a_run_without_time_takes_no_step_and_goes_on_to_the_same_weights_with_some(
    strategy: str,
    dataset_dir: Path,
    config_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["--dataset_dir", str(dataset_dir), "--config_name", str(config_dir), "--do_train"]
    argv += ["--num_train_epochs", "2", "--disable_tqdm", "true", "--eval_strategy", strategy]
    argv += ["--save_strategy", strategy, "--eval_steps", "2", "--save_steps", "2"]
    argv += ["--learning_rate", "1e-3", "--bf16", "false"]
    train.main([*argv, "--output_dir", str(tmp_path / "undisturbed")])
    run_dir = tmp_path / "run"
    argv += ["--output_dir", str(run_dir)]
    capsys.readouterr()
    step = 3 if strategy == "epoch" else 2
    for _ in range(2):
        train.main([*argv, "--max_hours", "1e-9"])
        said = capsys.readouterr().out
        assert f"ended step={step} epoch=" in said
        assert "by=max_hours" in said
        (checkpoint,) = checkpoint_folders(run_dir)
        assert checkpoint.name == f"checkpoint-{step}"
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        evaluations = [entry["step"] for entry in state["log_history"] if "eval_loss" in entry]
        assert evaluations == [step]
        assert (run_dir / "model" / "model.safetensors").exists()
    train.main([*argv, "--max_hours", "1"])
    for path in (tmp_path / "undisturbed" / "model").glob("*.safetensors"):
        assert path.read_bytes() == (run_dir / "model" / path.name).read_bytes()
