"""How long a training has taken, how long it still takes, and where it ends to be done in time."""

import time
from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from budget.log_line import say, say_end

STEPS_BEFORE_AN_ESTIMATE = 100


class TrainingTime(TrainerCallback, ExportableState):
    """Counts a training's time over all of its starts, as far as its checkpoints know of them.

    It says how long the rest takes after a hundred steps of a start, and after each evaluation from
    then on. The training ends where the next evaluation and its checkpoint would come too late if
    they take as long as the last ones. Between two evaluations it does not end: one out of turn
    would draw a number, and a run that goes on would come to other weights.

    time step=100 of=1584 remaining=0:12:31
    ended step=264 epoch=2 by=max_hours hours=0.9712 next_hours=1.4518

    Args:
        max_hours: that all starts may take together; None for no limit.
        clock: seconds since whenever.
    """

    def __init__(
        self, max_hours: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_hours = max_hours
        self.clock = clock
        self.start: float | None = None  # on the clock
        # In checkpoints too, seconds: of earlier starts, up to the last evaluation, from the one
        # before to it (None before the first), and what the last one's checkpoint took.
        self.known: dict[str, Any] = {"used": 0.0, "evaluated": 0.0, "interval": None}
        self.known |= {"saving": 0.0}
        self.evaluated_step: int | None = None
        # This start's first step, which waits for workers and compilers, and when it ended.
        self.first: tuple[int, float] | None = None

    @property
    def used(self) -> float:
        """Seconds of training so far."""
        return self.known["used"] + (0.0 if self.start is None else self.clock() - self.start)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"args": {}, "attributes": self.known | {"used": self.used}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go on from what the checkpoint knows; a training that had ended ends at once."""
        # A checkpoint of an earlier version knows nothing, and Trainer asks for the name later.
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.known |= kept["attributes"]
        self.start, self.first = self.clock(), None
        self._end_in_time(state, control)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how long the rest takes, once a hundred steps have shown it."""
        if self.first is None:
            self.first = state.global_step, self.used
        elif state.global_step - self.first[0] + 1 == STEPS_BEFORE_AN_ESTIMATE:
            self._say_what_remains(state)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how long the rest takes, and end the training here if the next one is too late."""
        used = self.used
        self.known |= {"evaluated": used, "interval": used - self.known["evaluated"]}
        self.evaluated_step = state.global_step
        if self.first and state.global_step - self.first[0] + 1 > STEPS_BEFORE_AN_ESTIMATE:
            self._say_what_remains(state)
        self._end_in_time(state, control)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what the checkpoint of an evaluation takes."""
        if state.global_step == self.evaluated_step:
            self.known["saving"] = self.used - self.known["evaluated"]

    def _say_what_remains(self, state: TrainerState) -> None:
        assert self.first is not None
        first_step, since = self.first
        step_seconds = (self.used - since) / (state.global_step - first_step)
        if steps_left := max(0, state.max_steps - state.global_step):
            remaining = hours_minutes_seconds(step_seconds * steps_left)
            say(state, f"time step={state.global_step} of={state.max_steps} remaining={remaining}")

    def _end_in_time(self, state: TrainerState, control: TrainerControl) -> None:
        known = self.known
        if self.max_hours is None or known["interval"] is None or control.should_training_stop:
            return
        next_hours = (known["evaluated"] + known["interval"] + known["saving"]) / 3600
        # Clocks of several processes differ: the first one's counts.
        (is_too_late,) = broadcast_object_list([next_hours > self.max_hours])
        if is_too_late:
            # With a checkpoint, from which it goes on when it may take longer.
            control.should_training_stop = control.should_save = True
            say_end(state, "max_hours", hours=self.used / 3600, next_hours=next_hours)


def hours_minutes_seconds(seconds: float) -> str:
    """Return a time as 26:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
