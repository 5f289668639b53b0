"""Data sets: finding, checking, downloading and splitting them.

Loading needs numpy; the download needs torchvision, the digits and the split scikit-learn.
"""

import contextlib
import gzip
import hashlib
import os
import socket
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist.atomic import make_folder
from edge_mnist.errors import DataError, MissingPackageError, UsageError
from edge_mnist.picture.reading import frame_ink
from edge_mnist.training.dataset import Dataset, split_stratified
from edge_mnist.training.folder import load_folder

DATASETS = ("mnist", "digits")
DIGIT_LABELS = tuple("0123456789")

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


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    offline: bool = False,
    timeout_s: float = 300.0,
) -> Dataset:
    """Load a data set by name, checksums verified, or a folder of one's own pictures.

    Args:
        name: One of ``DATASETS``, or a folder with one folder of pictures for each class.
        data_dir: Folder with MNIST's four files, gzipped or not, flat or in ``MNIST/raw``.
            Without it EDGE_MNIST_DATA, then the cache, then the download.
        offline: Never download. EDGE_MNIST_OFFLINE=1 does the same.
        timeout_s: Longest time for a download.

    Raises:
        UsageError: There is no such data set.
        DataError: It cannot be had, or a file is truncated or altered.
    """
    if name == "digits":
        return load_digits()
    if name != "mnist" and Path(name).is_dir():
        return load_folder(Path(name))
    if name != "mnist":
        raise UsageError(
            f"no data set named {name!r}; there are: {', '.join(DATASETS)}, and any folder with "
            "a folder of pictures for each class"
        )
    return read_mnist(find_mnist(data_dir, offline=offline, timeout_s=timeout_s))


def named_folder(data_dir: Path | None) -> Path | None:
    """Return the data folder that the user named, by option or by EDGE_MNIST_DATA."""
    named = data_dir or os.environ.get("EDGE_MNIST_DATA")
    return Path(named) if named else None


def find_mnist(data_dir: Path | None, *, offline: bool, timeout_s: float) -> Path:
    """Return a folder that holds MNIST's four files, downloading them if need be.

    Raises:
        DataError: No folder holds them, and they cannot be downloaded.
    """
    named = named_folder(data_dir)
    if named:
        return _find_files_in(named)
    cache = cache_folder()
    with contextlib.suppress(DataError):
        return _find_files_in(cache)
    if offline or os.environ.get("EDGE_MNIST_OFFLINE", "0") not in ("", "0"):
        raise _no_mnist("downloads are off (offline)")
    download_mnist(cache, timeout_s=timeout_s)
    return _find_files_in(cache)


def cache_folder() -> Path:
    """Return where downloads are kept: XDG_CACHE_HOME/edge-mnist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-mnist"


def download_mnist(folder: Path, *, timeout_s: float) -> None:
    """Download MNIST with torchvision's loader into ``folder``/MNIST/raw, whole or not at all.

    Raises:
        DataError: The download failed or took longer than ``timeout_s``.
        MissingPackageError: torchvision is not installed.
    """
    make_folder(folder)
    failures: list[Exception] = []
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as partial:
        # A thread, because a slow server keeps a socket alive beyond any socket timeout.
        worker = threading.Thread(target=_run_download, args=(partial, failures), daemon=True)
        worker.start()
        worker.join(timeout_s)
        if worker.is_alive():
            raise _no_mnist(f"the download took longer than {timeout_s:.0f} s")
        if failures:
            raise failures[0]
        if not (folder / "MNIST").exists():
            os.replace(Path(partial) / "MNIST", folder / "MNIST")


def _run_download(root: str, failures: list[Exception]) -> None:
    try:
        from torchvision.datasets import MNIST
    except ImportError:
        failures.append(
            MissingPackageError(
                "MNIST is not at hand, and the download needs torchvision; install "
                "'edge-mnist[train]', or name a folder with --data-dir"
            )
        )
        return
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints its mirrors' failures
            MNIST(root, download=True)
    except Exception as error:  # whatever a download can raise, the user needs one line
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        failures.append(_no_mnist(f"the download failed ({reason.rstrip(':')})"))
    finally:
        socket.setdefaulttimeout(before)


def _no_mnist(reason: str) -> DataError:
    return DataError(
        f"MNIST is not at hand and {reason}. Three ways out: connect to a network and run again; "
        "name a folder with its four files (--data-dir or EDGE_MNIST_DATA); "
        "or use the built-in digits (--dataset digits)"
    )


def _find_files_in(folder: Path) -> Path:
    for candidate in (folder, folder / "MNIST" / "raw", folder / "raw"):
        if all(_find_file(candidate, name) for name in MNIST_FILES):
            return candidate
    missing = [name for name in MNIST_FILES if not _find_file(folder, name)]
    raise DataError(f"{folder} does not hold MNIST: missing {', '.join(missing)} (.gz or not)")


def _find_file(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def read_mnist(folder: Path) -> Dataset:
    """Read MNIST's four files from ``folder``, each one's checksum verified first.

    Raises:
        DataError: A file is missing, truncated or altered; it is left as it is.
    """
    parts = [_read_idx(_find_file(folder, name) or folder / name) for name in MNIST_FILES]
    train_images, train_labels, test_images, test_labels = parts
    return Dataset(
        "mnist",
        DIGIT_LABELS,
        train_images.reshape(-1, 28, 28),
        train_labels.astype(np.int64),
        test_images.reshape(-1, 28, 28),
        test_labels.astype(np.int64),
    )


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the verified content of one IDX file, flat and without its header."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    md5, sha256 = MNIST_FILES[path.name.removesuffix(".gz")]
    if path.suffix == ".gz":
        _check_sum(path, hashlib.md5(data, usedforsecurity=False).hexdigest(), md5, "MD5")
        data = gzip.decompress(data)
    else:
        _check_sum(path, hashlib.sha256(data).hexdigest(), sha256, "SHA-256")
    header_bytes = 4 + 4 * data[3]  # the fourth byte of an IDX file counts its dimensions
    return np.frombuffer(data, np.uint8, offset=header_bytes)


def _check_sum(path: Path, found: str, expected: str, kind: str) -> None:
    if found != expected:
        raise DataError(f"{path} is truncated or altered: {kind} is {found}, should be {expected}")


def load_digits() -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits, brought to MNIST's form, one in five for test.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    from sklearn import datasets

    bunch = datasets.load_digits()
    small = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), ink is bright
    images = np.stack([frame_ink(image) for image in small])
    labels = bunch.target.astype(np.int64)
    train, test = split_stratified(labels, share=0.2)
    return Dataset("digits", DIGIT_LABELS, images[train], labels[train], images[test], labels[test])
