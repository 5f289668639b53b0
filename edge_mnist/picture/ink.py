"""Finding the ink of one digit in a grey picture, whatever sheet, light and pen.

The sheet is what a grey closing leaves of the picture: it follows shadows, and takes away what is
narrower than its window. Strokes stand out against it by contrast and by sharp edges, shadows do
not; ruled lines run across the sheet; a printed box has the digit inside.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edge_mnist.picture.choice import PHOTO_SIDE, choose_components
from edge_mnist.picture.components import Grey, Mask, find_components
from edge_mnist.picture.morphology import close_gaps, measure_thickness, open_along, spread

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


def find_ink(grey: NDArray[np.uint8]) -> Ink | None:
    """Find the ink of one digit.

    Args:
        grey: Grey levels, shape (H, W), uint8.

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
    choice = choose_components(components, ink)
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
