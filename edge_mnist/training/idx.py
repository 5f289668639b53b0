"""IDX files, the form in which MNIST and its siblings are published: reading and checking them."""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError

# What the third byte of a file says of its values: pixels and classes, or QMNIST's columns.
VALUE_TYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 12: np.dtype(">i4")}
MAX_DIMS = 3


def find_file(folder: Path, name: str, *, packed_first: bool = False) -> Path | None:
    """Return the file of that name, gzipped or not; None if there is neither."""
    for suffix in (".gz", "") if packed_first else ("", ".gz"):
        path = folder / f"{name}{suffix}"
        if os.path.isfile(path):  # unlike Path.is_file, no error where the folder is forbidden
            return path
    return None


def read_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        DataError: It is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def unzip(data: bytes, path: Path) -> bytes:
    """Return what a gzip file holds.

    Raises:
        DataError: Its own length or checksum tells that it is damaged.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or altered: {error}") from error


def check_sum(path: Path, found: str, expected: str, kind: str) -> None:
    """Compare a file's checksum with the published one.

    Raises:
        DataError: They differ.
    """
    if found != expected:
        raise DataError(f"{path} is truncated or altered: {kind} is {found}, should be {expected}")


def parse_idx(data: bytes, path: Path) -> NDArray[Any]:
    """Return the array that an IDX file's bytes are.

    Args:
        data: The whole file: two zeros, type, number of dimensions, each one's size, values.
        path: Named where the bytes are wrong.

    Returns:
        An array of one to three dimensions, uint8 or big-endian int32, read-only.

    Raises:
        DataError: It is no IDX file, holds nothing, or has more or fewer bytes than
            its header says.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """
    kind = VALUE_TYPES.get(data[2]) if len(data) > 3 and data[:2] == b"\0\0" else None
    n_dims = data[3] if kind else 0
    start = 4 + 4 * n_dims
    if kind is None or not 1 <= n_dims <= MAX_DIMS or len(data) < start:
        raise DataError(f"{path} is truncated or altered: it does not begin like an IDX file")
    shape = np.frombuffer(data, ">u4", count=n_dims, offset=4).tolist()
    n_values = math.prod(shape)
    expected = start + n_values * kind.itemsize
    if len(data) != expected:
        raise DataError(
            f"{path} is truncated or altered: {len(data):,} bytes, should be {expected:,}"
        )
    if not n_values:
        raise DataError(f"{path} holds nothing")
    return np.frombuffer(data, kind, offset=start).reshape(shape)
