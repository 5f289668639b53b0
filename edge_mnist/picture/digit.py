"""Find the ink of one digit in a grey picture, whatever the paper, the light and the pen.

The steps are those of document binarisation: the background is estimated by a grey closing and
subtracted, a global threshold gives a mask, and the mask's connected components are judged by
size, place and edge strength. The closing's window is wider than a stroke and narrower than a
shadow, so shadows stay in the background and strokes do not. What is left of a shadow's edge is
blurred where strokes are sharp; ruled lines span the page; a printed frame surrounds the digit.

All arithmetic is that of integers, so that ``reader.c`` computes the same. Shares are written as
products: ``10 * a > 9 * b`` is "a is more than 90 % of b".
"""

import dataclasses
import functools
from dataclasses import dataclass
from math import isqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Levels = NDArray[np.uint8]  # (H, W): grey levels, or amounts of ink
Mask = NDArray[np.bool_]  # (H, W), or one entry for each component
Indices = NDArray[np.intp]
Value = TypeVar("Value", np.uint8, np.bool_)

WORK_SIDE_PX = (
    256  # pictures of more than its square are downscaled; a digit 5 % as high keeps 13 px
)
MAX_STRIP_PX = 2048  # of a downscaled picture; for long strips
PHOTO_SIDE_PX = 100  # smaller pictures are drawings: without noise, shadows or dark page edges
FLAT_SIDE_PX = 40  # up to here a closing's window would be as small as a stroke is wide
MIN_SIDE_PX = 3  # a narrower picture shows no digit
MIN_DIGIT_PX = 5  # longer side
MIN_CONTRAST = 10  # grey levels between ink and background
MIN_RULED_SIDE_PX = 60  # of a picture that is searched for ruled lines
FLAT_LEVELS = 8  # around the border's median; the background of a flat picture stays within
PAPER_LEVEL = 200  # ink on uneven paper is scaled as if the paper had this level
MIN_PAPER_LEVEL = 40  # darker paper counts as this dark
MIN_STROKE_PERCENT = 190  # of a pixel, in a box of 20; MNIST's own strokes are 2 to 4 pixels wide
SIDE_PX = 28  # of an MNIST image
BOX_PX = 20  # MNIST: "size normalized to fit in a 20x20 pixel box"
N_CANDIDATES = 6  # components, the most likely first, that are examined one by one
# 1 / 256 of what ink on paper of each level is multiplied by.
GAINS = (PAPER_LEVEL * 256 // np.maximum(np.arange(256), MIN_PAPER_LEVEL)).astype(np.uint16)
# Vectors for sums and first moments along a side.
_ONES, _COORDINATES = np.ones(SIDE_PX, np.float32), np.arange(SIDE_PX, dtype=np.float32)


@dataclass(frozen=True)
class Ink:
    """The ink of what looks most like one digit.

    Attributes:
        levels: Shape (H, W), uint8, 0 = background, 255 = full ink, cropped to the digit.
        has_more: Whether something of similar size lies elsewhere in the picture.
    """

    levels: Levels
    has_more: bool


def find_ink(grey: Levels, *, keep_all: bool = False) -> Ink | None:
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
    return Ink(thicken_strokes(amount, mask), has_more)


def find_mnist_image(grey: Levels) -> Levels | None:
    """Return the levels of a picture that has the form of an MNIST image already, or None.

    Args:
        grey: Grey levels, shape (H, W), uint8; ink is darker than the background or lighter.
    """
    if grey.shape == (SIDE_PX, SIDE_PX):
        for levels in (grey, 255 - grey):
            if _is_mnist_image(levels):
                return levels
    return None


def measure_ink(grey: Levels) -> Levels:
    """Subtract the background: measure by how much each pixel is ink.

    Args:
        grey: Grey levels, shape (H, W), uint8.

    Returns:
        Contrast to the background of the downscaled picture, uint8. On paper of uneven brightness
        it is relative to the paper's own, scaled as if that were ``PAPER_LEVEL``.
    """
    levels = _downscale(grey)
    if levels.size > PHOTO_SIDE_PX**2:
        levels = _binomial_filter(levels)
    if not _is_ink_dark(levels):
        levels = 255 - levels
    flat = border_median(levels)
    contrast = flat - np.minimum(levels, flat)
    excess = np.maximum(levels, flat) - flat
    n_flat = np.count_nonzero(np.maximum(contrast, excess) <= FLAT_LEVELS)
    if 2 * n_flat > levels.size or levels.size <= FLAT_SIDE_PX**2:
        return contrast
    side = isqrt(levels.size)
    background = _close(levels, max(3, 14 * side // 100))
    # Smoother, but never lighter: otherwise the edge of a hard shadow would look like a stroke.
    background = np.minimum(background, _box_blur(background, max(1, side // 40)))
    # Light multiplies ink and paper alike, so ink in shadow is measured against its own paper.
    contrast = background - np.minimum(levels, background)
    return np.asarray((contrast * GAINS[background] + 128) >> 8, np.uint8)


def _is_mnist_image(levels: Levels) -> bool:
    """Return whether an image of 28 x 28 has MNIST's form already, as all 70,000 of MNIST have.

    Mostly 0, full ink somewhere, longer side 20 (in 16 of the images 19), centre of mass within
    half a pixel of the middle. Strokes that are one pixel wide, without grey levels, are those of a
    paint program's pencil: MNIST's 24 images without grey levels have strokes of 3.8 or more.
    """
    n_inked = np.count_nonzero(levels)
    if levels[0, 0] or levels.max() < 254 or 2 * n_inked > levels.size:
        return False
    if np.count_nonzero(levels == levels.max()) == n_inked:
        area, outline = measure_strokes(levels > 0)
        if 4 * area < 3 * outline:  # narrower than 1.5 pixels
            return False
    # Matrix products: on arrays this small a third of the time of sum() and any().
    weight = levels.astype(np.float32)
    profiles = weight @ _ONES, _ONES @ weight  # ink in each row, and in each column
    inked = [profile.nonzero()[0] for profile in profiles]
    if max(int(places[-1] - places[0]) + 1 for places in inked) not in (BOX_PX - 1, BOX_PX):
        return False
    mass = int(profiles[0] @ _ONES)
    moments = [int(profile @ _COORDINATES) for profile in profiles]
    return all(134 * mass < 10 * moment < 146 * mass for moment in moments)


def border_median(levels: Levels) -> np.uint8:
    """Return the median of the outermost pixels, most of which are background."""
    border = np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])
    return np.uint8(np.sort(border)[border.size // 2])


def resize_box(levels: Levels, height: int, width: int) -> Levels:
    """Resize by averaging the pixels whose centres a new pixel covers; enlarged, the nearest one.

    Rows come first: which axis Pillow itself begins with depends on the sizes. A centre on the edge
    between two new pixels belongs to the upper or left one. Pillow leaves that to the rounding of
    doubles, hence the boxes that begin a little inside; no other centre lies as close to an edge.
    """
    rows, begin = levels.shape[0], 2**-14
    wide, box = Image.fromarray(levels), Image.Resampling.BOX
    narrow = wide.resize((width, rows), box, (begin, 0, wide.width, rows))
    return np.asarray(narrow.resize((width, height), box, (0, begin, width, rows)))


def _downscale(grey: Levels) -> Levels:
    """Average a picture down to ``WORK_SIDE_PX`` squared and ``MAX_STRIP_PX`` a side at most."""
    height, width = grey.shape
    longer, shorter = max(grey.shape), min(grey.shape)
    if WORK_SIDE_PX**2 * longer >= MAX_STRIP_PX**2 * shorter:
        if longer <= MAX_STRIP_PX:
            return grey
        sides = [max(1, (2 * MAX_STRIP_PX * side + longer) // (2 * longer)) for side in grey.shape]
    else:
        if grey.size <= WORK_SIDE_PX**2:
            return grey
        squares = [4 * WORK_SIDE_PX**2 * height // width, 4 * WORK_SIDE_PX**2 * width // height]
        sides = [(isqrt(square) + 1) // 2 for square in squares]
    return resize_box(grey, *sides)


def _binomial_filter(levels: Levels) -> Levels:
    """Remove the noise of single pixels with the kernel 1-2-1 along both axes."""
    padded = np.pad(levels, 1, mode="edge").astype(np.uint16)
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 8) >> 4, np.uint8)


def _box_blur(levels: Levels, radius_px: int) -> Levels:
    """Average over squares of 2 ``radius_px`` + 1 pixels; the border is continued outwards."""
    return np.asarray(Image.fromarray(levels).filter(ImageFilter.BoxBlur(radius_px)))


def _is_ink_dark(levels: Levels) -> bool:
    """Determine the polarity: is the ink darker than the background?

    Two cues, weighted 10 : 3. Strokes differ more from their local mean than the background between
    them: true in shadow too, but not of strokes as wide as the gaps. The border is mostly
    background: true of wide strokes too, but not in shadow.
    """
    blurred = _box_blur(levels, max(2, max(levels.shape) // 10))
    detail = np.sort(np.subtract(levels, blurred, dtype=np.int16), axis=None, kind="stable")
    n = max(6, 3 * detail.size // 1000)
    darkest, lightest = -int(detail[:n].sum()), int(detail[-n:].sum())
    ordered = np.sort(levels, axis=None, kind="stable")
    percentile = (ordered.size - 1) // 100
    low = int(ordered[0]) + int(ordered[percentile])  # twice a dark level
    high = int(ordered[-1]) + int(ordered[-1 - percentile])
    by_border = 4 * int(border_median(levels)) - low - high
    by_detail = darkest - lightest
    return 3 * by_border * max(darkest + lightest, 1) + 10 * by_detail * max(high - low, 2) > 0


def _choose_threshold(ink: Levels) -> int | None:
    """Return the contrast above which a pixel is ink, or None if nothing exceeds the noise."""
    ordered = np.sort(ink, axis=None, kind="stable")
    n = min(max(12, ink.size // 500), ink.size)
    strongest, median = int(ordered[-n:][n // 2]), ordered[ink.size // 2]
    deviations = np.maximum(ordered, median) - np.minimum(ordered, median)
    deviation = int(np.partition(deviations, ink.size // 2)[ink.size // 2])
    noise = 100 * int(median) + 148 * deviation  # in 1 / 100; of the standard deviation, robustly
    if strongest < MIN_CONTRAST or 100 * strongest < 4 * noise:
        return None
    is_clean = noise < 2 * strongest
    return max((25 if is_clean else 42) * strongest, 3 * noise) // 100


def _remove_ruled_lines(mask: Mask) -> Mask:
    """Remove the lines of ruled or squared paper: thin, straight, from edge to edge."""
    if min(mask.shape) < MIN_RULED_SIDE_PX:
        return mask
    thick_px = max(5, 3 * isqrt(mask.size) // 100)
    for axis in (1, 0):
        if not _is_crossed(mask, axis):  # as in most pictures; neither are its lines
            continue
        length_px = max(9, mask.shape[axis] // 8)
        lines = _open_along(mask, length_px, axis) & ~_open_along(mask, thick_px, 1 - axis)
        if _is_crossed(lines, axis):
            mask = mask & ~lines
    return mask


def _is_crossed(mask: Mask, axis: int) -> bool:
    """Tell whether a mask, from border to border along an axis, has no gaps of 10 % in all."""
    return bool(10 * np.count_nonzero(mask.any(axis=1 - axis)) > 9 * mask.shape[axis])


def _select_components(
    components: "Components", ink: Levels, *, keep_all: bool
) -> tuple[Mask, bool] | None:
    """Select the components that belong to one digit.

    Args:
        components: Of the pixels with ink.
        ink: Amount of ink at each pixel, shape (H, W), uint8.
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
    size, n_borders = int(boxes.size[main]), components.n_borders
    gap_x, gap_y = boxes.gaps_to(main)
    gap = gap_x**2 + gap_y**2
    near = (50 * mass >= mass[main]) & (625 * gap <= 9 * size**2)  # 2 % of the ink, gap of 12 %
    further = (25 * mass >= 2 * mass[main]) & (100 * gap <= 9 * size**2)  # 8 %, 30 %
    further &= n_borders <= n_borders[main]
    if keep_all:
        large = (25 * mass >= mass[main]) & (n_borders <= n_borders[main])
        return components.mask_of(~clutter & (near | further | large)), False
    similar = ~clutter & (5 * boxes.height >= 3 * boxes.height[main])
    similar &= (20 * mass >= 7 * mass[main]) & (n_borders == 0)
    # Side by side on one line of writing: another digit, not a stroke of this one.
    overlap_y = np.minimum(boxes.bottom, boxes.bottom[main])
    overlap_y -= np.maximum(boxes.top, boxes.top[main])
    beside = 5 * overlap_y > 3 * np.minimum(boxes.height, boxes.height[main])
    beside &= similar & (25 * gap_x > 2 * size)
    kept = ~clutter & ~beside & (near | further)
    kept[main] = True
    return components.mask_of(kept), bool((similar & ~kept).any())


def _join_fragments(components: "Components", ink: Levels) -> "Components":
    """Merge the fragments of an interrupted stroke: no further apart than it is wide."""
    mass = components.sum_over(ink)
    clutter = _find_clutter(components, mass)
    if clutter.all():
        return components
    fragments = ~clutter & (25 * mass >= mass[~clutter].max())  # less than 4 % of it is a speck
    if np.count_nonzero(fragments) < 2:
        return components
    mask = components.mask_of(fragments)
    area, outline = measure_strokes(mask)
    width_px = max(2, 2 * area // outline) | 1  # half of it on either side
    merged = find_components(_dilate_square(mask, width_px))
    first_runs = np.unique(components.labels, return_index=True)[1]  # one of each component
    groups = merged.label_image()[components.rows[first_runs], components.starts[first_runs]]
    # Numbers keep the order of the components, from the top.
    unmerged = merged.n + np.arange(components.n)
    return components.merge(np.where(fragments, groups, unmerged))


def _find_clutter(components: "Components", mass: Indices, *, with_frames: bool = True) -> Mask:
    """Find lines across the page, printed frames and, where there is more, dark page edges."""
    boxes, (height, width) = components.boxes, components.shape
    is_photo = height * width > PHOTO_SIDE_PX**2
    lines = (4 * boxes.width > 3 * width) & (10 * boxes.height < height)
    lines |= (4 * boxes.height > 3 * height) & (25 * boxes.width < width) & is_photo
    edges = (2 * boxes.width > width) & (25 * boxes.height < 4 * height)
    edges |= (2 * boxes.height > height) & (25 * boxes.width < 4 * width)
    edges &= components.n_borders > 0
    # Along a border and into a corner. A 1 that is cropped tightly spans the picture, too.
    corner = (boxes.left == 0) | (boxes.right == width)
    corner &= (boxes.top == 0) | (boxes.bottom == height)
    clutter: Mask = lines | (edges & corner & is_photo)
    if with_frames:
        clutter |= _find_frames(components, mass)
    large = 625 * boxes.size**2 > height * width  # longer than 4 % of the mean side
    if (~clutter & ~edges & large).any():
        clutter |= edges
    return clutter


def _find_frames(components: "Components", mass: Indices) -> Mask:
    """Find printed frames: large components around much ink that is not their own."""
    boxes = components.boxes
    frames = np.zeros(components.n, bool)
    for one in np.argsort(-boxes.size, kind="stable")[:N_CANDIDATES]:
        inside = (boxes.top > boxes.top[one]) & (boxes.bottom < boxes.bottom[one])
        inside &= (boxes.left > boxes.left[one]) & (boxes.right < boxes.right[one])
        inside &= 4 * boxes.size > boxes.size[one]
        if boxes.size[one] >= 12 and inside.any():
            most, own = int(mass[inside].max()), int(mass[one])
            frames[one] = 20 * most > 9 * own or (10 * most > own and _is_hollow(components, one))
    return frames


def _is_hollow(components: "Components", one: int) -> bool:
    """Tell whether nearly all of a component lies along the sides of its bounding box."""
    boxes = components.boxes
    top, bottom, left, right = (
        int(side[one]) for side in (boxes.top, boxes.bottom, boxes.left, boxes.right)
    )
    rim_y, rim_x = (3 * (bottom - top) + 12) // 25, (3 * (right - left) + 12) // 25  # 12 %
    own = components.labels == one
    rows, starts, ends = components.rows[own], components.starts[own], components.ends[own]
    in_left = np.maximum(np.minimum(ends, left + rim_x) - starts, 0)
    in_right = np.maximum(ends - np.maximum(starts, right - rim_x), 0)
    in_rows = (rows < top + rim_y) | (rows >= bottom - rim_y)
    n_in_rim = np.where(in_rows, ends - starts, in_left + in_right).sum()
    return bool(5 * n_in_rim > 4 * (ends - starts).sum())


def _find_main(components: "Components", ink: Levels, clutter: Mask) -> int | None:
    """Find the component that most likely is the digit: large, with much sharp edge, inside."""
    gradient = _double_gradient(ink)
    score = np.where(clutter, 0, components.sum_over(gradient) * components.boxes.size)
    score *= np.where(components.n_borders > 0, 7, 20)
    # What is left of a shadow at the picture's border has no sharp edge. Only the most likely
    # candidates are examined, down to the first that is sharp or touches no border.
    for one in np.argsort(-score, kind="stable")[:N_CANDIDATES]:
        if not components.n_borders[one]:
            break
        mask = components.mask_of(np.arange(components.n) == one)
        if 10 * int(gradient[mask].max()) > 3 * int(ink[mask].max()):  # 15 % of full ink per pixel
            break
        score[one] = 0
    main = int(score.argmax())
    return main if score[main] > 0 else None


def _double_gradient(ink: Levels) -> NDArray[np.int16]:
    """Return twice the length of the gradient: central differences, the border continued outwards.

    The length is the longer leg plus 3/8 of the shorter one, within 7 % of the hypotenuse.
    """
    padded = np.pad(ink, 1, mode="edge").astype(np.int16)
    across = np.abs(padded[1:-1, 2:] - padded[1:-1, :-2])
    down = np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1])
    return np.asarray(np.maximum(across, down) + (3 * np.minimum(across, down) >> 3))


def _crop_ink(ink: Levels, mask: Mask) -> Levels:
    """Crop to a mask; keep the soft edges around it. Full ink becomes 255."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    around = _dilate_square(mask[box], 5 if ink.size > PHOTO_SIDE_PX**2 else 3)
    strengths = np.sort(ink[mask])
    full = int(strengths[7 * (strengths.size - 1) // 10])
    amounts = np.minimum((510 * np.arange(256) + full) // (2 * full), 255)
    amounts[25 * np.arange(256) < 3 * full] = 0  # less than 12 %
    return np.where(around, amounts.astype(np.uint8)[ink[box]], np.uint8(0))


def thicken_strokes(levels: Levels, mask: Mask) -> Levels:
    """Dilate strokes that would be thinner than ``MIN_STROKE_PERCENT`` in MNIST's box of 20 pixels.

    Args:
        levels: How much ink each pixel holds, shape (H, W), uint8.
        mask: Where the strokes are; their width is measured here.
    """
    side_px, (area, outline) = max(levels.shape), measure_strokes(mask)
    # Both in 1 / (100 * BOX_PX * outline) of a pixel.
    width, least = 200 * BOX_PX * area, MIN_STROKE_PERCENT * side_px * outline
    if side_px < BOX_PX and width < least:
        # Two more pixels, the least that keeps a stroke in its place, would be too many.
        levels, width, least = levels.repeat(2, 0).repeat(2, 1), 2 * width, 2 * least
    unit = 100 * BOX_PX * outline
    missing_px = (2 * (least - width) + unit) // (2 * unit)
    if missing_px < 1:
        return levels
    missing_px += missing_px % 2
    return _dilate_square(np.pad(levels, missing_px // 2), missing_px + 1)


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

    def sum_over(self, values: NDArray[np.integer]) -> Indices:
        """Sum an image's values over each component; ``values`` has the mask's shape."""
        height, width = self.shape
        cumulated = np.zeros((height, width + 1), np.int32)
        np.cumsum(values, axis=1, out=cumulated[:, 1:])
        runs = cumulated[self.rows, self.ends] - cumulated[self.rows, self.starts]
        return np.bincount(self.labels, weights=runs, minlength=self.n).astype(np.intp)

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


def measure_strokes(mask: Mask) -> tuple[int, int]:
    """Return the area and the outline of a mask's strokes; their width is 2 * area / outline.

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
    n, n_wide, n_inner = (int(np.count_nonzero(one)) for one in (mask, is_wide, inner))
    n_thin = n - n_wide
    return n, max(1, n - n_inner + (n_thin if 2 * n_thin > n else 0))


def _close(levels: Levels, window_px: int) -> Levels:
    """Grey closing: a dilation, then an erosion; fills what is dark and narrower than a window."""
    return 255 - _dilate_square(255 - _dilate_square(levels, window_px), window_px)


def _open_along(mask: Mask, window_px: int, axis: int) -> Mask:
    """Binary opening along an axis: keeps what is at least ``window_px`` long there."""
    return _dilate(~_dilate(~mask, window_px, axis), window_px, axis)


def _dilate_square(values: NDArray[Value], window_px: int) -> NDArray[Value]:
    """Grey dilation by a square, as one dilation along each axis."""
    return _dilate(_dilate(values, window_px, 0), window_px, 1)


def _dilate(values: NDArray[Value], window_px: int, axis: int) -> NDArray[Value]:
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
