"""Weights of evidence, none below 0, under which something is likeliest."""

from collections.abc import Callable

import numpy as np

NEWTON_STEPS, DIFFERENCE = 25, 1e-3


def likeliest(value: Callable[[np.ndarray], float], start: np.ndarray) -> np.ndarray:
    """Return the point of the greatest value, float (num_weights,), none of it below 0.

    Newton's method on differences, for those weights that may move: one at 0 that would go below it
    stays.

    Args:
        value: of a point, such as a log likelihood; smooth.
        start: float (num_weights,).
    """
    point = start
    for _ in range(NEWTON_STEPS):
        slope, curvature = derivatives(value, point)
        free = (point > 0) | (slope > 0)
        step = np.zeros(len(point))
        step[free] = -np.linalg.solve(curvature[np.ix_(free, free)], slope[free])
        if step @ slope < 0:  # downhill, where the likelihood is not concave
            step = np.where(free, slope, 0.0) / max(1.0, float(np.abs(slope).max()))
        while value(np.maximum(point + step, 0)) < value(point) and np.abs(step).max() > 1e-6:
            step = step / 2
        moved = np.maximum(point + step, 0)
        if np.abs(moved - point).max() < 1e-5:
            break
        point = moved
    return point


def derivatives(
    value: Callable[[np.ndarray], float], point: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return slope (n,) and curvature (n, n) of a function, by central differences."""
    steps = np.eye(len(point)) * DIFFERENCE
    slope = np.array([(value(point + s) - value(point - s)) / (2 * DIFFERENCE) for s in steps])
    curvature = np.empty((len(point), len(point)))
    for row, a in enumerate(steps):
        for column, b in enumerate(steps):
            corners = (
                value(point + a + b)
                - value(point + a - b)
                - value(point - a + b)
                + value(point - a - b)
            )
            curvature[row, column] = corners / (4 * DIFFERENCE**2)
    return slope, curvature
