"""Plots as SVG and PNG text for a page without scripts; numbers in, markup out."""

import base64
import html
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 34
MOST_POINTS = 300  # of a curve; more are averaged in groups
MOST_COLUMNS = 200  # of a map
# Dark to light, as matplotlib's viridis; what is not finite is red.
COLOURS = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=float
)
NOT_FINITE = (200, 30, 30)


class Curve(NamedTuple):
    """A named line of a plot: xs and ys of the same length; ys may hold nan."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    is_dotted: bool = False


def line_plot(title: str, unit: str, curves: Sequence[Curve], is_logarithmic: bool = False) -> str:
    """Return a figure with one plot of all curves against the step; empty without a point."""
    drawn = [_thinned(curve, is_logarithmic) for curve in curves]
    drawn = [curve for curve in drawn if len(curve.xs)]
    if not drawn:
        return ""
    xs = np.concatenate([curve.xs for curve in drawn])
    ys = np.concatenate([curve.ys for curve in drawn])
    x_low, x_high = float(xs.min()), max(float(xs.max()), float(xs.min()) + 1)
    y_low, y_high = _range(ys, is_logarithmic)

    def x_of(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    marks = []
    for value in _ticks(y_low, y_high, is_logarithmic):
        y = y_of(value)
        shown = _number(10**value if is_logarithmic else value)
        place = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        marks.append(f'<line class="grid" {place}/>')
        marks.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{shown}</text>')
    for value in _ticks(x_low, x_high, False):
        if value % 1:  # there are no half steps
            continue
        marks.append(
            f'<text x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">'
            f"{_number(value)}</text>"
        )
    lines, names = [], []
    for number, curve in enumerate(drawn):
        points = " ".join(
            f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in zip(curve.xs, curve.ys, strict=True)
        )
        style = f'class="curve c{number}"' + (' stroke-dasharray="4 3"' if curve.is_dotted else "")
        lines.append(f'<polyline {style} points="{points}"/>')
        if len(curve.xs) == 1 or curve.is_dotted:
            lines += [
                f'<circle class="dot c{number}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3"/>'
                for x, y in zip(curve.xs, curve.ys, strict=True)
            ]
        last = 10 ** curve.ys[-1] if is_logarithmic else curve.ys[-1]
        names.append(
            f'<span class="key c{number}">{html.escape(curve.name)}: {_number(float(last))}</span>'
        )
    heading = html.escape(title) + (f", {html.escape(unit)}" if unit else "")
    return (
        f'<figure><h3>{heading}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{heading}">{"".join(marks)}{"".join(lines)}'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text></svg>'
        f"<figcaption>Last: {' '.join(names)}</figcaption></figure>"
    )


def layer_map(title: str, names: Sequence[str], steps: Sequence[int], values: np.ndarray) -> str:
    """Return a figure with a row a layer and a column a measurement, coloured by magnitude.

    Args:
        values: float (num_measurements, num_layers), 0 or more; empty where nothing was measured.
    """
    if values.size == 0 or not np.isfinite(values).any():
        return ""
    kept = np.unique(np.linspace(0, len(values) - 1, MOST_COLUMNS).round().astype(int))
    values = values[kept].T
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    # Zero has no magnitude: it is as dark as the least.
    share = np.log10(np.clip(values, low, high) / low) / (math.log10(high / low) or 1.0)
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(np.nan_to_num(share), stops, COLOURS[:, c]) for c in range(3)]
    pixels = np.stack(channels, axis=-1)
    pixels[~np.isfinite(values)] = NOT_FINITE
    buffer = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(buffer, format="PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    rows = "".join(
        f'<li title="{html.escape(name)}">{html.escape(short_name(name))}</li>' for name in names
    )
    heading = html.escape(title)
    colours = "All are 0."
    if positive.size:
        colours = (
            f"Dark is {_number(float(low))}{' or less' if (values < low).any() else ''}, light is "
            f"{_number(float(high))}, by order of magnitude; red is no number."
        )
    return (
        f'<figure class="map"><h3>{heading}</h3><div class="rows" tabindex="0"><ol>{rows}</ol>'
        f'<img src="data:image/png;base64,{picture}" alt="{heading} by layer and step" '
        f'style="height: {len(names)}rem"></div><figcaption>Step {steps[0]} to {steps[-1]}, left '
        f"to right. {colours}</figcaption></figure>"
    )


def short_name(name: str) -> str:
    """Return a layer's place and its last words: encoder.layer.3.output.dense, 3 output.dense."""
    parts = name.split(".")
    place = ".".join(part for part in parts if part.isdigit())
    words = ".".join([part for part in parts if not part.isdigit()][-2:])
    return f"{place} {words}".strip()


def _thinned(curve: Curve, is_logarithmic: bool) -> Curve:
    """Return a curve of finite values and at most MOST_POINTS, as logarithms where asked for."""
    xs, ys = np.asarray(curve.xs, dtype=float), np.asarray(curve.ys, dtype=float)
    kept = np.isfinite(ys) & ((ys > 0) | (not is_logarithmic))
    xs, ys = xs[kept], ys[kept]
    if is_logarithmic:
        ys = np.log10(ys)
    if len(xs) > MOST_POINTS:
        starts = np.linspace(0, len(xs), MOST_POINTS, endpoint=False).astype(int)
        sizes = np.diff(np.append(starts, len(xs)))
        xs, ys = np.add.reduceat(xs, starts) / sizes, np.add.reduceat(ys, starts) / sizes
    return curve._replace(xs=xs.tolist(), ys=ys.tolist())


def _range(ys: np.ndarray, is_logarithmic: bool) -> tuple[float, float]:
    low, high = float(ys.min()), float(ys.max())
    if not is_logarithmic and 0 <= low < high / 2:
        low = 0.0  # a share or a time that is half of another should look so
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5 * max(abs(low), 1e-6), high + 0.5 * max(abs(high), 1e-6)
    return low, high


def _ticks(low: float, high: float, is_logarithmic: bool) -> list[float]:
    """Return two to six round numbers from low to high, both logarithms where that is the scale."""
    if is_logarithmic:
        decades = range(math.floor(low), math.ceil(high) + 1)
        every = max(1, round((high - low) / 4))
        digits = (1, 2, 5) if high - low < 2 else (1,)
        found = [d + math.log10(digit) for d in decades[::every] for digit in digits]
        return [value for value in found if low <= value <= high]
    raw = (high - low) / 4
    magnitude = 10 ** math.floor(math.log10(raw))
    step = min((m * magnitude for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [step * n for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    """Return a number as short as it can be read: 0.25, 1,200, 3e-6."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
