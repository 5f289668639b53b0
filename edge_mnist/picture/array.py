"""From an array, a tensor or nested lists to an 8-bit image."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist.errors import PictureError, one_line

CHANNELS = (1, 3, 4)
LAYOUTS = "H x W, H x W x 1/3/4 or 1/3/4 x H x W"


def to_array(values: object) -> NDArray[Any]:
    """Return a tensor, nested lists, or anything else that NumPy takes for an array, as an array.

    Raises:
        PictureError: NumPy does not take it: it is no array, or on a GPU, or needs a gradient.
    """
    if values is None or isinstance(values, dict | set | int | float | complex):
        raise PictureError(f"expected a picture, got {type(values).__name__}")
    try:
        array = np.asarray(values)
    except Exception as error:  # tensors raise whatever their library does
        reason = one_line(error)
        raise PictureError(f"{type(values).__name__} is no array of pixels: {reason}") from error
    if array.dtype.kind not in "biuf":
        raise PictureError(
            f"expected a picture or an array of numbers, got {type(values).__name__} of "
            f"{array.dtype}; several pictures go to predict_many"
        )
    return array


def to_image(array: NDArray[Any]) -> Image.Image:
    """Return an array of pixels as an image of 8 bits, grey, RGB or RGBA.

    Args:
        array: H x W, H x W x 1/3/4 or 1/3/4 x H x W. Integers in 0..255, uint16 in 0..65535, bool,
            or float in 0..1; see ``to_array``.

    Raises:
        PictureError: It has another shape, or other values.
    """
    if not array.size or array.ndim not in (2, 3):
        raise _wrong_shape(array)
    if array.ndim == 3 and array.shape[2] not in CHANNELS:
        if array.shape[0] not in CHANNELS:
            raise _wrong_shape(array)
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array)))


def _wrong_shape(array: NDArray[Any]) -> PictureError:
    several = "; several pictures go to predict_batch" if array.ndim > 2 else ""
    return PictureError(f"expected an array of {LAYOUTS}, got {array.shape}{several}")


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if low >= 0 and high <= 1:  # NaN fails too
            return np.round(array * 255).astype(np.uint8)
        remedy = "; divide by 255" if low >= 0 and high <= 255 else ""
        raise PictureError(f"expected float values in 0..1, got {low:g} .. {high:g}{remedy}")
    if low >= 0 and high <= 255:  # of a wider type too: they are levels of 8 bits
        return array.astype(np.uint8)
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    raise PictureError(
        f"expected integers in 0..255, or uint16 in 0..65535, got {low} .. {high} of {array.dtype}"
    )
