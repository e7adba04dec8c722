"""Checkpoints by the clock: a spot instance goes without a word, in the middle of an epoch.

Source: sagemaker-training-toolkit issue 173, no signal reaches the script.
"""

import time
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Processes that train together have to agree, which on a GPU waits for it: not at every step.
STEPS_BETWEEN_AGREEMENTS = 10


class TimedCheckpoints(TrainerCallback):
    """Write a checkpoint when none was written for a while.

    Args:
        minutes: for how long; above 0.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = 60 * minutes
        self.last = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.last = time.monotonic()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock again, whoever asked for the checkpoint."""
        self.last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint when it is time."""
        # After an epoch's last step Trainer evaluates, and then saves: a checkpoint from before
        # the evaluation would go on without it.
        is_due = time.monotonic() - self.last >= self.seconds and state.epoch % 1 != 0
        if args.world_size > 1:
            if state.global_step % STEPS_BETWEEN_AGREEMENTS:
                return
            # The clocks of several processes differ: the first one's counts.
            answer = torch.tensor(int(is_due), device=args.device)
            distributed.broadcast(answer, src=0)
            is_due = bool(answer)
        control.should_save = control.should_save or is_due
