"""The form of MNIST's images: 28 x 28, 0 = background, 255 = full ink, the ink centred."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist.picture.digit import BOX_PX, SIDE_PX, border_median

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
    small = _resize(cropped, BOX_PX)
    # Antialiasing fades thin strokes, and MNIST's reach full ink. A few pixels may saturate.
    strong = np.sort(small, axis=None)[-max(3, small.size // 25)]
    bright = np.minimum(np.round(small * (255 / max(int(strong), MIN_GAIN_LEVEL))), 255)
    return _center_mass(bright.astype(np.uint8))


def frame_whole(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a whole picture to 28 x 28, light on dark; one of that size keeps its levels.

    A light border is taken for paper: then dark is ink.
    """
    levels = 255 - grey if border_median(grey) > 127 else grey
    small = _resize(levels, SIDE_PX, enlarge=Image.Resampling.BOX)
    return _place(small, (SIDE_PX - small.shape[0]) // 2, (SIDE_PX - small.shape[1]) // 2)


def _resize(
    levels: NDArray[np.uint8],
    side_px: int,
    *,
    enlarge: Image.Resampling = Image.Resampling.BICUBIC,
) -> NDArray[np.uint8]:
    """Resize to a longer side of ``side_px``, averaging where that makes the image smaller."""
    scale = side_px / max(levels.shape)
    height, width = (max(1, round(side * scale)) for side in levels.shape)
    method = Image.Resampling.BOX if scale < 1 else enlarge
    return np.asarray(Image.fromarray(levels).resize((width, height), method))


def _center_mass(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Place ink of at most 28 x 28 so that its centre of mass is the middle of 28 x 28."""
    weight = ink.astype(np.float64)
    mass = weight.sum()
    offsets = []
    for axis, side in enumerate(ink.shape):
        center = (weight.sum(axis=1 - axis) @ np.arange(side)) / mass
        offset = round(SIDE_PX / 2 - center)  # MNIST's centres lie within 13.5 .. 14.5
        offsets.append(min(max(offset, 0), SIDE_PX - side))
    return _place(ink, *offsets)


def _place(levels: NDArray[np.uint8], top: int, left: int) -> NDArray[np.uint8]:
    """Place an image on an empty one of 28 x 28."""
    framed = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    framed[top : top + levels.shape[0], left : left + levels.shape[1]] = levels
    return framed
