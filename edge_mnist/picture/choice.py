"""Choosing which connected parts of the ink belong to one digit."""

import numpy as np
from numpy.typing import NDArray

from edge_mnist.picture.components import Components, Grey, Mask, find_components, join_components
from edge_mnist.picture.morphology import measure_thickness, spread

PHOTO_SIDE = 100  # a smaller picture is a canvas: neither noise nor shadow to take away
LEAST_STEEPNESS = 0.15  # of full ink, from one pixel to the next
PIECE_SHARE = 0.04  # of the largest component's ink; less is a speck


def choose_components(components: Components, ink: Grey) -> tuple[Mask, bool] | None:
    """Choose the components of one digit.

    Returns:
        The mask of those that belong to it, and whether another one of similar size does not.
        None if there is nothing.
    """
    if not components.n:
        return None
    components = join_pieces(components, ink)
    top, bottom, left, right = components.boxes()
    size = np.maximum(bottom - top, right - left)
    mass = components.sum_over(ink)
    steepness = np.hypot(*np.gradient(ink)).astype(np.float32)
    slope = components.sum_over(steepness)
    touches = _count_touches(components)
    dropped = _find_clutter(components, size, mass)
    # Strokes have sharp edges, what is left of shadows has not; the middle is likelier.
    score = np.where(dropped, 0, slope * size * np.where(touches > 0, 0.35, 1.0))
    score *= _are_sharp(components, score, ink, steepness)
    if score.max() <= 0:
        return None
    main = int(score.argmax())
    apart_x = np.maximum(0, np.maximum(left - right[main], left[main] - right))
    apart_y = np.maximum(0, np.maximum(top - bottom[main], top[main] - bottom))
    gap = np.hypot(apart_x, apart_y) / size[main]
    share = mass / mass[main]
    near = (share >= 0.02) & (gap <= 0.12)
    middling = (share >= 0.08) & (gap <= 0.3) & (touches <= touches[main])
    tall = bottom - top
    similar = ~dropped & (tall >= 0.6 * tall[main]) & (share >= 0.35) & (touches == 0)
    level = np.minimum(bottom, bottom[main]) - np.maximum(top, top[main])
    # A digit of its own, not a piece of this one.
    beside = similar & (apart_x > 0.08 * size[main]) & (level > 0.6 * np.minimum(tall, tall[main]))
    kept = ~dropped & ~beside & (near | middling)
    kept[main] = True
    return components.mask_of(kept), bool((similar & ~kept).any())


def join_pieces(components: Components, ink: Grey) -> Components:
    """Join the pieces of a stroke that was interrupted: no further apart than it is thick."""
    top, bottom, left, right = components.boxes()
    size, mass = np.maximum(bottom - top, right - left), components.sum_over(ink)
    clutter = _find_clutter(components, size, mass)
    if clutter.all():
        return components
    pieces = ~clutter & (mass >= PIECE_SHARE * mass[~clutter].max())
    if pieces.sum() < 2:
        return components
    mask = components.mask_of(pieces)
    reach = int(measure_thickness(mask)) | 1  # half of it from either side
    grown = spread(spread(mask.astype(np.float32), reach, 0), reach, 1)
    joined = find_components(grown > 0)
    numbers = joined.number_pixels()
    first = np.unique(components.labels, return_index=True)[1]  # a run of each component
    groups = numbers[components.rows[first], components.starts[first]]
    alone = joined.n + np.arange(components.n)
    return join_components(components, np.where(pieces, groups, alone))


def _find_clutter(
    components: Components, size: NDArray[np.intp], mass: NDArray[np.float64]
) -> Mask:
    """Find lines across the sheet, printed boxes and, where there is more, dark sheet edges."""
    top, bottom, left, right = components.boxes()
    height, width = components.shape
    tall, wide = bottom - top, right - left
    side = (height * width) ** 0.5
    line = (wide > 0.75 * width) & (tall < 0.1 * height)
    line |= (tall > 0.75 * height) & (wide < 0.04 * width) & (side > PHOTO_SIDE)
    edge = (wide > 0.5 * width) & (tall < 0.16 * height)
    edge |= (tall > 0.5 * height) & (wide < 0.16 * width)
    edge &= _count_touches(components) > 0
    # Along a side and into a corner. A 1 that is cut tight reaches from edge to edge, too.
    corner = ((left == 0) | (right == width)) & ((top == 0) | (bottom == height))
    line |= edge & corner & (side > PHOTO_SIDE)
    clutter = line | _find_boxes(components, size, mass)
    if (~clutter & ~edge & (size > 0.04 * side)).any():
        clutter |= edge
    return clutter


def _are_sharp(
    components: Components, score: NDArray[np.float64], ink: Grey, steepness: Grey
) -> Mask:
    """Tell ink from what a shadow leaves at the border, where no sheet is seen beyond it.

    Only the candidates in front are looked at, down to the first that is sharp.
    """
    sharp = np.ones(components.n, bool)
    touches = _count_touches(components)
    for one in np.argsort(-score)[:6]:
        if touches[one]:
            mask = components.mask_of(np.arange(components.n) == one)
            sharp[one] = steepness[mask].max() > LEAST_STEEPNESS * ink[mask].max()
        if sharp[one]:
            break
    return sharp


def _find_boxes(components: Components, size: NDArray[np.intp], mass: NDArray[np.float64]) -> Mask:
    """Find frames: large components with much ink inside that is not theirs."""
    top, bottom, left, right = components.boxes()
    boxes = np.zeros(components.n, bool)
    for one in np.argsort(-size)[:6]:
        inside = (top > top[one]) & (bottom < bottom[one])
        inside &= (left > left[one]) & (right < right[one]) & (size > 0.25 * size[one])
        if size[one] >= 12 and inside.any():
            share_inside = mass[inside].max() / mass[one]
            boxes[one] = share_inside > 0.45 or (share_inside > 0.1 and _is_hollow(components, one))
    return boxes


def _is_hollow(components: Components, one: int) -> bool:
    """Tell whether nearly all of a component lies along the sides of its box."""
    top, bottom, left, right = (int(sides[one]) for sides in components.boxes())
    rim_y, rim_x = 0.12 * (bottom - top), 0.12 * (right - left)
    mine = components.labels == one
    rows, starts, ends = components.rows[mine], components.starts[mine], components.ends[mine]
    in_left = np.clip(np.minimum(ends, left + rim_x) - starts, 0, None)
    in_right = np.clip(ends - np.maximum(starts, right - rim_x), 0, None)
    in_rows = (rows < top + rim_y) | (rows >= bottom - rim_y)
    along = np.where(in_rows, ends - starts, in_left + in_right).sum()
    return bool(along > 0.8 * (ends - starts).sum())


def _count_touches(components: Components) -> NDArray[np.intp]:
    """Count the sides of the picture that each component touches."""
    top, bottom, left, right = components.boxes()
    height, width = components.shape
    sides = ((top == 0), (bottom == height), (left == 0), (right == width))
    return np.asarray(np.sum(sides, axis=0))
