"""Find the ink of one digit in a grey picture, whatever the paper, the light and the pen.

The steps are those of document binarisation: the background is estimated by a grey closing and
subtracted, a global threshold gives a mask, and the mask's connected components are judged by
size, place and edge strength. The closing's window is wider than a stroke and narrower than a
shadow, so shadows stay in the background and strokes do not. What is left of a shadow's edge is
blurred where strokes are sharp; ruled lines span the page; a printed frame surrounds the digit.
"""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Levels = NDArray[np.float32]  # (H, W): grey levels 0..255, or amounts of ink
Mask = NDArray[np.bool_]  # (H, W), or one entry for each component
Indices = NDArray[np.intp]

WORK_PIXELS = 256 * 256  # larger pictures are downscaled; a digit 5 % as high is still 13 px high
WORK_SIDE_PX = 2048  # for long strips
PHOTO_SIDE_PX = 100  # smaller pictures are drawings: without noise, shadows or dark page edges
FLAT_SIDE_PX = 40  # up to here a closing's window would be as small as a stroke is wide
MIN_SIDE_PX = 3  # a narrower picture shows no digit
MIN_DIGIT_PX = 5  # longer side
MIN_CONTRAST = 10  # grey levels between ink and background
CLOSING_SHARE = 0.14  # window of the grey closing, as a share of the picture's side
MIN_EDGE = 0.15  # gradient per pixel of a sharp edge, as a share of full ink
MIN_FRAGMENT_SHARE = 0.04  # of the largest component's ink; less is a speck
MIN_STROKE_PX = 1.9  # in a box of 20 pixels; MNIST's own strokes are 2 to 4 pixels wide
SIDE_PX = 28  # of an MNIST image
MIN_BINARY_STROKE_PX = 1.5  # of images without grey levels; MNIST's 24 such images have 3.8 or more
BOX_PX = 20  # MNIST: "size normalized to fit in a 20x20 pixel box"
N_CANDIDATES = 6  # components, the most likely first, that are examined one by one
# Vectors for sums and first moments along a side.
_ONES, _COORDINATES = np.ones(SIDE_PX, np.float32), np.arange(SIDE_PX, dtype=np.float32)


@dataclass(frozen=True)
class Ink:
    """The ink of what looks most like one digit.

    Attributes:
        levels: Shape (H, W), uint8, 0 = background, 255 = full ink, cropped to the digit.
        has_more: Whether something of similar size lies elsewhere in the picture.
    """

    levels: NDArray[np.uint8]
    has_more: bool


def find_ink(grey: NDArray[np.uint8], *, keep_all: bool = False) -> Ink | None:
    """Find the ink of one digit.

    Args:
        grey: Grey levels, shape (H, W), uint8; ink is darker than the background or lighter.
        keep_all: Take all the ink, not one digit's; see ``_select_components``.

    Returns:
        The ink, or None if the picture is blank.
    """
    ink = measure_ink(grey)
    threshold = _choose_threshold(ink)
    if min(ink.shape) < MIN_SIDE_PX or threshold is None:
        return None
    components = find_components(_remove_ruled_lines(ink > threshold))
    selected = _select_components(components, ink, keep_all=keep_all)
    if selected is None:
        return None
    mask, has_more = selected
    amount = _crop_ink(ink, mask)
    if max(amount.shape) < MIN_DIGIT_PX:
        return None
    return Ink(to_levels(thicken_strokes(amount, mask)), has_more)


def find_mnist_image(grey: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return the levels of a picture that has the form of an MNIST image already, or None.

    Args:
        grey: Grey levels, shape (H, W), uint8; ink is darker than the background or lighter.
    """
    if grey.shape == (SIDE_PX, SIDE_PX):
        for levels in (grey, 255 - grey):
            if _is_mnist_image(levels):
                return levels
    return None


def measure_ink(grey: NDArray[np.uint8]) -> Levels:
    """Subtract the background: measure by how much each pixel is ink.

    Args:
        grey: Grey levels, shape (H, W), uint8.

    Returns:
        Contrast to the background, 0 or more, of the downscaled picture. On paper of uneven
        brightness it is relative to the paper's own, scaled as if that were 200.
    """
    levels = _downscale(grey)
    if _mean_side(levels) > PHOTO_SIDE_PX:
        levels = _binomial_filter(levels)
    if not _is_ink_dark(levels):
        levels = 255 - levels
    flat = border_median(levels)
    is_flat = bool((np.abs(levels - flat) <= 8).mean() > 0.5)
    if is_flat or _mean_side(levels) <= FLAT_SIDE_PX:
        return np.asarray(np.clip(flat - levels, 0, None))
    background = _close(levels, max(3, int(_mean_side(levels) * CLOSING_SHARE)))
    # Smoother, but never lighter: otherwise the edge of a hard shadow would look like a stroke.
    radius = max(1, int(_mean_side(levels)) // 40)
    background = np.minimum(background, _box_blur(background, radius))
    # Light multiplies ink and paper alike, so ink in shadow is measured against its own paper.
    gain = 200 / np.maximum(background, 40)
    return np.asarray(np.clip(background - levels, 0, None) * gain)


def _is_mnist_image(levels: NDArray[np.uint8]) -> bool:
    """Return whether an image of 28 x 28 has MNIST's form already, as all 70,000 of MNIST have.

    Mostly 0, full ink somewhere, longer side 20 (in 16 of the images 19), centre of mass within
    half a pixel of the middle. Strokes that are one pixel wide, without grey levels, are those of a
    paint program's pencil.
    """
    n_inked = np.count_nonzero(levels)
    if levels[0, 0] or levels.max() < 254 or 2 * n_inked > levels.size:
        return False
    if np.count_nonzero(levels == levels.max()) == n_inked and (
        mean_stroke_width(levels > 0) < MIN_BINARY_STROKE_PX
    ):
        return False
    # Matrix products: on arrays this small a third of the time of sum() and any().
    weight = levels.astype(np.float32)
    profiles = weight @ _ONES, _ONES @ weight  # ink in each row, and in each column
    inked = [profile.nonzero()[0] for profile in profiles]
    if max(int(places[-1] - places[0]) + 1 for places in inked) not in (BOX_PX - 1, BOX_PX):
        return False
    mass = float(profiles[0] @ _ONES)
    return all(13.4 < float(profile @ _COORDINATES) / mass < 14.6 for profile in profiles)


def border_median(levels: NDArray[np.generic]) -> float:
    """Return the median of the outermost pixels, most of which are background."""
    return float(np.median(np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])))


def _mean_side(image: NDArray[np.generic]) -> float:
    """Return the geometric mean of height and width, in pixels."""
    return float(image.size**0.5)


def _downscale(grey: NDArray[np.uint8]) -> Levels:
    """Average a picture down to ``WORK_PIXELS`` pixels and ``WORK_SIDE_PX`` a side at most."""
    factor = min((WORK_PIXELS / grey.size) ** 0.5, WORK_SIDE_PX / max(grey.shape))
    if factor >= 1:
        return grey.astype(np.float32)
    height, width = (max(1, round(side * factor)) for side in grey.shape)
    small = Image.fromarray(grey).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small, np.float32)


def _binomial_filter(levels: Levels) -> Levels:
    """Remove the noise of single pixels with the kernel 1-2-1 along both axes."""
    padded = np.pad(levels, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4, np.float32)


def _box_blur(levels: Levels, radius_px: int) -> Levels:
    """Average over squares of 2 ``radius_px`` + 1 pixels; the border is continued outwards."""
    padded = np.pad(np.clip(levels, 0, 255), radius_px, mode="edge").astype(np.uint8)
    blurred = Image.fromarray(padded).filter(ImageFilter.BoxBlur(radius_px))
    return np.asarray(blurred, np.float32)[radius_px:-radius_px, radius_px:-radius_px]


def _is_ink_dark(levels: Levels) -> bool:
    """Determine the polarity: is the ink darker than the background?

    Two cues, weighted. Strokes differ more from their local mean than the background between them:
    true in shadow too, but not of strokes as wide as the gaps. The border is mostly background:
    true of wide strokes too, but not in shadow.
    """
    radius_px = max(2, max(levels.shape) // 10)
    detail = np.sort((levels - _box_blur(levels, radius_px)).ravel())
    n = max(6, int(0.003 * detail.size))
    darkest, lightest = -float(detail[:n].mean()), float(detail[-n:].mean())
    by_detail = (darkest - lightest) / (darkest + lightest + 1e-6)
    low, high = np.percentile(levels, [1, 99])
    low, high = (low + levels.min()) / 2, (high + levels.max()) / 2
    border = border_median(levels)
    by_border = ((border - low) - (high - border)) / max(high - low, 1)
    return bool(0.3 * by_border + by_detail > 0)


def _choose_threshold(ink: Levels) -> float | None:
    """Return the contrast above which a pixel is ink, or None if nothing exceeds the noise."""
    n = min(max(12, int(0.002 * ink.size)), ink.size)
    strongest = float(np.median(np.partition(ink.ravel(), -n)[-n:]))
    median = float(np.median(ink))
    deviation = 1.48 * float(np.median(np.abs(ink - median)))  # standard deviation, robustly
    noise = median + deviation
    if strongest < max(MIN_CONTRAST, 4 * noise):
        return None
    is_clean = noise < 0.02 * strongest
    return max((0.25 if is_clean else 0.42) * strongest, 3 * noise)


def _remove_ruled_lines(mask: Mask) -> Mask:
    """Remove the lines of ruled or squared paper: thin, straight, from edge to edge."""
    if min(mask.shape) < 60:
        return mask
    values = mask.astype(np.float32)
    thick_px = max(5, int(0.03 * _mean_side(mask)))
    for axis in (1, 0):
        length_px = max(9, mask.shape[axis] // 8)
        lines = _open_along(values, length_px, axis) & ~_open_along(values, thick_px, 1 - axis)
        if lines.any(axis=1 - axis).mean() > 0.9:
            mask = mask & ~lines
    return mask


def _select_components(
    components: "Components", ink: Levels, *, keep_all: bool
) -> tuple[Mask, bool] | None:
    """Select the components that belong to one digit.

    Args:
        components: Of the pixels with ink.
        ink: Amount of ink at each pixel, shape (H, W), float32.
        keep_all: Select every component but specks, lines across the page and its dark edges: a
            sign may have several parts, and one inside another.

    Returns:
        Their mask, and whether a component of similar size is left out; None if there is no digit.
    """
    if not components.n:
        return None
    components = _join_fragments(components, ink)
    boxes, mass = components.boxes, components.sum_over(ink)
    clutter = _find_clutter(components, mass, with_frames=not keep_all)
    main = _find_main(components, ink, clutter)
    if main is None:
        return None
    share, size = mass / mass[main], boxes.size[main]
    gap_x, gap_y = boxes.gaps_to(main)
    gap = np.hypot(gap_x, gap_y) / size
    n_borders = components.n_borders
    near = (share >= 0.02) & (gap <= 0.12)
    further = (share >= 0.08) & (gap <= 0.3) & (n_borders <= n_borders[main])
    if keep_all:
        large = (share >= MIN_FRAGMENT_SHARE) & (n_borders <= n_borders[main])
        return components.mask_of(~clutter & (near | further | large)), False
    similar = ~clutter & (boxes.height >= 0.6 * boxes.height[main])
    similar &= (share >= 0.35) & (n_borders == 0)
    # Side by side on one line of writing: another digit, not a stroke of this one.
    overlap_y = np.minimum(boxes.bottom, boxes.bottom[main])
    overlap_y -= np.maximum(boxes.top, boxes.top[main])
    beside = overlap_y > 0.6 * np.minimum(boxes.height, boxes.height[main])
    beside &= similar & (gap_x > 0.08 * size)
    kept = ~clutter & ~beside & (near | further)
    kept[main] = True
    return components.mask_of(kept), bool((similar & ~kept).any())


def _join_fragments(components: "Components", ink: Levels) -> "Components":
    """Merge the fragments of an interrupted stroke: no further apart than it is wide."""
    mass = components.sum_over(ink)
    clutter = _find_clutter(components, mass)
    if clutter.all():
        return components
    fragments = ~clutter & (mass >= MIN_FRAGMENT_SHARE * mass[~clutter].max())
    if fragments.sum() < 2:
        return components
    mask = components.mask_of(fragments)
    width_px = max(2, int(mean_stroke_width(mask))) | 1  # half of it on either side
    merged = find_components(_dilate_square(mask.astype(np.float32), width_px) > 0)
    first_runs = np.unique(components.labels, return_index=True)[1]  # one of each component
    groups = merged.label_image()[components.rows[first_runs], components.starts[first_runs]]
    unmerged = merged.n + np.arange(components.n)
    return components.merge(np.where(fragments, groups, unmerged))


def _find_clutter(
    components: "Components", mass: NDArray[np.float64], *, with_frames: bool = True
) -> Mask:
    """Find lines across the page, printed frames and, where there is more, dark page edges."""
    boxes, (height, width) = components.boxes, components.shape
    mean_side = (height * width) ** 0.5
    is_photo = mean_side > PHOTO_SIDE_PX
    lines = (boxes.width > 0.75 * width) & (boxes.height < 0.1 * height)
    lines |= (boxes.height > 0.75 * height) & (boxes.width < 0.04 * width) & is_photo
    edges = (boxes.width > 0.5 * width) & (boxes.height < 0.16 * height)
    edges |= (boxes.height > 0.5 * height) & (boxes.width < 0.16 * width)
    edges &= components.n_borders > 0
    # Along a border and into a corner. A 1 that is cropped tightly spans the picture, too.
    corner = (boxes.left == 0) | (boxes.right == width)
    corner &= (boxes.top == 0) | (boxes.bottom == height)
    clutter: Mask = lines | (edges & corner & is_photo)
    if with_frames:
        clutter |= _find_frames(components, mass)
    if (~clutter & ~edges & (boxes.size > 0.04 * mean_side)).any():
        clutter |= edges
    return clutter


def _find_frames(components: "Components", mass: NDArray[np.float64]) -> Mask:
    """Find printed frames: large components around much ink that is not their own."""
    boxes = components.boxes
    frames = np.zeros(components.n, bool)
    for one in np.argsort(-boxes.size)[:N_CANDIDATES]:
        inside = (boxes.top > boxes.top[one]) & (boxes.bottom < boxes.bottom[one])
        inside &= (boxes.left > boxes.left[one]) & (boxes.right < boxes.right[one])
        inside &= boxes.size > 0.25 * boxes.size[one]
        if boxes.size[one] >= 12 and inside.any():
            share = mass[inside].max() / mass[one]
            frames[one] = share > 0.45 or (share > 0.1 and _is_hollow(components, one))
    return frames


def _is_hollow(components: "Components", one: int) -> bool:
    """Tell whether nearly all of a component lies along the sides of its bounding box."""
    boxes = components.boxes
    top, bottom, left, right = (
        int(side[one]) for side in (boxes.top, boxes.bottom, boxes.left, boxes.right)
    )
    rim_y, rim_x = 0.12 * (bottom - top), 0.12 * (right - left)
    own = components.labels == one
    rows, starts, ends = components.rows[own], components.starts[own], components.ends[own]
    in_left = np.clip(np.minimum(ends, left + rim_x) - starts, 0, None)
    in_right = np.clip(ends - np.maximum(starts, right - rim_x), 0, None)
    in_rows = (rows < top + rim_y) | (rows >= bottom - rim_y)
    in_rim = np.where(in_rows, ends - starts, in_left + in_right).sum()
    return bool(in_rim > 0.8 * (ends - starts).sum())


def _find_main(components: "Components", ink: Levels, clutter: Mask) -> int | None:
    """Find the component that most likely is the digit: large, with much sharp edge, inside."""
    gradient = np.hypot(*np.gradient(ink)).astype(np.float32)
    score = np.where(clutter, 0, components.sum_over(gradient) * components.boxes.size)
    score *= np.where(components.n_borders > 0, 0.35, 1.0)
    # What is left of a shadow at the picture's border has no sharp edge. Only the most likely
    # candidates are examined, down to the first that is sharp or touches no border.
    for one in np.argsort(-score)[:N_CANDIDATES]:
        if not components.n_borders[one]:
            break
        mask = components.mask_of(np.arange(components.n) == one)
        if gradient[mask].max() > MIN_EDGE * ink[mask].max():
            break
        score[one] = 0
    main = int(score.argmax())
    return main if score[main] > 0 else None


def _crop_ink(ink: Levels, mask: Mask) -> Levels:
    """Crop to a mask; keep the soft edges around it. Full ink becomes 1."""
    reach_px = 5 if _mean_side(ink) > PHOTO_SIDE_PX else 3
    around = _dilate_square(mask.astype(np.float32), reach_px) > 0
    full = float(np.percentile(ink[mask], 70))
    amount = np.where(around, np.clip(ink / full, 0, 1), 0)
    amount[amount < 0.12] = 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return amount[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)


def thicken_strokes(amount: Levels, mask: Mask) -> Levels:
    """Dilate strokes that would be thinner than ``MIN_STROKE_PX`` in MNIST's box of 20 pixels.

    Args:
        amount: How much ink each pixel holds, shape (H, W), float32, 0..1.
        mask: Where the strokes are; their width is measured here.
    """
    side_px, width_px = max(amount.shape), mean_stroke_width(mask)
    if side_px < BOX_PX and width_px * BOX_PX < MIN_STROKE_PX * side_px:
        # Two more pixels, the least that keeps a stroke in its place, would be too many.
        amount, side_px, width_px = amount.repeat(2, 0).repeat(2, 1), 2 * side_px, 2 * width_px
    missing_px = round(MIN_STROKE_PX * side_px / BOX_PX - width_px)
    if missing_px < 1:
        return amount
    missing_px += missing_px % 2
    return _dilate_square(np.pad(amount, missing_px // 2), missing_px + 1)


def to_levels(amount: Levels) -> NDArray[np.uint8]:
    """Scale an amount of ink, 0..1, to levels 0..255."""
    return np.round(amount * 255).astype(np.uint8)


@dataclass(frozen=True)
class _Boxes:
    """Bounding boxes, one entry for each component; bottom and right lie outside."""

    top: Indices
    bottom: Indices
    left: Indices
    right: Indices

    @functools.cached_property
    def height(self) -> Indices:
        return self.bottom - self.top

    @functools.cached_property
    def width(self) -> Indices:
        return self.right - self.left

    @functools.cached_property
    def size(self) -> Indices:
        """The longer of height and width."""
        return np.maximum(self.height, self.width)

    def gaps_to(self, one: int) -> tuple[Indices, Indices]:
        """Return each box's distance to one of them, across and down; 0 where they overlap."""
        across = np.maximum(self.left - self.right[one], self.left[one] - self.right)
        down = np.maximum(self.top - self.bottom[one], self.top[one] - self.bottom)
        return np.maximum(0, across), np.maximum(0, down)


@dataclass(frozen=True)
class Components:
    """The 8-connected components of a mask, run-length encoded: horizontal runs of pixels.

    Attributes:
        shape: Height and width of the mask.
        rows: Row of each run.
        starts: First column of each run.
        ends: Column after the last one of each run.
        labels: Component that each run belongs to, 0 .. n - 1.
        n: Number of components.
    """

    shape: tuple[int, int]
    rows: Indices
    starts: Indices
    ends: Indices
    labels: Indices
    n: int

    @functools.cached_property
    def boxes(self) -> _Boxes:
        """The components' bounding boxes."""
        height, width = self.shape
        top, bottom = np.full(self.n, height), np.zeros(self.n, np.intp)
        left, right = np.full(self.n, width), np.zeros(self.n, np.intp)
        np.minimum.at(top, self.labels, self.rows)
        np.maximum.at(bottom, self.labels, self.rows + 1)
        np.minimum.at(left, self.labels, self.starts)
        np.maximum.at(right, self.labels, self.ends)
        return _Boxes(top, bottom, left, right)

    @functools.cached_property
    def n_borders(self) -> Indices:
        """How many of the picture's four borders each component touches."""
        boxes, (height, width) = self.boxes, self.shape
        touches = (boxes.top == 0, boxes.bottom == height, boxes.left == 0, boxes.right == width)
        return np.asarray(np.sum(touches, axis=0))

    def sum_over(self, values: Levels) -> NDArray[np.float64]:
        """Sum an image's values over each component; ``values`` has the mask's shape."""
        height, width = self.shape
        cumulated = np.zeros((height, width + 1))
        np.cumsum(values, axis=1, out=cumulated[:, 1:])
        runs = cumulated[self.rows, self.ends] - cumulated[self.rows, self.starts]
        sums = np.bincount(self.labels, weights=runs, minlength=self.n)
        return sums.astype(np.float64)

    def label_image(self) -> Indices:
        """Return each pixel's component, shape (H, W); -1 for background."""
        image = np.full(self.shape, -1)
        runs = zip(self.rows.tolist(), self.starts.tolist(), self.ends.tolist(), strict=True)
        for (row, start, end), label in zip(runs, self.labels.tolist(), strict=True):
            image[row, start:end] = label
        return image

    def mask_of(self, kept: Mask) -> Mask:
        """Return the mask of some components; ``kept`` has one entry for each."""
        height, width = self.shape
        change = np.zeros((height, width + 1), np.int8)
        runs = kept[self.labels]
        change[self.rows[runs], self.starts[runs]] += 1
        change[self.rows[runs], self.ends[runs]] -= 1
        return np.cumsum(change, axis=1, dtype=np.int8)[:, :width] > 0

    def merge(self, groups: Indices) -> "Components":
        """Merge the components of equal group; ``groups`` has one entry for each."""
        names, numbers = np.unique(groups, return_inverse=True)
        labels = numbers.reshape(-1)[self.labels]
        return dataclasses.replace(self, labels=labels, n=len(names))


def find_components(mask: Mask) -> Components:
    """Label the 8-connected components of a mask, by union-find over its runs."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    roots = _union_runs(rows, starts, ends, height)
    names, labels = np.unique(roots, return_inverse=True)
    return Components((height, width), rows, starts, ends, labels.reshape(-1), len(names))


def _union_runs(rows: Indices, starts: Indices, ends: Indices, height: int) -> Indices:
    """Return for each run the first run that it is connected with."""
    parents = list(range(len(rows)))

    def find(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    first_of_row = np.searchsorted(rows, np.arange(height + 1)).tolist()
    begin, end = starts.tolist(), ends.tolist()
    for row in range(1, height):
        upper, lower, stop = first_of_row[row - 1 : row + 2]
        stop_upper = lower
        while upper < stop_upper and lower < stop:
            if end[upper] >= begin[lower] and end[lower] >= begin[upper]:
                first, second = find(upper), find(lower)
                parents[max(first, second)] = min(first, second)
            if end[upper] < end[lower]:
                upper += 1
            else:
                lower += 1
    return np.array([find(run) for run in range(len(rows))], np.intp)


def mean_stroke_width(mask: Mask) -> float:
    """Estimate the width of a mask's strokes, in pixels: twice its area over its outline.

    The outline has two sides. Where most pixels belong to no square of 2 x 2, strokes are one pixel
    wide, and those pixels are both sides. Elsewhere such pixels are ragged edges.
    """
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    squares = mask[1:, 1:] & mask[1:, :-1] & mask[:-1, 1:] & mask[:-1, :-1]
    is_wide = np.zeros_like(mask)
    for rows in (slice(1, None), slice(None, -1)):
        for columns in (slice(1, None), slice(None, -1)):
            is_wide[rows, columns] |= squares
    n, n_thin = int(mask.sum()), int(mask.sum()) - int(is_wide.sum())
    n_outline = n - int(inner.sum()) + (n_thin if 2 * n_thin > n else 0)
    return 2 * n / max(1, n_outline)


def _close(levels: Levels, window_px: int) -> Levels:
    """Grey closing: a dilation, then an erosion; fills what is dark and narrower than a window."""
    return -_dilate_square(-_dilate_square(levels, window_px), window_px)


def _open_along(values: Levels, window_px: int, axis: int) -> Mask:
    """Binary opening along an axis: keeps what is at least ``window_px`` long there."""
    return _dilate(-_dilate(-values, window_px, axis), window_px, axis) > 0


def _dilate_square(values: Levels, window_px: int) -> Levels:
    """Grey dilation by a square, as one dilation along each axis."""
    return _dilate(_dilate(values, window_px, 0), window_px, 1)


def _dilate(values: Levels, window_px: int, axis: int) -> Levels:
    """Grey dilation along an axis: the maximum over ``window_px`` pixels (made odd), by doubling.

    The border is continued outwards.
    """
    radius = window_px // 2
    padding = [(0, 0), (0, 0)]
    padding[axis] = (radius, radius)
    current = np.moveaxis(np.pad(values, padding, mode="edge"), axis, 0)
    size, window = 1, 2 * radius + 1
    while size < window:
        step = min(size, window - size)
        current = np.maximum(current[:-step], current[step:])
        size += step
    return np.moveaxis(current, 0, axis)
