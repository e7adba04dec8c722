"""What a training does and what hurts it, measured as it goes (--diagnostics).

OUTPUT_DIR gets diagnostics.jsonl (the figures), diagnostics.html (plots, and rules with evidence
and advice) and, with --trace_steps, trace.json.gz for https://ui.perfetto.dev. Nothing that is
measured changes the training, and the time that it takes is in the figures too.
"""

import gzip
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from diagnostics.layer_statistics import (
    SilentUnits,
    activation_functions,
    gradient_norm,
    trained_layers,
    weights_and_gradients,
)
from diagnostics.machine_usage import MachineUsage
from diagnostics.page import diagnostics_page
from diagnostics.record import DIAGNOSTICS_PAGE, DIAGNOSTICS_RECORD, TRACE, Line, Record, gather
from diagnostics.rules import Finding, findings
from output_files import whole_file

OPERATORS_SHOWN = 15


class Diagnostics(TrainerCallback):
    """Measures a training from inside the trainer's loop, in one process.

    The trainer calls `data_wait`, `see_answers` and `after_backward`; the rest are its events.
    Host clocks measure the device here: Trainer looks at the loss of each step, and so waits for
    the device, before it asks for the next batch.

    Args:
        model: that is trained, as it was before it was wrapped or compiled.
        output_dir: where the files go.
        facts: what runs, for the record's first line.
        interval: steps from one measurement of the layers to the next.
        traced_steps: first and last step of a trace; None for none.
        looks_at_outputs: whether hooks may listen to the model's layers; compiled ones would be
            compiled anew for that.
    """

    def __init__(
        self,
        model: nn.Module,
        output_dir: Path,
        facts: Line,
        interval: int,
        traced_steps: tuple[int, int] | None,
        looks_at_outputs: bool,
    ) -> None:
        layers = trained_layers(model)
        functions = activation_functions(model) if looks_at_outputs else {}
        self.model = model
        self.output_dir = output_dir
        self.facts = facts | {"layers": list(layers), "activations": list(functions)}
        self.interval = interval
        self.traced_steps = traced_steps
        self.layers = list(layers.values())
        self.silent_units = SilentUnits(list(functions.values()))
        self.profiler: profile | None = None
        self.initial: Line | None = None  # what is known before the first step
        self.measured: Line = {}
        self.is_training = False
        self.findings: list[Finding] = []

    # ---- What the trainer calls

    @contextmanager
    def data_wait(self, step: int) -> Iterator[None]:
        """Measure how long a step waits for its photos.

        Args:
            step: that the photos are for, counted from 1.
        """
        if self.traced_steps and step == self.traced_steps[0]:
            self.profiler = start_profiler()
        with self._own_time():
            self.is_measured = step == 1 or step % self.interval == 0
            self.loss = 0.0
            if self.is_measured:
                self.silent_units.listen()
        start = time.perf_counter()
        yield
        self.step_start, self.own_at_start = time.perf_counter(), self.own_seconds
        self.data_seconds.append(self.step_start - start)

    def see_answers(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Look at the answers to the very first batch.

        Args:
            logits: (batch, num_counts).
            targets: as logits, rows sum to 1: of mixed photos the mixed labels.
        """
        if self.initial is None or "initial_loss" in self.initial:
            return
        with self._own_time(), torch.no_grad():
            logits = logits.detach().float()
            spread = logits.std(dim=0, correction=0).max().item()
            self.initial |= {
                "initial_loss": functional.cross_entropy(logits, targets).item(),
                "answer_spread": spread if len(logits) > 1 else math.nan,
            }

    def after_backward(self, loss: torch.Tensor, is_last: bool, gradient_scale: float) -> None:
        """Measure a step's gradients, before they are clipped.

        Args:
            loss: of the photos that were just trained on, times their share of the step.
            is_last: whether these were the last ones of the step.
            gradient_scale: what fp16 multiplies gradients with.
        """
        self.loss += float(loss)
        if not (is_last and self.is_measured):
            return
        with self._own_time():
            silent = self.silent_units.stop()
            columns = weights_and_gradients(self.layers, gradient_scale)
            norm = gradient_norm(self.layers, columns["gradient_rms"])
            self.measured = {"gradient_norm": norm, **columns, "silent": silent}
        self.own_seconds += self.silent_units.seconds

    # ---- The trainer's events

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the record, or go on with that of a run that was interrupted."""
        self.record = Record(self.output_dir / DIAGNOSTICS_RECORD, state.global_step)
        self.record.add("run", 0, **self.facts, num_steps=state.max_steps)
        self.machine = MachineUsage(self.output_dir)
        self.initial = initial_weights(self.model) if state.global_step == 0 else None
        self.own_seconds = 0.0
        self._start_interval()
        self.is_training = True

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the rate at which this step learns."""
        self.learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the step into the record; once an interval, write."""
        now, own = time.perf_counter(), self.own_seconds - self.own_at_start
        self.step_seconds.append(now - self.step_start - own)
        self.losses.append(self.loss)
        step = state.global_step
        if self.profiler is not None and self.traced_steps and step == self.traced_steps[1]:
            self._finish_trace(step)
        with self._own_time():
            if self.measured:
                self.record.add("layers", step, **self.measured, **(self.initial or {}))
                self.measured, self.initial = {}, None
                self._finish_interval(args, state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the figures of an evaluation into the record, unless the training has ended."""
        if self.is_training and metrics:
            figures = {name.removeprefix("eval_"): value for name, value in metrics.items()}
            self.record.add("evaluation", state.global_step, **figures | {"epoch": state.epoch})

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write what a run that goes on from this checkpoint will not measure again."""
        with self._own_time():
            self._finish_interval(args, state)
            self._write_page()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the last page, and print which rules fire."""
        self.is_training = False
        if self.profiler is not None:  # the run ended before the last step that was to be traced
            self._finish_trace(state.global_step)
        self._finish_interval(args, state)
        self._write_page()
        fired = [finding for finding in self.findings if finding.state == "fires"]
        for finding in fired:
            print(f"diagnostics {finding.name}: {finding.evidence} {finding.advice}")
        page = self.output_dir / DIAGNOSTICS_PAGE
        print(f"diagnostics: {len(fired)} of {len(self.findings)} rules fire, see {page}")

    # ---- Parts of these

    @contextmanager
    def _own_time(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.own_seconds += time.perf_counter() - start

    def _start_interval(self) -> None:
        self.losses: list[float] = []
        self.step_seconds: list[float] = []
        self.data_seconds: list[float] = []
        self.own_at_interval = self.own_seconds

    def _finish_interval(self, args: TrainingArguments, state: TrainerState) -> None:
        """Write the steps since the last time; nothing where there are none."""
        if not self.losses:
            return
        seconds = sum(self.step_seconds) + sum(self.data_seconds)
        photos = len(self.losses) * self.facts["global_batch_size"]
        self.record.add(
            "steps",
            state.global_step,
            epoch=state.epoch,
            losses=self.losses,
            step_seconds=self.step_seconds,
            data_seconds=self.data_seconds,
            learning_rate=self.learning_rate,
            photos_a_second=photos / seconds,
            own_seconds=self.own_seconds - self.own_at_interval,
            **self.machine.sample(),
        )
        self._start_interval()

    def _write_page(self) -> None:
        figures = gather(self.record.lines)
        self.findings = findings(figures)
        page = diagnostics_page(self.output_dir.name, figures, self.findings)
        with whole_file(self.output_dir / DIAGNOSTICS_PAGE) as temporary:
            temporary.write_text(page)

    def _finish_trace(self, step: int) -> None:
        assert self.profiler is not None
        self.profiler.stop()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder, "trace.json")
            self.profiler.export_chrome_trace(str(trace))
            with (
                whole_file(self.output_dir / TRACE) as temporary,
                gzip.open(temporary, "wb") as compressed,
                trace.open("rb") as plain,
            ):
                shutil.copyfileobj(plain, compressed)
        assert self.traced_steps is not None
        rows = operators(self.profiler)
        self.record.add("trace", step, first_step=self.traced_steps[0], operators=rows)
        self.profiler = None


def run_facts(
    model: PreTrainedModel, args: TrainingArguments, photos: Sequence[int], counts: Sequence[int]
) -> Line:
    """Return what runs, and on what.

    Args:
        photos: the count of each training photo.
        counts: that the model tells apart; one without a photo is a finding.
    """
    is_gpu = torch.cuda.is_available() and args.device.type == "cuda"
    num_threads = torch.get_num_threads()
    threads = "1 thread" if num_threads == 1 else f"{num_threads} threads"
    best_by = (args.metric_for_best_model or "loss").removeprefix("eval_")
    return {
        "model_type": model.config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_counts": len(counts),
        "photos_by_count": {str(count): photos.count(count) for count in counts},
        "class_weights": args.class_weights,
        "global_batch_size": (
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        ),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "device": torch.cuda.get_device_name() if is_gpu else threads,
        "world_size": args.world_size,
        "num_workers": args.dataloader_num_workers,
        "kept_by": best_by if args.load_best_model_at_end else None,
        "greater_is_better": args.greater_is_better,
    }


def start_profiler() -> profile:
    """Return a running profiler of what host and, where there is one, GPU do."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities)
    profiler.start()
    return profiler


def operators(profiler: profile) -> list[Line]:
    """Return the operators that took most time by themselves: name, calls, host_ms, device_ms."""
    rows = [
        {
            "name": event.key,
            "calls": event.count,
            "host_ms": event.self_cpu_time_total / 1000,
            "device_ms": event.self_device_time_total / 1000,
        }
        for event in profiler.key_averages()
    ]
    rows.sort(key=lambda row: max(row["host_ms"], row["device_ms"]), reverse=True)
    return rows[:OPERATORS_SHOWN]


@torch.no_grad()
def initial_weights(model: nn.Module) -> Line:
    """Return which layers hold one number only, and whether the last one, the head, holds zeros."""
    matrices = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    constant = [
        name
        for name, weight in matrices.items()
        # Zeros are put there on purpose, as in the last layer of a residual branch.
        if weight.numel() > 1 and bool((weight == weight.flatten()[0]).all()) and weight.any()
    ]
    head = list(matrices.values())[-1:]
    return {"constant_layers": constant, "head_is_zero": not any(bool(w.any()) for w in head)}
