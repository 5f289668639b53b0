"""From any picture to what the model eats: one image, 28 x 28, 0 = background, 255 = full ink.

The path: decode, grey, find out whether ink is dark or light, take the background away, crop to
the ink, and then MNIST's own recipe: longer side to 20 pixels, centre of mass to the middle.
"""

import importlib
import io
import os
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edge_mnist.errors import PictureError
from edge_mnist.ink import find_ink

Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]

# What is opened at all. Each plugin is named, so that no other one is ever tried on a file.
PLUGINS = ("Png", "Jpeg", "WebP", "Bmp", "Gif", "Tiff", "Ppm")
FORMATS = tuple(name.upper() for name in PLUGINS)
ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
MAX_BYTES = 64_000_000
MAX_PIXELS = 24_000_000  # decoded at once; 96 MB in RGBA
MAX_JPEG_PIXELS = 400_000_000  # a JPEG is decoded at a half to an eighth of its size
SIDE_PX = 28
DRAFT_SIDE = 512  # a JPEG is decoded no smaller than this
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
        if picture.dtype == np.uint8 and picture.ndim == 2 and picture.size:
            return picture
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        picture = _decode(picture)
    upright = _turn_upright(picture)
    if "A" in upright.getbands() or "transparency" in upright.info:
        upright = _fill_transparent(upright.convert("RGBA"))
    if upright.mode[0] in "IF":
        return _stretch(np.asarray(upright, np.float32))
    if upright.mode == "CMYK":
        upright = upright.convert("RGB")
    return np.asarray(upright if upright.mode == "L" else upright.convert("L"), dtype=np.uint8)


def _turn_upright(picture: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says; most have none, and asking Pillow costs a copy."""
    if picture.format != "TIFF" and not ORIENTATION_KEYS & picture.info.keys():
        return picture
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # broken metadata; see _decode
        raise PictureError(f"damaged: {error}") from error


def _stretch(deep: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bring 16-bit or float levels, of which often a part is used, to 0..255."""
    if not np.isfinite(deep).all():
        raise PictureError("has pixels that are no finite number")
    low, high = float(deep.min()), float(deep.max())
    if low >= 0 and high > 255:  # full 16 bits stay exact
        low, high = (0.0, 65535.0) if high > 32767 else (low, high)
    return np.round((deep - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)


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
        offset = round(SIDE_PX / 2 - center)  # MNIST's centres lie within 13.5 .. 14.5
        offsets.append(min(max(offset, 0), SIDE_PX - side))
    top, left = offsets
    framed[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return framed


def _decode(source: str | os.PathLike[str] | bytes | BinaryIO) -> Image.Image:
    data = _read_bytes(source)
    try:
        image = _open(data)
        if image.format == "JPEG" and image.width * image.height <= MAX_JPEG_PIXELS:
            image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
        image.load()
    except PictureError:
        raise
    except Exception as error:  # a hostile file makes plugins raise anything
        raise PictureError(f"truncated or damaged: {error}") from error
    return image


def _open(data: bytes) -> Image.Image:
    """Open a file with the plugin that recognises it, reading its header only.

    Image.open would do, but it prints a warning, or refuses, by a limit of its own that belongs
    to the whole process.
    """
    for plugin in PLUGINS:
        if plugin.upper() not in Image.OPEN:
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
        make, recognises = Image.OPEN[plugin.upper()]
        if recognises is None or recognises(data[:16]) is True:
            return make(io.BytesIO(data), "")
    raise PictureError(f"not a picture of a known format ({', '.join(FORMATS)})")


def _read_bytes(source: str | os.PathLike[str] | bytes | BinaryIO) -> bytes:
    try:
        if isinstance(source, bytes):
            data = source
        elif isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                size = os.fstat(file.fileno()).st_size  # 0 for a pipe
                data = file.read((min(size, MAX_BYTES) or MAX_BYTES) + 1)
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
    is_grey, is_color = array.ndim == 2, array.ndim == 3 and array.shape[2] in (3, 4)
    if not (is_grey or is_color) or not array.size:
        raise PictureError(f"want an array of H x W or H x W x 1/3/4, got {array.shape}")
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array)))


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return (array >> 8).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f":
        raise PictureError(f"want uint8, uint16, bool or float in 0..1, got {array.dtype}")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise PictureError("a float array must lie within 0..1")
    return np.round(array * 255).astype(np.uint8)


def _fill_transparent(image: Image.Image) -> Image.Image:
    """Lay a transparent picture on the sheet that makes its ink readable.

    Ink of one tone gets a sheet of the other. A picture that has ink and sheet of its own, cut
    out with soft corners say, is continued by its own middle tone.
    """
    image.thumbnail((1024, 1024), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.float32)
    luminance = pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    opaque = luminance[pixels[:, :, 3] > 127]
    if not opaque.size:
        return Image.new("L", image.size, 255)
    low, middle, high = np.percentile(opaque, [5, 50, 95])
    level = round(middle) if high - low > 100 else 255 if middle < 128 else 0
    sheet = Image.new("RGBA", image.size, (level, level, level, 255))
    return Image.alpha_composite(sheet, image).convert("RGB")
