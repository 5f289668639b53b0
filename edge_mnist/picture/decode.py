"""Finding the pictures in a folder.

Decoding: from any picture file, image or array to grey levels, within limits.

A picture is hostile until it is read: only the listed formats are opened, and what a picture will
take is known before its pixels are decoded.
"""

import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from edge_mnist.errors import PictureError

SUFFIXES = frozenset(
    f".{name}"
    for name in ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm")
)


def find_pictures(folder: str, suffixes: frozenset[str] = SUFFIXES) -> Iterator[str]:
    """Yield the pictures below a folder by their suffix, in order; links are not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # a folder that may not be read holds no pictures for us
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from find_pictures(entry.path, suffixes)
        elif entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in suffixes:
            yield entry.path


Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]

# What is opened at all. Each plugin is named, so that no other one is ever tried on a file.
PLUGINS = ("Png", "Jpeg", "WebP", "Bmp", "Gif", "Tiff", "Ppm")
FORMATS = tuple(name.upper() for name in PLUGINS)
ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # then width and height, four bytes each
MAX_BYTES = 32_000_000
MAX_DECODED_BYTES = 192_000_000  # with the interpreter and onnxruntime, less than 300 MB in all
MAX_JPEG_PIXELS = 400_000_000  # a JPEG is decoded at a half to an eighth of its size
# What a pixel takes while it is decoded and made smaller, the copies of Pillow included.
PIXEL_BYTES = {"1": 2, "L": 1, "P": 9, "I;16": 6, "RGB": 4, "RGBA": 8, "LA": 8, "PA": 8}
WEBP_PIXEL_BYTES, COEFFICIENT_BYTES = 16, 2
MAX_SIDE = 65_535  # a picture of one column takes ten times as much for each pixel
KEPT_PIXELS = 1_000_000  # larger pictures are made smaller as soon as they are decoded
DRAFT_SIDE = 512  # a JPEG is decoded no smaller than this


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
    """Make a large picture smaller and turn it as its EXIF says."""
    if picture.format != "TIFF" and not ORIENTATION_KEYS & picture.info.keys():
        return _reduce(picture)  # most have none, and asking Pillow takes time
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        small = _reduce(picture)
        if orientation == 1:
            return small
        small.getexif()[ExifTags.Base.Orientation] = orientation
        return ImageOps.exif_transpose(small)
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


def _decode(source: str | os.PathLike[str] | bytes | BinaryIO) -> Image.Image:
    data = _read_bytes(source)
    try:
        image = open_picture(data)
        size = f"{image.width} x {image.height} pixels"
        if max(image.size) > MAX_SIDE:
            raise PictureError(f"{size}, a side is longer than {MAX_SIDE:,}")
        if image.format == "JPEG" and image.width * image.height <= MAX_JPEG_PIXELS:
            decoded_bytes = _prepare_jpeg(image)
        else:
            decoded_bytes = image.width * image.height * _pixel_bytes(image)
        if decoded_bytes > MAX_DECODED_BYTES:
            raise PictureError(f"{size} would take more than {MAX_DECODED_BYTES:,} bytes")
        image.load()
    except PictureError:
        raise
    except Exception as error:  # a hostile file makes plugins raise anything
        raise PictureError(f"truncated or damaged: {error}") from error
    return image


def _prepare_jpeg(image: Image.Image) -> int:
    """Have a JPEG decoded at a fraction of its size; return the bytes that will take."""
    kept = 0
    if "progressive" in image.info:  # kept whole as coefficients, whatever size it is decoded at
        areas = [across * down for _, across, down, *_ in image.layer]  # type: ignore[attr-defined]
        kept = image.width * image.height * COEFFICIENT_BYTES * sum(areas) // max(areas)
    image.draft(None, (DRAFT_SIDE, DRAFT_SIDE))
    return int(kept) + image.width * image.height * _pixel_bytes(image)


def _pixel_bytes(image: Image.Image) -> int:
    if image.format == "WEBP":
        return WEBP_PIXEL_BYTES
    copies = 2 if image.format == "TIFF" else 1  # Pillow itself turns a TIFF upright
    return copies * PIXEL_BYTES.get(image.mode, 4)


def _reduce(image: Image.Image) -> Image.Image:
    """Make a large picture smaller, averaging, before copies of it are made."""
    factor = int((image.width * image.height / KEPT_PIXELS) ** 0.5)
    if factor < 2:
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("1", "PA") or image.mode.startswith("I;16"):
        image = image.convert({"1": "L", "PA": "RGBA"}.get(image.mode, "I"))
    return image.reduce((min(factor, image.width), min(factor, image.height)))


def open_picture(data: bytes) -> Image.Image:
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


def count_pixels(data: bytes) -> int:
    """Return how many pixels a picture's header promises; 0 if it is no picture."""
    # A second IHDR would count, for Pillow too.
    if data.startswith(PNG_START) and data.count(b"IHDR") == 1:
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    try:
        image = open_picture(data)
    except Exception:  # a hostile file makes plugins raise anything; to_grey tells what
        return 0
    return image.width * image.height


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
