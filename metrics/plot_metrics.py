"""Draw the curves of one or more runs from csv files of parse_logs.py.

    python metrics/plot_metrics.py vit.csv resnet34.csv --output_dir plots

Writes loss, accuracy, rmse, change_loss, learning_rate and photos_a_second, each _by_epoch.png and
_by_step.png, as far as the logs hold them; a run is what the column `job` names. A run whose log
tells neither is drawn, dotted, by the share of its lines. Accuracy and RMSE come with what others
published: their splits are not grouped by bin (published_results.py), so the lines say where others
stand, not what is to be beaten.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no window: also on a machine without a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from metric_series import Series, read_series
from published_results import PUBLISHED
from strict_parser import StrictParser
from whole_outputs import whole_file

WIDTH, HEIGHT = 9.0, 5.0  # inches
DOTS_PER_INCH = 144
# A training curve has many noisy points, an evaluation few that count.
EVALUATION: dict[str, Any] = {"linewidth": 1.8, "marker": "o", "markersize": 4}
STYLES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 0.9, "alpha": 0.6},
    "test": {**EVALUATION, "marker": "D"},
}
DOTTED = {"linestyle": ":", "alpha": 0.9}
AXIS_LABELS = {"step": "step", "epoch": "epoch", "share": "share of the run"}
LABEL_HEIGHT = 0.08  # of what others published, as a share of the axis
NUM_NAMED = 10  # runs in colour; more cannot be told apart
ENTRIES_A_ROW, ROW_HEIGHT = 2, 0.17  # of the legend; inches
# Losses that differ by more than this lie on a logarithmic axis: some scripts log the sum over a
# batch, or its mean over photos and batch alike.
LARGEST_LINEAR_RATIO = 20


@dataclass(frozen=True)
class Picture:
    """One kind of picture: which figure it shows, its axis, and which end of it is good."""

    name: str  # of the file
    figure: str  # in the csv
    label: str
    best: str = ""  # max or min, told in the legend; empty where no value is the best


PICTURES = (
    Picture("loss", "loss", "loss", best="min"),
    Picture("accuracy", "accuracy", "accuracy", best="max"),
    Picture("rmse", "rmse", "RMSE, items", best="min"),
    Picture("change_loss", "change_loss", "loss of the changes between visits", best="min"),
    Picture("learning_rate", "learning_rate", "learning rate"),
    Picture("photos_a_second", "samples_per_second", "photos a second"),
)


def best_value(picture: Picture, series: Series) -> float:
    """Return the best finite value of a series, nan where there is none."""
    finite = series.value[np.isfinite(series.value)]
    if not picture.best or not len(finite):
        return math.nan
    return float(finite.max() if picture.best == "max" else finite.min())


def legend_label(picture: Picture, series: Series) -> str:
    """Return the run, its split and its best value, which is that of an evaluation."""
    label = f"{series.job}, {series.split}"
    if series.split == "train" and picture.name == "photos_a_second":
        return f"{label}, mean of the run"
    best = best_value(picture, series)
    if series.split == "train" or math.isnan(best):
        return label
    value = f"{100 * best:.2f} %" if picture.name == "accuracy" else f"{best:.3f}"
    return f"{label}: {'best ' if len(series.value) > 1 else ''}{value}"


def best_jobs(picture: Picture, shown: Sequence[Series]) -> list[str]:
    """Return the runs whose evaluations are the best, the best first; else those that came first.

    Of several splits that counts which a choice may be made on: validation, and test where there
    is no other.
    """
    sign = -1 if picture.best == "max" else 1
    values = {
        series.job: sign * best_value(picture, series)
        for split in ("train", "test", "validation")
        for series in shown
        if series.split == split
    }
    # A run without a finite value comes last.
    ranked = sorted(values, key=lambda job: (math.isnan(values[job]), values[job]))
    return ranked[:NUM_NAMED] if picture.best else list(values)[:NUM_NAMED]


def published_lines(picture: Picture) -> list[tuple[float, float, str]]:
    """Return lowest and highest value and the label of what others published."""
    if picture.name == "accuracy":
        return [
            (*result.accuracy, f"{percentage_range(*result.accuracy)} {result.label}")
            for result in PUBLISHED
        ]
    if picture.name == "rmse":
        return [
            (result.rmse, result.rmse, f"{result.rmse:.3f} {result.label}")
            for result in PUBLISHED
            if result.rmse is not None
        ]
    return []


def percentage_range(low: float, high: float) -> str:
    """Return 52.53 %, or 31-36 % where the two differ."""
    return f"{100 * low:.4g} %" if low == high else f"{100 * low:.4g}-{100 * high:.4g} %"


def spread(heights: Sequence[float], distance: float) -> list[float]:
    """Return ascending heights, moved as little as needed to lie a distance apart."""
    blocks: list[list[float]] = []  # of labels that touch: each one's height less those below it
    for number, height in enumerate(heights):
        blocks.append([height - number * distance])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    bases = [fmean(block) for block in blocks for _ in block]
    return [base + number * distance for number, base in enumerate(bases)]


def draw_published(axes: Axes, picture: Picture) -> None:
    """Draw what others published as grey lines, with their names at the right."""
    lines = sorted(published_lines(picture))
    if not lines:
        return
    for low, high, _ in lines:
        if low == high:
            axes.axhline(low, color="grey", linewidth=0.8, linestyle="--", zorder=0)
        else:
            axes.axhspan(low, high, color="grey", alpha=0.15, linewidth=0, zorder=0)
    axes.margins(y=0.06)
    bottom, top = axes.get_ylim()
    middles = [(low + high) / 2 for low, high, _ in lines]
    for middle, height, (_, _, label) in zip(
        middles, spread(middles, LABEL_HEIGHT * (top - bottom)), lines, strict=True
    ):
        axes.annotate(
            label,
            xy=(1, middle),
            xytext=(1.03, height),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            fontsize=7,
            linespacing=1.1,
            color="dimgrey",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.5, "relpos": (0, 0.5)},
            annotation_clip=False,
        )


def draw(picture: Picture, all_series: Sequence[Series], axis: str, path: Path) -> bool:
    """Draw one picture into a file; return whether there was anything to draw.

    Args:
        axis: step or epoch. Series that tell neither have an axis of their own.
    """
    shown = [series for series in all_series if series.name == picture.figure]
    placed = [series for series in shown if len(series.curve(axis)[0])]
    unplaced = [series for series in shown if not series.is_placed]
    if not placed and (axis == "step" or not unplaced):
        return False
    jobs = list(dict.fromkeys(series.job for series in all_series))
    named = jobs if len(jobs) <= NUM_NAMED else best_jobs(picture, shown)
    colors = {job: mpl.colormaps["tab10"](number) for number, job in enumerate(named)}
    num_rows = math.ceil(sum(s.job in colors for s in placed + unplaced) / ENTRIES_A_ROW)
    figure, axes = plt.subplots(
        figsize=(WIDTH, HEIGHT + ROW_HEIGHT * num_rows), layout="constrained"
    )
    side = axes.twiny() if placed and unplaced else axes
    if side is not axes:
        side.set_xlabel("share of the run, dotted: logs that tell neither step nor epoch")
        side.spines["right"].set_visible(False)
    if unplaced:
        side.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    for series in placed + unplaced:
        of_placed = series in placed
        x, y = series.curve(axis if of_placed else "share")
        style: dict[str, Any] = {"color": "lightgrey", "zorder": 1}
        if series.job in colors:
            label = legend_label(picture, series)
            style = {"color": colors[series.job], "zorder": 2, "label": label}
        style |= STYLES.get(series.split, EVALUATION) | ({} if of_placed else DOTTED)
        if series.split == "train" and len(x) == 1:  # the mean over the run
            axes.axhline(y[0], **style)
        else:
            (axes if of_placed else side).plot(x, y, **style)
    for one in (side, axes):  # both begin with the run, and end with it
        one.set_xlim(0, 1.03 * max(one.dataLim.x1, 1e-9))
    axes.set_xlabel(AXIS_LABELS[axis if placed else "share"])
    set_value_axis(axes, picture, shown)
    draw_published(axes, picture)
    num_grey = len(jobs) - len(named)
    figure.legend(
        loc="outside lower center",
        ncols=ENTRIES_A_ROW,
        fontsize=8,
        frameon=False,
        title=f"{NUM_NAMED} {picture.best and 'best '}runs, {num_grey} others in grey"
        * bool(num_grey),
        title_fontsize=8,
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
    plt.close(figure)
    return True


def set_value_axis(axes: Axes, picture: Picture, shown: Sequence[Series]) -> None:
    """Name the value axis and choose its scale."""
    axes.set_ylabel(picture.label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if picture.name == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    elif picture.name == "learning_rate":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    elif picture.name == "photos_a_second":
        axes.set_ylim(bottom=0)
    elif picture.name == "loss":
        values = np.concatenate([series.value for series in shown])
        values = values[np.isfinite(values)]
        if len(values) and values.min() > 0 and values.max() > LARGEST_LINEAR_RATIO * values.min():
            axes.set_yscale("log")
            axes.set_ylabel("loss, logarithmic axis")


def main(argv: list[str] | None = None) -> None:
    """Draw all pictures that the csv files hold figures for."""
    parser = StrictParser(__doc__)
    parser.add_argument("csvs", nargs="+", type=Path, metavar="CSV", help="of parse_logs.py")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="FOLDER")
    with parser.errors_of_one_line():
        arguments = parser.parse_args(argv)
        series = read_series(arguments.csvs, {picture.figure for picture in PICTURES})
        paths = [
            path
            for picture in PICTURES
            for axis in ("epoch", "step")
            if draw(
                picture, series, axis, path := picture_path(arguments.output_dir, picture, axis)
            )
        ]
        if not paths:
            raise ValueError(f"no curve in {', '.join(map(str, arguments.csvs))}.")
        print(*paths, sep="\n")


def picture_path(output_dir: Path, picture: Picture, axis: str) -> Path:
    """Return where a picture goes."""
    return output_dir / f"{picture.name}_by_{axis}.png"


if __name__ == "__main__":
    main()
