"""A picture of finished runs beside what others published: accuracy and RMSE, one row each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no window: also on a machine without a display

from matplotlib import pyplot as plt

from published_results import PUBLISHED
from whole_outputs import whole_file

WIDTH, ROW_HEIGHT, FRAME_HEIGHT = 10.0, 0.5, 1.0  # inches
DOTS_PER_INCH = 144
OURS, MAJORITY, OTHERS = "#2b6cb0", "black", "grey"
Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class PictureRow:
    """One line of the picture; accuracy in %, RMSE in items, None where it is not known."""

    label: str
    accuracy: Interval | None
    rmse: Interval | None
    color: str


def published_rows() -> list[PictureRow]:
    """Return what others published, which has no intervals; a range is one."""
    rows = []
    for result in PUBLISHED:
        low, high = (100 * share for share in result.accuracy)
        rmse = None if result.rmse is None else (result.rmse, result.rmse, result.rmse)
        rows.append(PictureRow(result.label, ((low + high) / 2, low, high), rmse, OTHERS))
    return rows


def draw_rows(rows: Sequence[PictureRow], warning: str, path: Path) -> None:
    """Draw rows from the top, those of others below them.

    Args:
        warning: what a reader must know to read it; may be empty.
    """
    rows = [*rows, *published_rows()]
    figure, panels = plt.subplots(
        1,
        2,
        sharey=True,
        figsize=(WIDTH, FRAME_HEIGHT + ROW_HEIGHT * len(rows)),
        layout="constrained",
    )
    heights = range(len(rows), 0, -1)
    for axes, name, values in (
        (panels[0], "accuracy, %", [row.accuracy for row in rows]),
        (panels[1], "RMSE, items", [row.rmse for row in rows]),
    ):
        for height, row, interval in zip(heights, rows, values, strict=True):
            if interval is None:
                continue
            value, low, high = interval
            axes.plot([low, high], [height, height], color=row.color, linewidth=2, alpha=0.5)
            # A range of several results has no value of its own.
            if row.color != OTHERS or low == high:
                axes.plot(value, height, "o", color=row.color)
            text = f"{value:.3f}" if axes is panels[1] else f"{value:.1f}"
            if row.color == OTHERS and low != high:
                text = f"{low:.0f}-{high:.0f}"
            axes.annotate(
                text,
                (value, height),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=row.color,
            )
        axes.set_xlabel(name)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.25)
        axes.margins(x=0.12)
    panels[0].set_yticks(heights, [row.label for row in rows], fontsize=8)
    panels[0].set_ylim(0.5, len(rows) + 0.8)
    for tick, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        tick.set_color(row.color)
    figure.suptitle(warning, fontsize=8, color="#c53030")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
    plt.close(figure)
