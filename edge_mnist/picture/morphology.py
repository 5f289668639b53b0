"""Growing, closing and opening of images, with numpy alone."""

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.float32]


def close_gaps(levels: Levels, window: int) -> Levels:
    """Grey closing: fill everything dark that is narrower than ``window`` pixels."""
    grown = spread(spread(levels, window, 0), window, 1)
    return -spread(spread(-grown, window, 0), window, 1)


def open_along(values: Levels, window: int, axis: int) -> NDArray[np.bool_]:
    """Binary opening along an axis: what is at least ``window`` pixels long there."""
    return spread(-spread(-values, window, axis), window, axis) > 0


def spread(values: Levels, window: int, axis: int) -> Levels:
    """Return the running maximum over ``window`` pixels (made odd), by doubling."""
    radius = window // 2
    padding = [(0, 0), (0, 0)]
    padding[axis] = (radius, radius)
    current = np.moveaxis(np.pad(values, padding, mode="edge"), axis, 0)
    size, wanted = 1, 2 * radius + 1
    while size < wanted:
        step = min(size, wanted - size)
        current = np.maximum(current[:-step], current[step:])
        size += step
    return np.moveaxis(current, 0, axis)


def measure_thickness(mask: NDArray[np.bool_]) -> float:
    """Return how thick the strokes of a mask are on average, in pixels."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    n_outline = max(1, int(mask.sum()) - int(inner.sum()))
    return 2 * int(mask.sum()) / n_outline
