"""MNIST's files, found, verified and read with numpy alone: a device without torch validates on it.

torchvision would need torch, and verifies only the archives that it downloads.
"""

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError, MissingPackageError

# Shape of each file's values, and SHA-256 of the whole file, unpacked.
FILES = {
    "train-images-idx3-ubyte": (
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
# What torchvision made of them until 2021: a tuple of images and labels in each file.
PROCESSED_FILES = ("training.pt", "test.pt")
LABELS_HEADER_BYTES, IMAGES_HEADER_BYTES = 8, 16

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]


def find_mnist(folder: Path) -> Path:
    """Return the folder, at or below a given one, that holds MNIST's files.

    Args:
        folder: Holds the four files, gzipped or not, or torchvision's old ``training.pt`` and
            ``test.pt``; itself, in ``raw`` or ``processed``, or in ``MNIST/raw`` or
            ``MNIST/processed``.

    Raises:
        DataError: There is none.
    """
    for candidate in (folder, folder / "MNIST" / "raw", folder / "raw"):
        if all(_find_file(candidate, name) for name in FILES):
            return candidate
    for candidate in (folder, folder / "MNIST" / "processed", folder / "processed"):
        if all(os.path.isfile(candidate / name) for name in PROCESSED_FILES):
            return candidate
    missing = [name for name in FILES if not _find_file(folder, name)]
    raise DataError(
        f"{folder} does not hold MNIST: missing {', '.join(missing)} (.gz or not); "
        f"nor is there {' with '.join(PROCESSED_FILES)}"
    )


def read_mnist(folder: Path) -> Arrays:
    """Read MNIST's files, each one's checksum verified first.

    Args:
        folder: What ``find_mnist`` returned.

    Returns:
        Training images (60000, 28, 28) uint8 and labels (60000,) int64, then the test set's
        10,000 likewise.

    Raises:
        DataError: A file is missing, truncated or altered; it is left as it is.
        MissingPackageError: torchvision's old files need torch, which is not installed.
    """
    paths = [_find_file(folder, name) for name in FILES]
    parts = [_read_idx(path) for path in paths if path]
    if len(parts) < len(FILES):
        parts = _read_processed(folder)
    train_images, train_labels, test_images, test_labels = parts
    return train_images, train_labels.astype(np.int64), test_images, test_labels.astype(np.int64)


def _find_file(folder: Path, name: str) -> Path | None:
    """Return the file of that name, gzipped or not; None if there is neither."""
    for path in (folder / name, folder / f"{name}.gz"):
        if os.path.isfile(path):  # unlike Path.is_file, no error where the folder is forbidden
            return path
    return None


def _read_idx(path: Path) -> NDArray[np.uint8]:
    shape, sha256 = FILES[path.name.removesuffix(".gz")]
    header_bytes = IMAGES_HEADER_BYTES if len(shape) == 3 else LABELS_HEADER_BYTES
    expected_bytes = header_bytes + int(np.prod(shape))
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(expected_bytes + 1)  # one more shows that there is more
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is truncated or altered: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    _check_sha256(path, data, sha256)
    return np.frombuffer(data, np.uint8, offset=header_bytes).reshape(shape)


def _read_processed(folder: Path) -> list[NDArray[np.uint8]]:
    """Return the verified content of both files: images, labels, images, labels, all uint8."""
    expected = list(FILES.values())
    parts: list[NDArray[np.uint8]] = []
    for name in PROCESSED_FILES:
        path = folder / name
        for array, dtype in zip(_load_tensors(path), (np.uint8, np.int64), strict=True):
            shape, sha256 = expected.pop(0)
            if array.dtype != dtype or array.shape != shape:
                raise DataError(
                    f"{path} is truncated or altered: expected {np.dtype(dtype)} {shape}, "
                    f"got {array.dtype} {array.shape}"
                )
            narrow = array.astype(np.uint8)
            if (narrow != array).any():  # else a label of 256 would pass for 0
                raise DataError(f"{path} is altered: it has labels beyond 255")
            _check_sha256(path, _to_idx(narrow), sha256)
            parts.append(narrow)
    return parts


def _load_tensors(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(
            f"reading {path} needs torch; install 'edge-mnist[train]', or name a folder with "
            "MNIST's four IDX files"
        ) from error
    try:
        images, labels = torch.load(path, map_location="cpu", weights_only=True)
        return images.numpy(), labels.numpy()
    except Exception as error:  # a damaged file makes torch raise anything
        raise DataError(
            f"{path} is truncated or altered: torch finds no pair of tensors in it "
            f"({type(error).__name__})"
        ) from error


def _check_sha256(path: Path, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is truncated or altered: expected SHA-256 {expected} of its IDX content, "
            f"got {found}; replace the file"
        )


def _to_idx(array: NDArray[np.uint8]) -> bytes:
    """Return the published IDX file with these values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
