"""From any picture to what the model eats: one image, 28 x 28, 0 = background, 255 = full ink.

The path: decode, grey, find out whether ink is dark or light, take the background away, crop to
the ink, and then MNIST's own recipe: longer side to 20 pixels, centre of mass to the middle.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_mnist.errors import PictureError
from edge_mnist.ink import find_ink

Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_BYTES = 50_000_000
MAX_PIXELS = 50_000_000
SIDE_PX = 28
BOX_PX = 20  # MNIST: "size normalized to fit in a 20x20 pixel box"


@dataclass(frozen=True)
class Sight:
    """What the model is to see of a picture.

    Attributes:
        image: Shape (28, 28), uint8, 0 = background, 255 = full ink; all 0 if there is no ink.
        reason: Why this is no picture of one digit, or None.
    """

    image: NDArray[np.uint8]
    reason: str | None = None


def read_picture(picture: Picture) -> Sight:
    """Turn a picture of one digit into the model's input.

    Args:
        picture: A path, the bytes of a file, an open binary file, a PIL image, or an array of
            H x W or H x W x 1/3/4: uint8, uint16, bool, or float in 0..1.

    Returns:
        The image and, where the picture shows no single digit, the reason. A picture that already
        is an MNIST image comes back untouched.

    Raises:
        PictureError: It cannot be read.
    """
    grey = to_grey(picture)
    for levels in (grey, 255 - grey):
        if is_mnist_image(levels):
            return Sight(levels)
    ink = find_ink(grey)
    if ink is None:
        return Sight(np.zeros((SIDE_PX, SIDE_PX), np.uint8), "blank")
    return Sight(frame_ink(to_levels(ink.amount)), "more than one digit" if ink.has_more else None)


def to_grey(picture: Picture) -> NDArray[np.uint8]:
    """Decode any picture to grey levels, shape (H, W), uint8, transparent parts filled.

    Raises:
        PictureError: It cannot be read.
    """
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        picture = _decode(picture)
    upright = ImageOps.exif_transpose(picture)
    if "A" in upright.getbands() or "transparency" in upright.info:
        upright = _fill_transparent(upright.convert("RGBA"))
    if upright.mode.startswith("I;16"):
        wide = np.asarray(upright, dtype=np.uint16)
        return (wide >> 8).astype(np.uint8)
    return np.asarray(upright.convert("L"), dtype=np.uint8)


def is_mnist_image(levels: NDArray[np.uint8]) -> bool:
    """Tell whether levels already have MNIST's form, as all 70,000 of its images have it.

    28 x 28, mostly 0, full ink somewhere, longer side 20 (16 images: 19), centre of mass within
    half a pixel of the middle.
    """
    if levels.shape != (SIDE_PX, SIDE_PX) or levels[0, 0] or levels.max() < 254:
        return False
    inked = levels > 0
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    long_side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    if long_side not in (BOX_PX - 1, BOX_PX) or 2 * np.count_nonzero(inked) > inked.size:
        return False
    weight = levels.sum(axis=1, dtype=np.int64), levels.sum(axis=0, dtype=np.int64)
    places = np.arange(SIDE_PX)
    centers = [float(side @ places / side.sum()) for side in weight]
    return all(13.4 < center < 14.6 for center in centers)


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


def center_mass(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Place ink of at most 28 x 28 so that its centre of mass is the middle of 28 x 28."""
    weight = ink.astype(np.float64)
    mass = weight.sum()
    framed = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    offsets = []
    for axis, side in enumerate(ink.shape):
        center = (weight.sum(axis=1 - axis) @ np.arange(side)) / mass
        offset = round(SIDE_PX / 2 - 0.5 - center)
        offsets.append(min(max(offset, 0), SIDE_PX - side))
    top, left = offsets
    framed[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return framed


def _decode(source: str | os.PathLike[str] | bytes | BinaryIO) -> Image.Image:
    data = _read_bytes(source)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
        image.load()
    except UnidentifiedImageError as error:
        raise PictureError(f"not a picture of a known format ({', '.join(FORMATS)})") from error
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise PictureError(f"truncated or damaged: {error}") from error
    return image


def _read_bytes(source: str | os.PathLike[str] | bytes | BinaryIO) -> bytes:
    try:
        if isinstance(source, bytes):
            data = source
        elif isinstance(source, str | os.PathLike):
            if Path(source).is_dir():
                raise PictureError("is a folder")
            with open(source, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        else:
            data = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise PictureError(error.strerror or str(error)) from error
    if not data:
        raise PictureError("the file is empty")
    if len(data) > MAX_BYTES:
        raise PictureError(f"larger than {MAX_BYTES:,} bytes")
    return data


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if (
        array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
        or not array.size
    ):
        raise PictureError(f"want an array of H x W or H x W x 1/3/4, got {array.shape}")
    if array.dtype == np.uint16:
        array = array >> 8
    elif array.dtype == np.bool_:
        array = array * 255
    elif array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise PictureError("a float array must lie within 0..1")
        array = np.round(array * 255)
    elif array.dtype != np.uint8:
        raise PictureError(f"want uint8, uint16, bool or float in 0..1, got {array.dtype}")
    return Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8))


def _fill_transparent(image: Image.Image) -> Image.Image:
    """Lay a transparent picture on the sheet, white or black, that makes its ink readable."""
    pixels = np.asarray(image, dtype=np.float32)
    alpha = pixels[:, :, 3] / 255
    luminance = pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    mean = (luminance * alpha).sum() / max(float(alpha.sum()), 1e-6)
    sheet = Image.new("RGBA", image.size, "white" if mean < 128 else "black")
    return Image.alpha_composite(sheet, image).convert("RGB")
