"""The form of MNIST's images: 28 x 28, 0 = background, 255 = full ink, the ink centred."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist.picture.digit import BOX_PX, SIDE_PX, border_median, resize_box

MIN_GAIN_LEVEL = 40  # fainter ink is not amplified any further


def frame_ink(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring ink to MNIST's form: longer side 20 pixels, centre of mass in the middle of 28 x 28.

    Args:
        ink: Shape (H, W), uint8, 0 = background; at least one pixel is not 0.

    Returns:
        One image, shape (28, 28), uint8, its strongest ink near 255.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = _fit(cropped.shape, BOX_PX)
    if max(cropped.shape) > BOX_PX:
        small = resize_box(cropped, height, width)
    else:
        bicubic = Image.Resampling.BICUBIC
        small = np.asarray(Image.fromarray(cropped).resize((width, height), bicubic))
    # Antialiasing fades thin strokes, and MNIST's reach full ink. A few pixels may saturate.
    strong = int(np.sort(small, axis=None)[-max(3, small.size // 25)])
    full = max(strong, MIN_GAIN_LEVEL)
    bright = np.minimum((510 * small.astype(np.int32) + full) // (2 * full), 255)
    return _center_mass(bright)


def frame_whole(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a whole picture to 28 x 28, light on dark; one of that size keeps its levels.

    A light border is taken for paper: then dark is ink.
    """
    height, width = _fit(grey.shape, SIDE_PX)
    small = resize_box(grey, height, width)
    if border_median(grey) > 127:
        small = 255 - small
    return _place(small, (SIDE_PX - height) // 2, (SIDE_PX - width) // 2)


def _fit(shape: tuple[int, ...], side_px: int) -> tuple[int, int]:
    """Scale a height and a width to a longer side of ``side_px``, rounded."""
    longer = max(shape)
    height, width = (max(1, (2 * side_px * side + longer) // (2 * longer)) for side in shape)
    return height, width


def _center_mass(ink: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Place ink of at most 28 x 28 so that its centre of mass is the middle of 28 x 28."""
    mass, offsets = int(ink.sum()), []
    for axis, side in enumerate(ink.shape):
        moment = int(ink.sum(axis=1 - axis) @ np.arange(side))
        # MNIST's centres lie within 13.5 .. 14.5.
        offset = ((SIDE_PX + 1) * mass - 2 * moment) // (2 * mass)
        offsets.append(min(max(offset, 0), SIDE_PX - side))
    return _place(ink, *offsets)


def _place(levels: NDArray[np.integer], top: int, left: int) -> NDArray[np.uint8]:
    """Place an image on an empty one of 28 x 28."""
    framed = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    framed[top : top + levels.shape[0], left : left + levels.shape[1]] = levels
    return framed
