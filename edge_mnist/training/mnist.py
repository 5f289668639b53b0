"""MNIST: its four files, or torchvision's old two, every byte of them known by its checksum."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError, MissingPackageError
from edge_mnist.training.dataset import DIGIT_LABELS, Dataset
from edge_mnist.training.download import Source, find_in_cache, named_folder
from edge_mnist.training.idx import check_sum, find_file, parse_idx, read_file, unzip

SOURCE = Source("MNIST", held="its four files")
# MD5 of the published gzip file, as in torchvision's loader; SHA-256 of its content.
MNIST_FILES = {
    "train-images-idx3-ubyte": (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        "d53e105ee54ea40749a09fcbcd1e9432",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        "9fb629c4189551a2d022fa330f9573f3",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        "ec29112dd5afa0611ce80d1b7f02629c",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
# What torchvision made of them until 2021: a tuple of images and labels in each file.
PROCESSED_FILES = {"training.pt": 60_000, "test.pt": 10_000}


def load_mnist(data_dir: Path | None, *, offline: bool, timeout_s: float | None) -> Dataset:
    """Load MNIST from a named folder, else from the cache, else by download.

    Raises:
        DataError: It cannot be had, or a file is truncated or altered.
    """
    named = named_folder(data_dir)
    if named:
        return read_mnist(find_mnist_in(named))
    return read_mnist(find_in_cache(SOURCE, find_mnist_in, offline=offline, timeout_s=timeout_s))


def find_mnist_in(folder: Path) -> Path:
    """Return the folder, at or below a given one, that holds MNIST's files.

    Raises:
        DataError: There is none.
    """
    for candidate in (folder, folder / "MNIST" / "raw", folder / "raw"):
        if all(find_file(candidate, name) for name in MNIST_FILES):
            return candidate
    for candidate in (folder, folder / "MNIST" / "processed", folder / "processed"):
        if all(os.path.isfile(candidate / name) for name in PROCESSED_FILES):
            return candidate
    missing = [name for name in MNIST_FILES if not find_file(folder, name)]
    raise DataError(
        f"{folder} does not hold MNIST: missing {', '.join(missing)} (.gz or not); "
        f"nor is there {' with '.join(PROCESSED_FILES)}"
    )


def read_mnist(folder: Path) -> Dataset:
    """Read MNIST's files from ``folder``, each one's checksum verified first.

    Raises:
        DataError: A file is missing, truncated or altered; it is left as it is.
    """
    paths = [find_file(folder, name) for name in MNIST_FILES]
    parts = [_read_idx(path) for path in paths if path]
    if len(parts) < len(paths):
        parts = _read_processed(folder)
    train_images, train_labels, test_images, test_labels = parts
    return Dataset(
        "mnist",
        DIGIT_LABELS,
        train_images,
        train_labels.astype(np.int64),
        test_images,
        test_labels.astype(np.int64),
    )


def _read_idx(path: Path) -> NDArray[np.uint8]:
    data = read_file(path)
    md5, sha256 = MNIST_FILES[path.name.removesuffix(".gz")]
    if path.suffix == ".gz":
        check_sum(path, hashlib.md5(data, usedforsecurity=False).hexdigest(), md5, "MD5")
        data = unzip(data, path)
    else:
        check_sum(path, hashlib.sha256(data).hexdigest(), sha256, "SHA-256")
    return parse_idx(data, path)


def _read_processed(folder: Path) -> list[NDArray[np.uint8]]:
    """Return the verified content of both files: images, labels, images, labels, all uint8."""
    sums = [sha256 for _, sha256 in MNIST_FILES.values()]
    parts: list[NDArray[np.uint8]] = []
    for name, n_images in PROCESSED_FILES.items():
        path = folder / name
        images, labels = _load_tensors(path)
        _check_form(path, images, np.dtype(np.uint8), (n_images, 28, 28))
        _check_form(path, labels, np.dtype(np.int64), (n_images,))
        if (labels >> 8).any():  # else a class of 256 would pass for 0 below
            raise DataError(f"{path} is altered: it has labels beyond 255")
        parts += [images, labels.astype(np.uint8)]
        for part in parts[-2:]:
            found = hashlib.sha256(_to_idx(part)).hexdigest()
            check_sum(path, found, sums.pop(0), "SHA-256 of its content, as IDX,")
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


def _check_form(
    path: Path, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{path} is truncated or altered: it holds {array.dtype} {array.shape}, "
            f"should be {dtype} {shape}"
        )


def _to_idx(array: NDArray[np.uint8]) -> bytes:
    """Return the published IDX file with these values."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
