"""Lines of the log about how a training goes, beside those of its metrics."""

import sys

from tqdm import tqdm
from transformers import TrainerState


def say(state: TrainerState, line: str) -> None:
    """Print a line in the first process, through tqdm, which moves its bars out of the way."""
    if state.is_world_process_zero:
        tqdm.write(line)
        sys.stdout.flush()


def say_end(state: TrainerState, flag: str, **figures: float | None) -> None:
    """Print which flag ends a training before its last step.

    ended step=396 epoch=3 by=early_stopping_patience evaluations=2 best_step=132
    """
    said = " ".join(f"{name}={value:.6g}" for name, value in figures.items() if value is not None)
    say(state, f"ended step={state.global_step} epoch={state.epoch or 0:.6g} by={flag} {said}")
