"""What a run's diagnostics measured, as JSON lines: written as it goes, read by rules and page.

    {"kind": "run", "step": 0, ...}          model, photos of each count, batch, machine
    {"kind": "steps", "step": 50, ...}       the steps since the line before, and the machine then
    {"kind": "layers", "step": 50, ...}      gradients, weights and outputs, layer by layer
    {"kind": "evaluation", "step": 90, ...}  figures of the validation split
    {"kind": "trace", "step": 22, ...}       operators of the traced steps

null is a number that is not finite. A line is whole or it does not count: a killed run leaves half
of one at most, at the end.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from output_files import whole_file

# Files of the run folder.
DIAGNOSTICS_PAGE = "diagnostics.html"
DIAGNOSTICS_RECORD = "diagnostics.jsonl"
TRACE = "trace.json.gz"

Line = dict[str, Any]
SIGNIFICANT_DIGITS = 5


class Record:
    """The file of a run, to which lines are added.

    Args:
        first_step: that training goes on after; what lies behind it is of a run that was killed
            later than its last checkpoint, and is dropped.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        self.lines = [line for line in read_record(path) if 0 < line["step"] <= first_step]
        with whole_file(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def add(self, kind: str, step: int, **figures: Any) -> None:
        """Write a line."""
        line = {"kind": kind, "step": step, **{name: _plain(v) for name, v in figures.items()}}
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


def read_record(path: Path) -> list[Line]:
    """Return the whole lines of a file; none where there is no file."""
    lines: list[Line] = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:  # the end of a killed run
            continue
    return lines


def _plain(value: Any) -> Any:
    """Return what JSON can hold, numbers with as many digits as they are good for."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None
    return value


@dataclass(frozen=True)
class RunFigures:
    """All that was measured of a run, by step.

    Attributes:
        run: what runs, and on what.
        steps: int (num_steps,), of those that were measured; losses, step_seconds and data_seconds:
            float (num_steps,), nan where not finite. A step's seconds are those in which the model
            was trained, without the wait for its photos.
        is_traced: bool (num_steps,), whether the profiler slowed it down.
        intervals: the lines with machine, rate and own cost.
        layers: the lines with gradients, weights and outputs; each a list in the order of
            run["layers"], or run["activations"].
        evaluations: figures of the validation split, in the order of steps.
        trace: that of the steps that were asked for; None without.
    """

    run: Line
    steps: np.ndarray
    losses: np.ndarray
    step_seconds: np.ndarray
    data_seconds: np.ndarray
    is_traced: np.ndarray
    intervals: Sequence[Line]
    layers: Sequence[Line]
    evaluations: Sequence[Line]
    trace: Line | None

    @property
    def data_share(self) -> float:
        """Share of the time in which the device waited for photos; the first step's is set-up."""
        kept = ~self.is_traced[1:]
        waited, worked = self.data_seconds[1:][kept].sum(), self.step_seconds[1:][kept].sum()
        return float(waited / (waited + worked)) if waited + worked > 0 else math.nan

    @property
    def own_share(self) -> float:
        """Share of the training's time that the diagnostics themselves took, but for a trace."""
        own = sum(line["own_seconds"] for line in self.intervals)
        total = own + float(self.step_seconds.sum() + self.data_seconds.sum())
        return own / total if total > 0 else math.nan

    def of_layers(self, name: str) -> np.ndarray:
        """Return a figure by layer, float (num_measurements, num_layers); nan is not finite."""
        return np.array([line[name] for line in self.layers], dtype=float)


def gather(lines: Sequence[Line]) -> RunFigures:
    """Return a record's lines by what they hold. Raises: ValueError: none says what runs."""
    by_kind: dict[str, list[Line]] = {}
    for line in lines:
        by_kind.setdefault(line["kind"], []).append(line)
    if "run" not in by_kind:
        raise ValueError("The record does not say what runs.")
    intervals = by_kind.get("steps", [])
    steps = [
        step
        for line in intervals
        for step in range(line["step"] - len(line["losses"]) + 1, line["step"] + 1)
    ]
    columns = {
        name: np.array([value for line in intervals for value in line[name]], dtype=float)
        for name in ("losses", "step_seconds", "data_seconds")
    }
    traces = by_kind.get("trace", [])
    traced = {step for line in traces for step in range(line["first_step"], line["step"] + 1)}
    return RunFigures(
        run=by_kind["run"][-1],
        steps=np.array(steps, dtype=int),
        is_traced=np.array([step in traced for step in steps], dtype=bool),
        intervals=intervals,
        layers=by_kind.get("layers", []),
        evaluations=by_kind.get("evaluation", []),
        trace=traces[-1] if traces else None,
        **columns,
    )
