"""From any picture to the model's input, with NumPy and Pillow alone.

``read_picture`` decodes (``decode``, ``array``), finds the digit's ink (``digit``), and brings it
to the form of an MNIST image (``frame``).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.picture.decode import Picture, to_grey
from edge_mnist.picture.digit import SIDE_PX, find_ink, find_mnist_image
from edge_mnist.picture.frame import frame_ink, frame_whole

__all__ = ["ModelInput", "read_picture"]


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
        picture: A path, the bytes of a file, an open binary file, a PIL image, or an array, tensor
            or nested lists of H x W, H x W x 1/3/4 or 1/3/4 x H x W: integers in 0..255, uint16 in
            0..65535, bool, or float in 0..1.
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
    if framing != "whole":
        image = find_mnist_image(grey)
        if image is not None:
            return ModelInput(image)
        ink = find_ink(grey, keep_all=framing == "ink")
        if ink is None:
            return ModelInput(np.zeros((SIDE_PX, SIDE_PX), np.uint8), "blank")
        return ModelInput(frame_ink(ink.levels), "more than one digit" if ink.has_more else None)
    return ModelInput(frame_whole(grey))
