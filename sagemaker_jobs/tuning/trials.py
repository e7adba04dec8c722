"""The trials of a search, on AWS or on this machine: the best one, a table, a picture."""

import csv
import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from aws.output_files import whole_file
from jobs.metric_definitions import is_better_when_larger
from launching.tuned_hyperparameters import TUNED, Trial, best_trial, has_figure, tuned_values

TABLE = "trials.csv"
PICTURE = "trials.png"
MARKERS = "osD^vP*X"


def write_trials(trials: Sequence[Trial], objective: str, folder: Path) -> None:
    """Write trials.csv and trials.png; each is whole or not there."""
    for name, data in (
        (TABLE, table(trials, objective).encode()),
        (PICTURE, picture(trials, objective)),
    ):
        with whole_file(folder / name) as temporary:
            temporary.write_bytes(data)


def table(trials: Sequence[Trial], objective: str) -> str:
    """Return the trials as csv, a row each, in the order in which they began."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "status", objective, *TUNED, "reason"])
    for trial in trials:
        told = "" if trial.objective is None else trial.objective
        writer.writerow(
            [trial.name, trial.status, told, *tuned_values(trial).values(), trial.reason]
        )
    return text.getvalue()


def picture(trials: Sequence[Trial], objective: str) -> bytes:
    """Return a PNG: the objective against the learning rate.

    The marker is the batch size, the colour the epochs; a hollow one was stopped early, a cross
    below has no result, the ring is the best.
    """
    # Takes a second to import, which no other command needs. No pyplot: it would look for a screen.
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot(xscale="log", xlabel="learning rate")
    better = "larger" if is_better_when_larger(objective) else "smaller"
    axes.set_ylabel(f"{objective} ({better} is better)")
    axes.grid(alpha=0.3, which="both")
    epochs = [trial.epochs for trial in trials]
    colours: Any = ScalarMappable(Normalize(min(epochs), max(epochs)), colormaps["viridis"])
    if len({*epochs}) > 1:
        figure.colorbar(colours, ax=axes, label="epochs", ticks=MaxNLocator(integer=True))
    markers = dict(
        zip(sorted({trial.batch_size for trial in trials}), cycle(MARKERS), strict=False)
    )
    signs = [_sign(marker, f"batch size {size}") for size, marker in markers.items()]

    for trial in trials:
        colour = colours.to_rgba(trial.epochs)
        if has_figure(trial):
            axes.plot(
                trial.learning_rate,
                trial.objective,
                markers[trial.batch_size],
                markersize=9,
                markerfacecolor="none" if trial.status == "Stopped" else colour,
                markeredgecolor=colour,
                markeredgewidth=1.5,
            )
        else:
            bottom = axes.get_xaxis_transform()
            axes.plot(trial.learning_rate, 0.02, "x", color="firebrick", transform=bottom)
    if any(has_figure(trial) and trial.status == "Stopped" for trial in trials):
        signs.append(_sign("o", "stopped early", markerfacecolor="none"))
    if not all(has_figure(trial) for trial in trials):
        signs.append(_sign("x", "no result", color="firebrick"))
    best = best_trial(trials, objective)
    if best is not None:
        ring: dict[str, Any] = {"color": "crimson", "markerfacecolor": "none", "markersize": 17}
        axes.plot(best.learning_rate, best.objective, "o", **ring)
        ring["markersize"] = 11
        signs.append(_sign("o", f"best: {best.objective:.4g}", **ring))
    figure.legend(handles=signs, loc="outside upper center", ncols=4, frameon=False)
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _sign(marker: str, label: str, **style: Any) -> Any:
    """Return an entry of the legend."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], **{"color": "dimgrey", "linestyle": "", **style}, marker=marker, label=label
    )
