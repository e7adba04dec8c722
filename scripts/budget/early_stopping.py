"""End a training that does not get better any more."""

from collections.abc import Callable
from typing import Any

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments

from budget.log_line import say_end

COUNTER = "early_stopping_patience_counter"  # of Trainer's callback


class EarlyStopping(EarlyStoppingCallback):
    """Trainer's callback, which also counts on where a run goes on, and says where it ends one.

    ended step=396 epoch=3 by=early_stopping_patience evaluations=2 best_step=132

    Args:
        patience: evaluations in a row that may be no better than the best one; the last one ends
            the training.
        judged: turns the metrics of an evaluation into those that the best one is chosen by.
    """

    def __init__(
        self, patience: int, judged: Callable[[dict[str, float]], dict[str, float]]
    ) -> None:
        super().__init__(early_stopping_patience=patience)
        self.judged = judged

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count on from the checkpoint; a training that had ended ends at once.

        Trainer restores its callbacks together with its control alone, whose wish to stop would
        keep a run from going on with more epochs.
        """
        super().on_train_begin(args, state, control, **kwargs)
        # The run may have been without it so far.
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = kept["attributes"][COUNTER]
        self._end(state, control)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        """Count an evaluation, and end the training where it was one too many."""
        super().on_evaluate(args, state, control, self.judged(metrics), **kwargs)
        self._end(state, control)

    def _end(self, state: TrainerState, control: TrainerControl) -> None:
        evaluations = self.early_stopping_patience_counter
        if evaluations >= self.early_stopping_patience:
            # With a checkpoint, from which it goes on with more patience.
            control.should_training_stop = control.should_save = True
            say_end(
                state,
                "early_stopping_patience",
                evaluations=evaluations,
                best_step=state.best_global_step,
            )
