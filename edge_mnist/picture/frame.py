"""From any picture to what the model eats: one image, 28 x 28, 0 = background, 255 = full ink.

The path: decode, grey, find out whether ink is dark or light, take the background away, crop to
the ink, and then MNIST's own recipe: longer side to 20 pixels, centre of mass to the middle.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist.picture.decode import Picture, to_grey
from edge_mnist.picture.digit import find_ink

SIDE_PX = 28
BOX_PX = 20  # MNIST: "size normalized to fit in a 20x20 pixel box"
_ONES, _PLACES = np.ones(SIDE_PX, np.float32), np.arange(SIDE_PX, dtype=np.float32)


@dataclass(frozen=True)
class ModelInput:
    """What the model is to see of a picture.

    Attributes:
        image: Shape (28, 28), uint8, 0 = background, 255 = full ink; all 0 if there is no ink.
        reason: Why this is no picture of one digit, or None.
    """

    image: NDArray[np.uint8]
    reason: str | None = None


def read_picture(picture: Picture, *, framing: str = "digit") -> ModelInput:
    """Turn a picture of one digit into the model's input.

    Args:
        picture: A path, the bytes of a file, an open binary file, a PIL image, or an array of
            H x W or H x W x 1/3/4: uint8, uint16, bool, or float in 0..1.
        framing: ``digit`` looks for ink and frames it as MNIST does. ``ink`` takes all the ink of
            the picture, for classes of one's own, whose signs may have several parts. ``whole``
            takes the picture as it is, for data sets whose images fill their frame, as pictures of
            clothes do.

    Returns:
        The image and, where the picture shows no single digit, the reason. A picture that already
        is an MNIST image comes back untouched.

    Raises:
        PictureError: It cannot be read.
    """
    grey = to_grey(picture)
    if framing == "whole":
        return ModelInput(frame_whole(grey))
    if grey.shape == (SIDE_PX, SIDE_PX):
        for levels in (grey, 255 - grey):
            if is_mnist_image(levels):
                return ModelInput(levels)
    ink = find_ink(grey, keep_all=framing == "ink")
    if ink is None:
        return ModelInput(np.zeros((SIDE_PX, SIDE_PX), np.uint8), "blank")
    return ModelInput(
        frame_ink(to_levels(ink.amount)), "more than one digit" if ink.has_more else None
    )


def is_mnist_image(levels: NDArray[np.uint8]) -> bool:
    """Tell whether levels already have MNIST's form, as all 70,000 of its images have it.

    28 x 28, mostly 0, full ink somewhere, longer side 20 (16 images: 19), centre of mass within
    half a pixel of the middle.
    """
    if levels.shape != (SIDE_PX, SIDE_PX) or levels[0, 0] or levels.max() < 254:
        return False
    if 2 * np.count_nonzero(levels) > levels.size:
        return False
    # Matrix products: on arrays this small a third of the time of sum() and any().
    weight = levels.astype(np.float32)
    sides = weight @ _ONES, _ONES @ weight
    inked = [side.nonzero()[0] for side in sides]
    long_side = max(int(places[-1] - places[0]) + 1 for places in inked)
    if long_side not in (BOX_PX - 1, BOX_PX):
        return False
    mass = float(sides[0] @ _ONES)
    return all(13.4 < float(side @ _PLACES) / mass < 14.6 for side in sides)


def to_levels(amount: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bring an amount of ink, 0..1, to levels 0..255."""
    return np.round(amount * 255).astype(np.uint8)


def frame_ink(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring ink to MNIST's form: longer side 20 pixels, centre of mass in the middle of 28 x 28.

    Args:
        ink: Shape (H, W), uint8, 0 = background; at least one pixel is not.

    Returns:
        One image, shape (28, 28), uint8, its strongest ink near 255.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX_PX / max(cropped.shape)
    height, width = (max(1, round(side * scale)) for side in cropped.shape)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    small = np.asarray(Image.fromarray(cropped).resize((width, height), method))
    # Antialiasing dims thin strokes; MNIST's reach full ink. A few pixels may clip.
    strong = np.sort(small, axis=None)[-max(3, small.size // 25)]
    bright = np.minimum(np.round(small * (255 / max(int(strong), 40))), 255)
    return center_mass(bright.astype(np.uint8))


def frame_whole(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring a whole picture to 28 x 28, light on dark; one of that size keeps its levels.

    Args:
        grey: Shape (H, W), uint8. A light border is taken for paper: then dark is ink.
    """
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    levels = 255 - grey if np.median(border) > 127 else grey
    scale = SIDE_PX / max(levels.shape)
    height, width = (max(1, round(side * scale)) for side in levels.shape)
    small = np.asarray(Image.fromarray(levels).resize((width, height), Image.Resampling.BOX))
    framed = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    top, left = (SIDE_PX - height) // 2, (SIDE_PX - width) // 2
    framed[top : top + height, left : left + width] = small
    return framed


def center_mass(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Place ink of at most 28 x 28 so that its centre of mass is the middle of 28 x 28."""
    weight = ink.astype(np.float64)
    mass = weight.sum()
    framed = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    offsets = []
    for axis, side in enumerate(ink.shape):
        center = (weight.sum(axis=1 - axis) @ np.arange(side)) / mass
        offset = round(SIDE_PX / 2 - center)  # MNIST's centres lie within 13.5 .. 14.5
        offsets.append(min(max(offset, 0), SIDE_PX - side))
    top, left = offsets
    framed[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return framed
