"""The pictures of the evaluation report, each from the report's own figures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no window: also on a machine without a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from whole_outputs import whole_file

BOUNDS = ("value", "low", "high")
WIDTH, HEIGHT = 5.2, 4.0  # inches
BLUE, GREY, RED, GREEN = "#2b6cb0", "#718096", "#c53030", "#2f855a"
# Of a kind of wrong records that is judged without them too.
WITH_VISITS, WITH_ITEMS = "_with_visits", "_with_items"
DOTS_PER_INCH = 144


def draw_confusion_matrix(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw shares of each row, with the numbers of photos."""
    matrix = np.array(figures["confusion_matrix"])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        axes.text(
            column,
            row,
            f"{shares[row, column]:.0%}\n{matrix[row, column]:,}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.55 else "black",
        )
    ticks = range(len(matrix))
    axes.set_xticks(ticks, [str(count) for count in figures["counts"]])
    axes.set_yticks(ticks, [str(count) for count in figures["counts"]])
    axes.set_xlabel("items that the model counts")
    axes.set_ylabel("items that the inventory expects")


def draw_changes(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw shares of each recorded change, with the numbers of pairs."""
    matrix = np.array(figures["visits"]["change_matrix"])
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(matrix):
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if shares[row, column] > 0.55 else "black",
        )
    ticks, names = range(len(matrix)), [f"{c:+d}" for c in figures["visits"]["possible_changes"]]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.set_xlabel("change that two photos show")
    axes.set_ylabel("change in the records")


def draw_by_count(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw accuracy and RMSE for each expected count."""
    _draw_by_key(axes, figures["by_count"], "items that the inventory expects")


def draw_by_distinct_items(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw accuracy and RMSE by the number of different items in a bin."""
    _draw_by_key(axes, figures["by_distinct_items"], "different items in the bin")


def _draw_by_key(axes: Axes, rows: list[dict[str, Any]], label: str) -> None:
    keys = [row["key"] for row in rows]
    for name, offset, color, side in (
        ("accuracy", -0.12, BLUE, axes),
        ("rmse", 0.12, RED, axes.twinx()),
    ):
        value, low, high = (np.array([row[name][kind] for row in rows]) for kind in BOUNDS)
        side.errorbar(
            np.array(keys) + offset,
            value,
            # A value may lie outside the interval of a handful of photos.
            yerr=np.maximum([value - low, high - value], 0),
            fmt="o",
            capsize=3,
            color=color,
        )
        side.tick_params(axis="y", labelcolor=color)
        side.set_ylim(bottom=0)
        if name == "accuracy":
            side.set_ylim(0, 1.02)  # a cap at 100 % is seen whole
            side.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            side.set_ylabel("accuracy", color=color)
        else:
            side.set_ylabel("RMSE, items", color=color)
    axes.set_xticks(keys, [f"{row['key']}\n({row['num_bins']:,})" for row in rows])
    axes.set_xlabel(f"{label} (photos)")


def draw_reliability(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw accuracy against confidence, with the number of photos at each level."""
    rows = figures["reliability"]
    middle = [(row["low"] + row["high"]) / 2 for row in rows]
    photos = np.array([row["num_bins"] for row in rows])
    axes.bar(
        middle, photos / photos.sum(), width=0.09, color=GREY, alpha=0.35, label="share of photos"
    )
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--", label="honest")
    axes.plot(
        [row["confidence"] for row in rows],
        [row["accuracy"] for row in rows],
        "o-",
        color=BLUE,
        label="model",
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("probability of the most likely count")
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left", frameon=False)


def draw_risk_coverage(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw the share of wrong answers among the surest photos."""
    curve = figures["risk_coverage"]
    axes.plot(curve["coverage"], curve["risk"], color=BLUE)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("photos answered, the surest first")
    axes.set_ylabel("wrong among them")


def draw_audit(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw how many of the wrong records are found by checking some of the bins."""
    colors = {"real_pairs": BLUE, "symmetric_errors": RED, "real_changes": GREEN}
    for name, kind in figures["audit"]["kinds"].items():
        base = name.removesuffix(WITH_VISITS).removesuffix(WITH_ITEMS)
        color = colors[base]
        rows = kind["budgets"]
        checked = [0.0, *(row["budget"] for row in rows), 1.0]
        value, low, high = ([0.0, *(row["found"][k] for row in rows), 1.0] for k in BOUNDS)
        is_base = name == base
        style = "o-" if is_base else "o--" if name.endswith(WITH_ITEMS) else "o:"
        label = name.replace("_", " ")
        axes.plot(checked, value, style, markersize=3, color=color, label=label)
        if is_base:  # five bands hide one another
            axes.fill_between(checked, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="random checks")
    axes.set_xlabel("bins checked by hand")
    axes.set_ylabel("wrong records found")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, loc="lower right")


# File name: what the report calls it, and who draws it.
PLOTS: dict[str, tuple[str, Callable[[Axes, dict[str, Any]], None]]] = {
    "confusion_matrix": ("Confusion matrix", draw_confusion_matrix),
    "by_count": ("Accuracy and RMSE for each count", draw_by_count),
    "reliability": ("Reliability", draw_reliability),
    "risk_coverage": ("Risk against coverage", draw_risk_coverage),
    "by_distinct_items": ("By number of distinct items", draw_by_distinct_items),
    "visits": ("Changes between two visits", draw_changes),
    "audit": ("Wrong records found", draw_audit),
}


def write_plots(figures: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write a PNG for each figure that is known and return their paths by name."""
    paths = {}
    for name, (_, draw) in PLOTS.items():
        if figures.get(name, ()) is None:  # no dataset, no visits, or no audit
            continue
        figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(axes, figures)
        axes.spines[["top"]].set_visible(False)
        paths[name] = folder / f"{name}.png"
        with whole_file(paths[name]) as temporary:
            figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
        plt.close(figure)
    return paths
