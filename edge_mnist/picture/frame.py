"""From any picture to the model's input: 28 x 28, 0 = background, 255 = full ink, as in MNIST."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist.picture.decode import Picture, to_grey
from edge_mnist.picture.digit import BOX_PX, border_median, find_ink, mean_stroke_width

SIDE_PX = 28
MIN_BINARY_STROKE_PX = 1.5  # of images without grey levels; MNIST's 24 such images have 3.8 or more
MIN_GAIN_LEVEL = 40  # fainter ink is not amplified any further
# Vectors for sums and first moments along a side.
_ONES, _COORDINATES = np.ones(SIDE_PX, np.float32), np.arange(SIDE_PX, dtype=np.float32)


@dataclass(frozen=True)
class ModelInput:
    """What the model is given for one picture.

    Attributes:
        image: Shape (28, 28), uint8, 0 = background, 255 = full ink; all 0 if there is no ink.
        reason: Why the picture does not show exactly one digit, or None.
    """

    image: NDArray[np.uint8]
    reason: str | None = None


def read_picture(picture: Picture, *, framing: str = "digit") -> ModelInput:
    """Turn a picture of one digit into the model's input.

    Args:
        picture: A path, the bytes of a file, an open binary file, a PIL image, or an array of
            H x W or H x W x 1/3/4: uint8, uint16, bool, or float in 0..1.
        framing: ``digit`` finds the ink and frames it as MNIST does. ``ink`` takes all the ink of
            the picture, for classes of one's own, whose signs may have several parts. ``whole``
            scales the picture as it is, for data sets whose images fill their frame, such as
            Fashion-MNIST.

    Returns:
        The image and, where the picture does not show exactly one digit, the reason. A picture
        that already has the form of an MNIST image is returned unchanged.

    Raises:
        PictureError: The picture cannot be read.
    """
    grey = to_grey(picture)
    if framing == "whole":
        return ModelInput(_frame_whole(grey))
    if grey.shape == (SIDE_PX, SIDE_PX):
        for levels in (grey, 255 - grey):
            if _is_mnist_image(levels):
                return ModelInput(levels)
    ink = find_ink(grey, keep_all=framing == "ink")
    if ink is None:
        return ModelInput(np.zeros((SIDE_PX, SIDE_PX), np.uint8), "blank")
    return ModelInput(frame_ink(ink.levels), "more than one digit" if ink.has_more else None)


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


def _is_mnist_image(levels: NDArray[np.uint8]) -> bool:
    """Tell whether an image of 28 x 28 has MNIST's form already, as all 70,000 of MNIST have.

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


def _frame_whole(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
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
