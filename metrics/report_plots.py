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
# Of a kind of wrong records that is judged without them too, and how it is drawn.
WITH_MORE = {"_with_visits_and_items": "o-.", "_with_visits": "o:", "_with_items": "o--"}
MISSING = "missing"
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
        suffix = next((suffix for suffix in WITH_MORE if name.endswith(suffix)), "")
        color = colors[name.removesuffix(suffix)]
        rows = kind["budgets"]
        checked = [0.0, *(row["budget"] for row in rows), 1.0]
        value, low, high = ([0.0, *(row["found"][k] for row in rows), 1.0] for k in BOUNDS)
        label = name.replace("_", " ")
        style = WITH_MORE.get(suffix, "o-")
        axes.plot(checked, value, style, markersize=3, color=color, label=label)
        if not suffix:  # all bands would hide one another
            axes.fill_between(checked, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="random checks")
    axes.set_xlabel("bins checked by hand")
    axes.set_ylabel("wrong records found")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, loc="lower right", fontsize=7)


def draw_item_errors(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw how many of the records are found that name an item too many, by its volume."""
    (error,) = (each for each in figures["item_errors"] if each["name"] == MISSING)
    sizes = error["sizes"]
    judges = list(error["judges"])
    width = 0.8 / len(judges)
    for place, (judge, color) in enumerate(zip(judges, (GREY, BLUE, GREEN, RED), strict=False)):
        value, low, high = (
            np.array([size["judges"][judge]["found"][bound] for size in sizes]) for bound in BOUNDS
        )
        at = np.arange(len(sizes)) + (place - (len(judges) - 1) / 2) * width
        off = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
        axes.bar(at, value, width, yerr=off, color=color, label=judge, error_kw={"linewidth": 1})
    axes.axhline(error["budget"], color=GREY, linestyle="--", linewidth=1, label="random checks")
    names = [f"{size['low']:,.0f} to {size['high']:,.0f}" for size in sizes]
    axes.set_xticks(range(len(sizes)), names)
    axes.set_xlabel("volume of what is missing, cubic inches")
    axes.set_ylabel(f"found at {error['budget']:.0%} of the checks")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, loc="upper left", fontsize=7)


# File name: what the report calls it, and who draws it.
PLOTS: dict[str, tuple[str, Callable[[Axes, dict[str, Any]], None]]] = {
    "confusion_matrix": ("Confusion matrix", draw_confusion_matrix),
    "by_count": ("Accuracy and RMSE for each count", draw_by_count),
    "reliability": ("Reliability", draw_reliability),
    "risk_coverage": ("Risk against coverage", draw_risk_coverage),
    "by_distinct_items": ("By number of distinct items", draw_by_distinct_items),
    "visits": ("Changes between two visits", draw_changes),
    "audit": ("Wrong records found", draw_audit),
    "item_errors": ("Missing items found, by their volume", draw_item_errors),
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
