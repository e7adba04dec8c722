"""A picture of what is seen beside the reference: a panel a statistic."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")  # no window: also on a machine without a display

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from whole_outputs import whole_file

WIDTH, ROW_HEIGHT = 10.0, 3.0  # inches
NUM_COLUMNS = 3
DOTS_PER_INCH = 144
NUM_BARS = 25
REFERENCE, OBSERVED, DRIFTED = "#718096", "#2b6cb0", "#c53030"


@dataclass(frozen=True)
class Panel:
    """One statistic.

    Args:
        heading: its name, and what became of it.
        reference, observed: float (num_reference,), (num_observed,).
        counts: the values that it may have; empty: any.
    """

    heading: str
    reference: np.ndarray
    observed: np.ndarray
    is_drifted: bool
    counts: tuple[int, ...] = ()


def draw_drift(panels: Sequence[Panel], names: tuple[str, str], path: Path) -> None:
    """Draw distributions beside one another.

    Args:
        names: of reference and observed photos, for the legend.
    """
    num_rows = -(-len(panels) // NUM_COLUMNS)
    figure, all_axes = plt.subplots(
        num_rows,
        NUM_COLUMNS,
        figsize=(WIDTH, ROW_HEIGHT * num_rows),
        layout="constrained",
        squeeze=False,
    )
    for axes in all_axes.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(all_axes.flat, panels, strict=False):
        _draw(axes, panel, names)
    all_axes[0, 0].legend(fontsize=8, frameon=False)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
    plt.close(figure)


def _draw(axes: Axes, panel: Panel, names: tuple[str, str]) -> None:
    color = DRIFTED if panel.is_drifted else OBSERVED
    if panel.counts:
        edges = np.append(panel.counts, panel.counts[-1] + 1) - 0.5
        axes.set_xticks(panel.counts)
    else:
        both = np.concatenate([panel.reference, panel.observed])
        edges = np.histogram_bin_edges(both, NUM_BARS)
    before, now = (
        np.histogram(values, edges)[0] / len(values) for values in (panel.reference, panel.observed)
    )
    axes.stairs(before, edges, fill=True, label=names[0], color=REFERENCE, alpha=0.45)
    axes.stairs(now, edges, label=names[1], color=color, linewidth=2)
    axes.set_title(panel.heading, fontsize=10, color=color if panel.is_drifted else "black")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
