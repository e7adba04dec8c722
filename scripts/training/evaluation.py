"""Logits and labels as metrics, in items, and as lines of the log."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
from tqdm import tqdm
from transformers import (
    EvalPrediction,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from one_line_parser import reason_of
from training.calibration import log_probabilities

METRIC = Path(__file__).parent.parent / "counting_metric"


def counting_metrics(counts: Sequence[int]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the function that turns logits and labels into metrics, all of them in items.

    Raises: ValueError: the library's cache, where it copies the metric's code, cannot be written.
    """
    try:
        metric = evaluate.load(str(METRIC), keep_in_memory=True)
    except OSError as error:
        raise ValueError(
            f"The cache of evaluate cannot be written ({reason_of(error)}): make room there, or "
            "set HF_HOME to a folder that has some."
        ) from error

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        labels = prediction.label_ids
        probabilities = softmax(prediction.predictions)
        results = metric.compute(
            predictions=probabilities, references=np.asarray(counts)[labels], counts=tuple(counts)
        )
        true_probabilities = probabilities[np.arange(len(labels)), labels]
        return {"loss": float(-np.log(np.maximum(true_probabilities, 1e-300)).mean()), **results}

    return compute


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float64, of the same shape (num_bins, num_counts)."""
    return np.exp(log_probabilities(logits))


class MetricsLine(TrainerCallback):
    """Print each set of metrics in one line of a form that stays, whatever Trainer prints.

    metrics split=validation step=60 epoch=1 loss=1.3971 accuracy=0.371
    """

    SPLITS: ClassVar = {"eval": "validation", "test": "test", "train": "train"}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the line, in the first process only."""
        if not logs or not state.is_world_process_zero:
            return
        prefix = next(iter(logs)).partition("_")[0]
        prefix = prefix if prefix in self.SPLITS else ""
        values = {"epoch": state.epoch or 0.0}
        values |= {
            name.removeprefix(f"{prefix}_"): value
            for name, value in logs.items()
            if name != "epoch" and isinstance(value, int | float)
        }
        line = " ".join(f"{name}={value:.6g}" for name, value in values.items())
        split = self.SPLITS.get(prefix, "train")
        # Through tqdm, which moves its bars out of the way.
        tqdm.write(f"metrics split={split} step={state.global_step} {line}")
        sys.stdout.flush()
