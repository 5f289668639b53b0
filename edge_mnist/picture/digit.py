"""Growing, closing and opening of images, with numpy alone.

Connected parts of a mask, with numpy alone.

Choosing which connected parts of the ink belong to one digit.

Finding the ink of one digit in a grey picture, whatever sheet, light and pen.

The sheet is what a grey closing leaves of the picture: it follows shadows, and takes away what is
narrower than its window. Strokes stand out against it by contrast and by sharp edges, shadows do
not; ruled lines run across the sheet; a printed box has the digit inside.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

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


Mask = NDArray[np.bool_]
Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Components:
    """The 8-connected parts of a mask, as horizontal runs of pixels.

    Attributes:
        shape: Height and width of the mask.
        rows: Row of each run.
        starts: First column of each run.
        ends: Column after the last one of each run.
        labels: Which component each run belongs to, 0 .. n - 1.
        n: Number of components.
    """

    shape: tuple[int, int]
    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    labels: NDArray[np.intp]
    n: int

    def sum_over(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Add up an image's values over each component; ``values`` has the mask's shape."""
        height, width = self.shape
        running = np.zeros((height, width + 1))
        np.cumsum(values, axis=1, out=running[:, 1:])
        runs = running[self.rows, self.ends] - running[self.rows, self.starts]
        sums = np.bincount(self.labels, weights=runs, minlength=self.n)
        return sums.astype(np.float64)

    def boxes(self) -> tuple[NDArray[np.intp], ...]:
        """Return top, bottom, left and right of each component; bottom and right lie outside."""
        height, width = self.shape
        top, bottom = np.full(self.n, height), np.zeros(self.n, np.intp)
        left, right = np.full(self.n, width), np.zeros(self.n, np.intp)
        np.minimum.at(top, self.labels, self.rows)
        np.maximum.at(bottom, self.labels, self.rows + 1)
        np.minimum.at(left, self.labels, self.starts)
        np.maximum.at(right, self.labels, self.ends)
        return top, bottom, left, right

    def number_pixels(self) -> NDArray[np.intp]:
        """Return each pixel's component, shape (H, W); -1 outside of all."""
        numbers = np.full(self.shape, -1)
        runs = zip(self.rows.tolist(), self.starts.tolist(), self.ends.tolist(), strict=True)
        for (row, start, end), label in zip(runs, self.labels.tolist(), strict=True):
            numbers[row, start:end] = label
        return numbers

    def mask_of(self, keep: Mask) -> Mask:
        """Return the mask of some components; ``keep`` has one entry for each."""
        height, width = self.shape
        change = np.zeros((height, width + 1), np.int8)
        kept = keep[self.labels]
        change[self.rows[kept], self.starts[kept]] += 1
        change[self.rows[kept], self.ends[kept]] -= 1
        return np.cumsum(change, axis=1, dtype=np.int8)[:, :width] > 0


def join_components(components: Components, groups: NDArray[np.intp]) -> Components:
    """Return the same runs with every component replaced by its group's number, 0 .. n - 1."""
    names, numbers = np.unique(groups, return_inverse=True)
    labels = numbers.reshape(-1)[components.labels]
    return dataclasses.replace(components, labels=labels, n=len(names))


def find_components(mask: Mask) -> Components:
    """Find the 8-connected parts of a mask."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    roots = _join_runs(rows, starts, ends, height)
    names, labels = np.unique(roots, return_inverse=True)
    return Components((height, width), rows, starts, ends, labels.reshape(-1), len(names))


def _join_runs(
    rows: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp], height: int
) -> NDArray[np.intp]:
    """Return for each run the first run it is connected with, through touching runs."""
    parents = list(range(len(rows)))

    def find(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    first_of_row = np.searchsorted(rows, np.arange(height + 1)).tolist()
    begin, end = starts.tolist(), ends.tolist()
    for row in range(1, height):
        above, here, after = first_of_row[row - 1 : row + 2]
        upper, lower = above, here
        while upper < here and lower < after:
            if end[upper] >= begin[lower] and end[lower] >= begin[upper]:
                first, second = find(upper), find(lower)
                parents[max(first, second)] = min(first, second)
            if end[upper] < end[lower]:
                upper += 1
            else:
                lower += 1
    return np.array([find(run) for run in range(len(rows))], np.intp)


PHOTO_SIDE = 100  # a smaller picture is a canvas: neither noise nor shadow to take away
LEAST_STEEPNESS = 0.15  # of full ink, from one pixel to the next
PIECE_SHARE = 0.04  # of the largest component's ink; less is a speck


def choose_components(
    components: Components, ink: Grey, *, keep_all: bool = False
) -> tuple[Mask, bool] | None:
    """Choose the components of one digit.

    Args:
        components: All there are.
        ink: Amount of ink at each pixel, shape (H, W), float32.
        keep_all: Choose every component but specks, lines across the sheet and its dark edges:
            a sign may have several parts, and one inside of another.

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
    dropped = _find_clutter(components, size, mass, with_boxes=not keep_all)
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
    if keep_all:
        large = (share >= PIECE_SHARE) & (touches <= touches[main])
        return components.mask_of(~dropped & (near | middling | large)), False
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
    components: Components,
    size: NDArray[np.intp],
    mass: NDArray[np.float64],
    *,
    with_boxes: bool = True,
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
    clutter = line | _find_boxes(components, size, mass) if with_boxes else line
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


WORK_PIXELS = 256 * 256  # a digit of 5 % of the height is still 13 pixels high
WORK_SIDE, LEAST_SIDE = 2048, 3  # for long strips; one less wide than 3 pixels shows no digit
TINY_SIDE = 40
SHEET_WINDOW = 0.14  # of the side; wider than a stroke, narrower than a shadow
LEAST_CONTRAST = 10  # grey levels
THINNEST_PX = 1.9  # of 20; MNIST's own pens are 2 to 4
LEAST_SIZE = 5  # pixels of the working picture


@dataclass(frozen=True)
class Ink:
    """The ink of what looks most like one digit.

    Attributes:
        amount: How much ink each pixel holds, 0..1, float32, cropped to the digit.
        has_more: Whether something of similar size lies elsewhere on the sheet.
    """

    amount: Grey
    has_more: bool


def find_ink(grey: NDArray[np.uint8], *, keep_all: bool = False) -> Ink | None:
    """Find the ink of one digit.

    Args:
        grey: Grey levels, shape (H, W), uint8.
        keep_all: Take all the ink there is, not one digit's; see ``choose_components``.

    Returns:
        The ink, or None if the picture is blank.
    """
    levels = shrink(grey)
    if min(levels.shape) < LEAST_SIDE:
        return None
    if mean_side(levels) > PHOTO_SIDE:
        levels = blur(levels)
    if not is_ink_dark(levels):
        levels = 255 - levels
    ink = subtract_sheet(levels)
    threshold = choose_threshold(ink)
    if threshold is None:
        return None
    components = find_components(drop_lines(ink > threshold))
    choice = choose_components(components, ink, keep_all=keep_all)
    if choice is None:
        return None
    mask, has_more = choice
    amount = crop_ink(ink, mask)
    return None if max(amount.shape) < LEAST_SIZE else Ink(thicken(amount, mask), has_more)


def mean_side(levels: Grey) -> float:
    """Return the side of the square with as many pixels."""
    return float(levels.size**0.5)


def shrink(grey: NDArray[np.uint8]) -> Grey:
    """Bring a picture to at most ``WORK_PIXELS`` pixels and ``WORK_SIDE`` a side, averaging."""
    factor = min((WORK_PIXELS / grey.size) ** 0.5, WORK_SIDE / max(grey.shape))
    if factor >= 1:
        return grey.astype(np.float32)
    height, width = (max(1, round(side * factor)) for side in grey.shape)
    small = Image.fromarray(grey).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def blur(levels: Grey) -> Grey:
    """Take away the noise of single pixels, with a 1-2-1 kernel both ways."""
    padded = np.pad(levels, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4, np.float32)


def border_of(levels: Grey) -> Grey:
    """Return the outermost pixels."""
    return np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])


def is_ink_dark(levels: Grey) -> bool:
    """Tell the polarity: is the ink darker than the sheet?

    Two votes. Strokes differ more from their surroundings than the sheet between them does; that
    holds in shadow too, but not for strokes as thick as the gaps. The border is mostly sheet; that
    holds for thick strokes, but not in shadow.
    """
    radius = max(2, max(levels.shape) // 10)
    detail = np.sort((levels - box_blur(levels, radius)).ravel())
    n = max(6, int(0.003 * detail.size))
    darkest, lightest = -float(detail[:n].mean()), float(detail[-n:].mean())
    by_detail = (darkest - lightest) / (darkest + lightest + 1e-6)
    low, high = np.percentile(levels, [1, 99])
    low, high = (low + levels.min()) / 2, (high + levels.max()) / 2
    border = float(np.median(border_of(levels)))
    by_border = ((border - low) - (high - border)) / max(high - low, 1)
    return bool(0.3 * by_border + by_detail > 0)


def box_blur(levels: Grey, radius: int) -> Grey:
    """Average over squares of 2 radius + 1 pixels, the border continued outwards."""
    padded = np.pad(np.clip(levels, 0, 255), radius, mode="edge").astype(np.uint8)
    blurred = Image.fromarray(padded).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(blurred, np.float32)[radius:-radius, radius:-radius]


def subtract_sheet(levels: Grey) -> Grey:
    """Return how much darker each pixel is than the sheet there, in grey levels, 0 or more."""
    sheet = float(np.median(border_of(levels)))
    is_even = bool((np.abs(levels - sheet) <= 8).mean() > 0.5)
    if is_even or mean_side(levels) <= TINY_SIDE:
        return np.asarray(np.clip(sheet - levels, 0, None))
    local = close_gaps(levels, max(3, int(mean_side(levels) * SHEET_WINDOW)))
    # Smoother, but never lighter: else the edge of a hard shadow would look like a line of ink.
    local = np.minimum(local, box_blur(local, max(1, int(mean_side(levels)) // 40)))
    # Light falls on ink and paper alike, so ink in shadow is measured against its own paper.
    return np.asarray(np.clip(local - levels, 0, None) * (200 / np.maximum(local, 40)))


def choose_threshold(ink: Grey) -> float | None:
    """Return the amount above which a pixel is ink, or None if there is none."""
    n = max(12, int(0.002 * ink.size))
    n = min(n, ink.size)
    strongest = float(np.median(np.partition(ink.ravel(), -n)[-n:]))
    middle = float(np.median(ink))
    noise = middle + 1.48 * float(np.median(np.abs(ink - middle)))  # robust standard deviation
    if strongest < max(LEAST_CONTRAST, 4 * noise):
        return None
    is_clean = noise < 0.02 * strongest
    return max((0.25 if is_clean else 0.42) * strongest, 3 * noise)


def drop_lines(mask: Mask) -> Mask:
    """Take away the lines of ruled or squared paper: thin, straight, right across the sheet."""
    height, width = mask.shape
    if min(height, width) < 60:
        return mask
    values = mask.astype(np.float32)
    thick = max(5, int(0.03 * mean_side(values)))
    for axis, side in ((1, width), (0, height)):
        long = open_along(values, max(9, side // 8), axis) & ~open_along(values, thick, 1 - axis)
        if long.any(axis=1 - axis).mean() > 0.9:
            mask = mask & ~long
    return mask


def crop_ink(ink: Grey, mask: Mask) -> Grey:
    """Cut out the chosen ink with its soft edges, full ink as 1."""
    reach = 5 if mean_side(ink) > PHOTO_SIDE else 3
    around = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(reach))
    full = float(np.percentile(ink[mask], 70))
    amount = np.where(np.asarray(around) > 0, np.clip(ink / full, 0, 1), 0)
    amount[amount < 0.12] = 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return amount[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)


def thicken(amount: Grey, mask: Mask) -> Grey:
    """Make strokes that are too thin for 20 pixels as thick as a thin pen's in MNIST."""
    thickness = measure_thickness(mask)
    long_side = max(amount.shape)
    missing = round(THINNEST_PX * long_side / 20 - thickness)
    if missing < 1:
        return amount
    missing += missing % 2
    padded = np.pad(amount, missing // 2)
    return spread(spread(padded, missing + 1, 0), missing + 1, 1)
