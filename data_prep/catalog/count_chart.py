"""Draw how many bins there are for each count."""

import io
from collections.abc import Mapping

# Blue, orange and grey of the same weight: told apart by the colour-blind, and in grey print.
COLOURS = ("#4477aa", "#ee8866", "#999999", "#44aa99")
# Real bins hold up to 88 items, but few hold more than this: the rest share one bar.
LARGEST_BAR = 20


def draw_counts(series: Mapping[str, Mapping[int, int]], title: str) -> bytes:
    """Return a PNG with a bar for each count and series.

    Args:
        series: name -> count, items -> bins, such as {"train": {1: 900, 2: 1700}, "test": {1: 99}}.
            Counts above 20 are added up.
    """
    # Not at the head: the processes that prepare photos import this module's users, and draw none.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    counts = sorted({count for bins in series.values() for count in bins})
    bars = [count for count in counts if count <= LARGEST_BAR]
    names = [str(count) for count in bars]
    rest = [count for count in counts if count > LARGEST_BAR]
    if rest:
        names.append(f"{LARGEST_BAR + 1}+")
    num_bars = len(series) * len(names)
    figure = Figure(figsize=(min(13, max(6.0, 1.5 + 0.5 * num_bars)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.85 / max(len(series), 1)
    for index, (name, bins) in enumerate(series.items()):
        heights = [bins.get(count, 0) for count in bars]
        if rest:
            heights.append(sum(bins.get(count, 0) for count in rest))
        places = [place + (index - (len(series) - 1) / 2) * width for place in range(len(names))]
        drawn = axes.bar(places, heights, width, label=name, color=COLOURS[index % len(COLOURS)])
        # Numbers on the bars, as long as they are wide enough to be read.
        if num_bars <= 24:
            axes.bar_label(drawn, [f"{height:,}" for height in heights], fontsize=7, padding=2)
    axes.margins(x=0.01)
    axes.set_xticks(range(len(names)), names)
    axes.set(title=title, xlabel="items in the bin", ylabel="bins")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    if len(series) > 1:
        axes.legend(frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
