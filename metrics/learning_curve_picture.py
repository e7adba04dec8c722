"""The picture of a learning curve: what was measured, and the law through it with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no window: also on a machine without a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from whole_outputs import whole_file

WIDTH, HEIGHT = 11.0, 3.8  # inches
DOTS_PER_INCH = 144
BLUE, GREY = "#2b6cb0", "#718096"


@dataclass(frozen=True)
class CurvePanel:
    """One figure by the number of training photos.

    Args:
        heading: its name, with its unit.
        num_photos: (num_sizes,), measured.
        measured: float (3, num_sizes): value, low, high.
        sizes: (num_points,), where the law is drawn, from small to large.
        law: float (3, num_points): value, low, high.
        foretold: (num_foretold,), positions in `sizes` that are marked.
        digits: of the values that are written beside the marks.
    """

    heading: str
    num_photos: np.ndarray
    measured: np.ndarray
    sizes: np.ndarray
    law: np.ndarray
    foretold: Sequence[int]
    digits: int


def draw_panels(panels: Sequence[CurvePanel], path: Path) -> None:
    """Draw figures side by side into a PNG."""
    figure, all_axes = plt.subplots(
        1, len(panels), figsize=(WIDTH, HEIGHT), layout="constrained", squeeze=False
    )
    for axes, panel in zip(all_axes[0], panels, strict=True):
        value, low, high = panel.law
        axes.fill_between(
            panel.sizes, low, high, color=GREY, alpha=0.2, linewidth=0, label="95 % of such laws"
        )
        axes.plot(panel.sizes, value, "--", color=GREY, linewidth=1.2, label="power law")
        for place in panel.foretold:
            axes.plot(panel.sizes[place], value[place], "o", color="white", markeredgecolor=GREY)
            _write_value(axes, panel, panel.sizes[place], value[place], GREY)
        value, low, high = panel.measured
        bars = [value - low, high - value]
        axes.errorbar(panel.num_photos, value, yerr=bars, fmt="o", color=BLUE, label="measured")
        _write_value(axes, panel, panel.num_photos[-1], value[-1], BLUE)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
        axes.set_xlabel("training photos")
        axes.set_title(panel.heading, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.margins(x=0.1)
    all_axes[0, 0].legend(fontsize=8, frameon=False, loc="best")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
    plt.close(figure)


def _write_value(axes: Axes, panel: CurvePanel, size: float, value: float, color: str) -> None:
    axes.annotate(
        f"{value:.{panel.digits}f}",
        (size, value),
        xytext=(5, 6),
        textcoords="offset points",
        ha="left",
        fontsize=8,
        color=color,
    )
