"""From any picture to the model's input, with NumPy and Pillow, or in C where that was compiled.

``read_picture`` decodes (``decode``, ``array``), finds the digit's ink (``digit``), and brings it
to the form of an MNIST image (``frame``). The last two steps exist in C as well (``reader.c``),
which gives the same images and reasons and is ten times as fast.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import PictureError, UsageError
from edge_mnist.picture.decode import MAX_SIDE_PX, Picture, to_grey
from edge_mnist.picture.digit import SIDE_PX, find_ink, find_mnist_image
from edge_mnist.picture.frame import frame_ink, frame_whole

try:
    from edge_mnist.picture._reader import read_grey
except ImportError:  # there was no C compiler when the package was installed
    HAS_COMPILED = False
else:
    HAS_COMPILED = True

__all__ = ["ModelInput", "choose_reader", "read_picture"]

READERS = ("compiled", "numpy")
FRAMINGS = ("digit", "ink", "whole")  # as reader.h numbers them
REASONS = (None, "blank", "more than one digit")


@dataclass(frozen=True)
class ModelInput:
    """What the model is given for one picture.

    Attributes:
        image: Shape (28, 28), uint8, 0 = background, 255 = full ink; all 0 if there is no ink.
        reason: Why the picture does not show exactly one digit, or None.
    """

    image: NDArray[np.uint8]
    reason: str | None = None


def choose_reader(reader: str | None = None) -> str:
    """Return which implementation reads pictures, ``compiled`` or ``numpy``.

    Args:
        reader: Which one is asked for; None for the compiled one where it was built.

    Raises:
        UsageError: There is no such implementation, or it was not built.
    """
    if reader is None:
        return "compiled" if HAS_COMPILED else "numpy"
    if reader not in READERS:
        raise UsageError(f"no reader named {reader!r}; there are: {', '.join(READERS)}")
    if reader == "compiled" and not HAS_COMPILED:
        raise UsageError("the compiled reader was not built; reinstall where a C compiler is")
    return reader


def read_picture(
    picture: Picture, *, framing: str = "digit", reader: str | None = None
) -> ModelInput:
    """Turn a picture of one digit into the model's input.

    Args:
        picture: A path, the bytes of a file, an open binary file, a PIL image, or an array, tensor
            or nested lists of H x W, H x W x 1/3/4 or 1/3/4 x H x W: integers in 0..255, uint16 in
            0..65535, bool, or float in 0..1.
        framing: ``digit`` finds the ink and frames it as MNIST does. ``ink`` takes all the ink of
            the picture, for classes of one's own, whose signs may have several parts. ``whole``
            scales the picture as it is, for data sets whose images fill their frame, such as
            Fashion-MNIST.
        reader: See ``choose_reader``; both give the same images and reasons.

    Returns:
        The image and, where the picture does not show exactly one digit, the reason. A picture
        that already has the form of an MNIST image is returned unchanged.

    Raises:
        PictureError: The picture cannot be read.
        UsageError: There is no such framing or reader.
    """
    if framing not in FRAMINGS:
        raise UsageError(f"no framing named {framing!r}; there are: {', '.join(FRAMINGS)}")
    grey = to_grey(picture)
    if max(grey.shape) > MAX_SIDE_PX:
        height, width = grey.shape
        raise PictureError(f"{width} x {height} pixels, a side is longer than {MAX_SIDE_PX:,}")
    if choose_reader(reader) == "numpy":
        return _read_with_numpy(grey, framing)
    if grey.strides[1] != 1:
        grey = np.ascontiguousarray(grey)
    image = np.empty((SIDE_PX, SIDE_PX), np.uint8)
    return ModelInput(image, REASONS[read_grey(grey, image, FRAMINGS.index(framing))])


def _read_with_numpy(grey: NDArray[np.uint8], framing: str) -> ModelInput:
    if framing == "whole":
        return ModelInput(frame_whole(grey))
    image = find_mnist_image(grey)
    if image is not None:
        return ModelInput(image)
    ink = find_ink(grey, keep_all=framing == "ink")
    if ink is None:
        return ModelInput(np.zeros((SIDE_PX, SIDE_PX), np.uint8), "blank")
    return ModelInput(frame_ink(ink.levels), "more than one digit" if ink.has_more else None)
