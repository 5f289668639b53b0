"""MNIST: its four files, every byte of them known by its checksum."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError
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


def load_mnist(data_dir: Path | None, *, offline: bool, timeout_s: float) -> Dataset:
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
    missing = [name for name in MNIST_FILES if not find_file(folder, name)]
    raise DataError(f"{folder} does not hold MNIST: missing {', '.join(missing)} (.gz or not)")


def read_mnist(folder: Path) -> Dataset:
    """Read MNIST's files from ``folder``, each one's checksum verified first.

    Raises:
        DataError: A file is missing, truncated or altered; it is left as it is.
    """
    parts = [_read_idx(find_file(folder, name) or folder / name) for name in MNIST_FILES]
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
