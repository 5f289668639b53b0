"""Decode any picture (file, bytes, PIL image or array) to grey levels, within limits.

Files are untrusted: only the listed formats are opened, and the memory that decoding will take is
computed from the header before any pixel is decoded.
"""

import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps

from edge_mnist.errors import PictureError
from edge_mnist.picture.array import to_array, to_image

File = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
# Besides arrays, whatever NumPy takes for one: nested lists, a tensor of PyTorch on the CPU.
Picture = File | Image.Image | ArrayLike

# The Pillow plugins that may open a file, by name, so that Pillow never tries any other one.
PLUGINS = ("Png", "Jpeg", "WebP", "Bmp", "Gif", "Tiff", "Ppm")
FORMATS = tuple(name.upper() for name in PLUGINS)
SUFFIXES = frozenset(
    f".{name}"
    for name in ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm")
)
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # then width and height, four bytes each
MAX_BYTES = 32_000_000  # of a file
MAX_DECODED_BYTES = 192_000_000  # with the interpreter and onnxruntime, less than 300 MB in all
MAX_JPEG_PIXELS = 400_000_000  # a JPEG is decoded at 1/2 to 1/8 of its size
MAX_SIDE_PX = 65_535  # a picture of one column takes ten times as much memory per pixel
TARGET_PIXELS = 1_000_000  # a decoded picture is downscaled by a whole factor to no fewer pixels
JPEG_DRAFT_SIDE_PX = 512  # a JPEG is decoded no smaller than this
MAX_TRANSPARENT_SIDE_PX = 1024  # a picture with transparency is downscaled to this
# Peak bytes per pixel, by mode, while Pillow decodes and downscales a picture.
BYTES_PER_PIXEL = {"1": 2, "L": 1, "P": 9, "I;16": 6, "RGB": 4, "RGBA": 8, "LA": 8, "PA": 8}
WEBP_BYTES_PER_PIXEL = 16
JPEG_COEFFICIENT_BYTES = 2
# Keys of Image.info under which Pillow keeps metadata that may hold an orientation.
ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # weights of R, G and B, ITU-R BT.601


def to_grey(picture: Picture) -> NDArray[np.uint8]:
    """Decode any picture to grey levels, upright, transparency composited onto a background.

    Args:
        picture: A path, the bytes of a file, an open binary file, a PIL image, or an array, tensor
            or nested lists of H x W, H x W x 1/3/4 or 1/3/4 x H x W: integers in 0..255, uint16 in
            0..65535, bool, or float in 0..1.

    Returns:
        Grey levels, shape (H, W), uint8. A picture of 4 * ``TARGET_PIXELS`` or more is downscaled,
        except a uint8 array of H x W, which is returned as it is.

    Raises:
        PictureError: The picture cannot be read.
    """
    if isinstance(picture, np.ndarray) and _is_grey(picture):
        return np.asarray(picture)  # a masked array or a matrix has an arithmetic of its own
    image = _open_image(picture)
    if not (image.width and image.height):
        raise PictureError(f"{image.width} x {image.height} pixels: the picture is empty")
    image = _downscale_upright(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = _composite(image.convert("RGBA"))
    if image.mode[0] in "IF":
        return _rescale_intensity(np.asarray(image, np.float32))
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return np.asarray(image if image.mode == "L" else image.convert("L"), dtype=np.uint8)


def open_picture(data: bytes) -> Image.Image:
    """Open a file with the plugin that recognises it; reads the header only.

    ``Image.open`` would do the same, but it warns about, or refuses, large pictures by a limit of
    its own that belongs to the whole process.

    Raises:
        PictureError: No plugin of ``PLUGINS`` recognises the file.
    """
    for plugin in PLUGINS:
        if plugin.upper() not in Image.OPEN:
            importlib.import_module(f"PIL.{plugin}ImagePlugin")
        factory, accept = Image.OPEN[plugin.upper()]
        if accept is None or accept(data[:16]) is True:
            return factory(io.BytesIO(data), "")
    raise PictureError(f"not a picture of a known format ({', '.join(FORMATS)})")


def count_pixels(data: bytes) -> int:
    """Return the number of pixels in a picture's header; 0 if it is not a picture."""
    # A second IHDR would count, for Pillow too.
    if data.startswith(PNG_START) and data.count(b"IHDR") == 1:
        return int.from_bytes(data[16:20]) * int.from_bytes(data[20:24])
    try:
        image = open_picture(data)
    except Exception:  # a hostile file makes plugins raise anything; to_grey reports it
        return 0
    return image.width * image.height


def find_pictures(
    folder: str, suffixes: frozenset[str] = SUFFIXES
) -> Iterator[tuple[str, str | None]]:
    """Find all pictures below a folder, by their suffix, in order of their names.

    Symbolic links are not followed.

    Yields:
        A picture's path with None; or a path with the reason why it is left out: a folder that
        cannot be read, or what is named like a picture and is no regular file, such as a FIFO,
        which would be waited for.
    """
    pending: list[os.DirEntry[str]] = []
    yield from _scan_folder(folder, pending)
    while pending:  # no recursion: folders may be nested deeper than Python calls
        entry = pending.pop()
        if entry.is_dir(follow_symlinks=False):
            yield from _scan_folder(entry.path, pending)
        elif not entry.is_symlink() and Path(entry.name).suffix.lower() in suffixes:
            is_file = entry.is_file(follow_symlinks=False)
            yield entry.path, None if is_file else "left out: not a regular file"


def _scan_folder(folder: str, pending: list[os.DirEntry[str]]) -> Iterator[tuple[str, str]]:
    """Add a folder's entries to a stack, the first on top; yield it if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            pending += sorted(entries, key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        yield folder, f"cannot read this folder: {error.strerror}"


def _is_grey(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 2 and array.size > 0


def _open_image(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    return _decode(_read_bytes(picture)) if _is_file(picture) else to_image(to_array(picture))


def _is_file(picture: Picture) -> TypeGuard[File]:
    """Return whether a picture is a file, or the bytes of one, and not an array."""
    if isinstance(picture, memoryview):
        return picture.ndim == 1
    is_named = isinstance(picture, str | os.PathLike | bytes | bytearray)
    return is_named or hasattr(picture, "read")


def _read_bytes(source: File) -> bytes:
    try:
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
        elif isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size  # 0 for a pipe
                data = file.read((min(size_bytes, MAX_BYTES) or MAX_BYTES) + 1)
        else:
            data = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise PictureError(error.strerror or str(error)) from error
    except ValueError as error:  # the file is closed, or its name holds a null character
        raise PictureError(str(error)) from error
    if not isinstance(data, bytes):
        raise PictureError(f"expected a file opened in binary mode, got {type(data).__name__}")
    if not data:
        raise PictureError("the file is empty")
    if len(data) > MAX_BYTES:
        raise PictureError(f"larger than {MAX_BYTES:,} bytes")
    return data


def _decode(data: bytes) -> Image.Image:
    """Decode a file's first frame, if its header says that it stays within the limits."""
    try:
        image = open_picture(data)
        size = f"{image.width} x {image.height} pixels"
        if max(image.size) > MAX_SIDE_PX:
            raise PictureError(f"{size}, a side is longer than {MAX_SIDE_PX:,}")
        decoded_bytes = 0
        if image.format == "JPEG" and image.width * image.height <= MAX_JPEG_PIXELS:
            decoded_bytes = _count_coefficient_bytes(image)
            image.draft(None, (JPEG_DRAFT_SIDE_PX, JPEG_DRAFT_SIDE_PX))  # changes image.size
        decoded_bytes += image.width * image.height * _bytes_per_pixel(image)
        if decoded_bytes > MAX_DECODED_BYTES:
            raise PictureError(f"{size} would take more than {MAX_DECODED_BYTES:,} bytes")
        image.load()
    except PictureError:
        raise
    except Exception as error:  # plugins raise any exception on a malformed file
        raise PictureError(f"truncated or damaged: {error}") from error
    return image


def _count_coefficient_bytes(image: Image.Image) -> int:
    """Return what the DCT coefficients of a JPEG take; only a progressive one keeps them all."""
    if "progressive" not in image.info:
        return 0
    areas = [across * down for _, across, down, *_ in image.layer]  # type: ignore[attr-defined]
    coefficients = image.width * image.height * sum(areas) * JPEG_COEFFICIENT_BYTES
    return int(coefficients // max(areas))


def _bytes_per_pixel(image: Image.Image) -> int:
    if image.format == "WEBP":
        return WEBP_BYTES_PER_PIXEL
    n_copies = 2 if image.format == "TIFF" else 1  # Pillow itself transposes a TIFF
    return n_copies * BYTES_PER_PIXEL.get(image.mode, 4)


def _downscale_upright(image: Image.Image) -> Image.Image:
    """Downscale a large picture, then rotate or mirror it as its EXIF orientation says."""
    try:
        image.load()  # Pillow itself transposes a TIFF here
        image = _downscale(image)
        if not ORIENTATION_KEYS & image.info.keys():
            return image  # as most pictures: Image.getexif takes time
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return image if orientation == 1 else ImageOps.exif_transpose(image)
    except Exception as error:  # see _decode
        raise PictureError(f"truncated or damaged: {error}") from error


def _downscale(image: Image.Image) -> Image.Image:
    """Average square blocks of pixels, as large as leaves ``TARGET_PIXELS`` or more."""
    factor = int((image.width * image.height / TARGET_PIXELS) ** 0.5)
    if factor < 2:
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("1", "PA") or image.mode.startswith("I;16"):
        image = image.convert({"1": "L", "PA": "RGBA"}.get(image.mode, "I"))
    return image.reduce((min(factor, image.width), min(factor, image.height)))


def _composite(image: Image.Image) -> Image.Image:
    """Composite an RGBA picture onto a background that makes its ink visible.

    Pixels of about one luminance are ink: the background is white below dark ones and black below
    light ones. A picture that holds both ink and paper (a cut-out with soft edges, say) gets its
    own median luminance as background.
    """
    image.thumbnail((MAX_TRANSPARENT_SIDE_PX, MAX_TRANSPARENT_SIDE_PX), Image.Resampling.BOX)
    pixels = np.asarray(image, dtype=np.float32)
    opaque = (pixels[:, :, :3] @ LUMA)[pixels[:, :, 3] > 127]
    if not opaque.size:
        return Image.new("L", image.size, 255)
    low, median, high = np.percentile(opaque, [5, 50, 95])
    level = round(median) if high - low > 100 else 255 if median < 128 else 0
    background = Image.new("RGBA", image.size, (level, level, level, 255))
    return Image.alpha_composite(background, image).convert("RGB")


def _rescale_intensity(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scale 16-bit, 32-bit or float levels linearly to 0..255.

    The darkest level becomes 0 and the lightest 255, because such files often use a part of their
    range only; levels above 32767, the range of 16 bits in full, are scaled by 255 / 65535.
    """
    if not np.isfinite(levels).all():
        raise PictureError("expected finite pixel values, got NaN or infinity")
    low, high = float(levels.min()), float(levels.max())
    if low >= 0 and high > 32767:
        low, high = 0.0, 65535.0
    return np.round((levels - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
