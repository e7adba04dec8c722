"""Trainer for photos that arrive as bytes and labels that are counts."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import evaluate
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTImageProcessor,
)

from augmentation import normalize, random_flip
from bin_dataset import collate
from timed_checkpoints import TimedCheckpoints

METRIC = Path(__file__).parent / "counting_metric"


class BinTrainer(Trainer):
    """Trainer that prepares uint8 batches on the device and evaluates in items.

    Args:
        image_processor: its mean and standard deviation normalize the photos.
        counts: how many items each label id stands for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        image_processor: ViTImageProcessor,
        counts: Sequence[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=collate,
            processing_class=image_processor,
            compute_metrics=counting_metrics(counts),
            callbacks=[MetricsLine(), *timed_checkpoints(args)],
            **kwargs,
        )
        self.image_processor = image_processor
        self.first_step = 0  # of this call: above 0 where a checkpoint goes on
        # The loss below is a mean over the batch; Trainer divides it by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        # accelerate would divide it once more (transformers 5.3.0 with accelerate 1.12.0).
        self.accelerator.gradient_accumulation_steps = 1

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the mean cross entropy of a training batch, and the outputs if asked for."""
        pixel_values = self._normalized(random_flip(inputs["pixel_values"]))
        outputs = model(pixel_values=pixel_values)
        loss = functional.cross_entropy(
            outputs.logits.float(),
            inputs["labels"],
            label_smoothing=self.args.label_smoothing_factor,
        )
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """Return (None, logits, labels) of an evaluation batch, in full precision.

        Half precision moves a probability by a percent, and a served model answers in full
        precision. The loss is left to the metrics: Trainer's own mean over batches counts some
        photos twice when several processes evaluate.
        """
        inputs = self._prepare_inputs(inputs)
        plain_model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with torch.no_grad():
            # The class's own forward: accelerate wraps the instance's in autocast for bf16.
            outputs = type(plain_model).forward(
                plain_model, self._normalized(inputs["pixel_values"])
            )
        return None, outputs.logits, inputs["labels"]

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Return Trainer's, of every photo: dropping the last batch is meant for training."""
        with self._last_batch_kept():
            return super().get_eval_dataloader(*args, **kwargs)

    def get_test_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        """Return Trainer's, of every photo."""
        with self._last_batch_kept():
            return super().get_test_dataloader(*args, **kwargs)

    @contextmanager
    def _last_batch_kept(self) -> Iterator[None]:
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, but for the summary of a training of which this call did a part only.

        Trainer divides the loss and the time of that part by the whole run's steps.
        """
        if "train_loss" in logs and self.first_step > 0:
            for name in ("train_loss", "train_samples_per_second", "train_steps_per_second"):
                logs.pop(name, None)
        super().log(logs, start_time)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both, and take the learning rate from the schedule, not from the optimizer.

        With more epochs than the checkpoint was made with the two differ for one step.
        """
        self.first_step = self.state.global_step
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        if checkpoint is not None and isinstance(schedule, LambdaLR):
            schedule._last_lr = [
                base_rate * share(schedule.last_epoch)
                for base_rate, share in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            ]
            for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def _load_best_model(self) -> None:
        """Load the best checkpoint from where the run folder is now, not where it was once."""
        best = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
        if not best.is_dir():
            raise FileNotFoundError(f"The best checkpoint is gone: {best}. Train in a new folder.")
        self.state.best_model_checkpoint = str(best)
        super()._load_best_model()

    def _normalized(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return normalize(
            pixel_values, self.image_processor.image_mean, self.image_processor.image_std
        )


def timed_checkpoints(args: TrainingArguments) -> list[TrainerCallback]:
    """Return what writes checkpoints by the clock, where the arguments ask for it."""
    minutes = getattr(args, "checkpoint_minutes", None)
    return [TimedCheckpoints(minutes)] if minutes else []


def counting_metrics(counts: Sequence[int]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the function that turns logits and labels into metrics, all of them in items."""
    metric = evaluate.load(str(METRIC), keep_in_memory=True)

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
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


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
