"""MNIST's siblings: other data sets of its form, in torchvision's layout.

A gzip file of one of them is known by its MD5. What is unpacked has no published checksum, so its
header and its length are all that can be checked; where both are there, the gzip file is read.
"""

import functools
import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError
from edge_mnist.training.dataset import DIGIT_LABELS, Dataset
from edge_mnist.training.download import Source, find_in_cache, named_folder
from edge_mnist.training.idx import check_sum, find_file, parse_idx, read_file, unzip

N_CLASSES, SIDE_PX = 10, 28
ARCHIVE_NAME = "gzip.zip"


@dataclass(frozen=True)
class Sibling:
    """A data set of MNIST's form: ten classes of 28 x 28 pixels.

    Attributes:
        source: What torchvision knows it as.
        class_names: What each label means, for people.
        files: Training images, their labels, test images, their labels; each one's name with the
            MD5 of the published gzip file, as in torchvision's loader, or None where it has none.
        archive: MD5 of the published ``gzip.zip`` with all four gzip files, where there is one.
        is_transposed: Whether images are stored column by column.
        framing: ``whole`` where images fill their frame; see ``picture.reading.read_picture``.
    """

    source: Source
    class_names: tuple[str, ...]
    files: Mapping[str, str | None]
    archive: str | None = None
    is_transposed: bool = False
    framing: str = "digit"


SIBLINGS = {
    "fashion-mnist": Sibling(
        Source("FashionMNIST", held="FashionMNIST/raw"),
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        {
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        framing="whole",
    ),
    "kmnist": Sibling(
        Source("KMNIST", held="KMNIST/raw"),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        {
            "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
        },
        framing="whole",
    ),
    "qmnist": Sibling(
        Source("QMNIST", calls=({"what": "train"}, {"what": "test"}), held="QMNIST/raw"),
        DIGIT_LABELS,
        {
            "qmnist-train-images-idx3-ubyte": "ed72d4157d28c017586c42bc6afe6370",
            "qmnist-train-labels-idx2-int": "0058f8dd561b90ffdd0f734c6a30e5e4",
            "qmnist-test-images-idx3-ubyte": "1394631089c404de565df7b7aeaf9412",
            "qmnist-test-labels-idx2-int": "5b5b05890a5e13444e108efe57b788aa",
        },
    ),
    "emnist-digits": Sibling(
        # The download has all of EMNIST, half a gigabyte, 2 unpacked; a tenth of it is the digits.
        Source(
            "EMNIST",
            ({"split": "digits"},),
            kept="emnist-digits-*",
            held="EMNIST/raw",
            timeout_s=3600,
        ),
        DIGIT_LABELS,
        {
            "emnist-digits-train-images-idx3-ubyte": None,
            "emnist-digits-train-labels-idx1-ubyte": None,
            "emnist-digits-test-images-idx3-ubyte": None,
            "emnist-digits-test-labels-idx1-ubyte": None,
        },
        archive="58c8d27c78d21e728a6bc7b3cc06412e",
        is_transposed=True,
    ),
}


def load_sibling(
    name: str, data_dir: Path | None, *, offline: bool, timeout_s: float | None
) -> Dataset:
    """Load one of ``SIBLINGS`` from a named folder, else from the cache, else by download.

    EDGE_MNIST_DATA may name a folder for MNIST alone: where the sibling's folder is not in it,
    the cache is next. A folder named by ``data_dir`` has to hold it.

    Raises:
        DataError: It cannot be had, or a file is truncated or altered.
    """
    sibling = SIBLINGS[name]
    named = named_folder(data_dir)
    find_in = functools.partial(find_sibling_in, sibling=sibling)
    if named and (data_dir or not os.path.isdir(named) or _find_raw(named, sibling)):
        folder = find_in(named)
    else:
        folder = find_in_cache(sibling.source, find_in, offline=offline, timeout_s=timeout_s)
    return read_sibling(name, folder)


def find_sibling_in(folder: Path, sibling: Sibling) -> Path:
    """Return the folder that holds a sibling's files, given it, its parent or torchvision's root.

    Raises:
        DataError: There is none, or files are missing in it.
    """
    loader = sibling.source.loader
    raw = _find_raw(folder, sibling) or folder / loader / "raw"
    if sibling.archive and find_file(raw, ARCHIVE_NAME):
        return raw
    missing = [name for name in sibling.files if not find_file(raw, name)]
    if missing:
        raise DataError(
            f"{folder} does not hold {loader}: missing in {raw}: {', '.join(missing)} (.gz or not)"
        )
    return raw


def _find_raw(folder: Path, sibling: Sibling) -> Path | None:
    """Return where the files should be; None if the folder has no place for this data set.

    Never a folder of another name: most siblings' files are named like MNIST's.
    """
    loader, path = sibling.source.loader, Path(os.path.abspath(folder))
    if os.path.isdir(folder / loader / "raw"):  # unlike is_dir, no error where it is forbidden
        return folder / loader / "raw"
    if path.name == loader:
        return folder / "raw"
    return folder if path.parts[-2:] == (loader, "raw") else None


def read_sibling(name: str, folder: Path) -> Dataset:
    """Read one of ``SIBLINGS`` from the folder with its files.

    Raises:
        DataError: A file is truncated or altered; it is left as it is.
    """
    sibling = SIBLINGS[name]
    files = _read_files(folder, sibling)
    parts = [_parse_named(data, path) for path, data in files]
    train = _check_part(parts[0], parts[1], files[1][0])
    test = _check_part(parts[2], parts[3], files[3][0])
    if sibling.is_transposed:
        train, test = (
            (np.ascontiguousarray(images.transpose(0, 2, 1)), labels)
            for images, labels in (train, test)
        )
    return Dataset(name, sibling.class_names, *train, *test, framing=sibling.framing)


def _read_files(folder: Path, sibling: Sibling) -> list[tuple[Path, bytes]]:
    """Return the four files unpacked, each with the path that its errors name."""
    paths = [find_file(folder, name, packed_first=True) for name in sibling.files]
    if not all(paths) and sibling.archive:
        return _read_archive(folder / ARCHIVE_NAME, sibling)
    read = []
    for path, (name, md5) in zip(paths, sibling.files.items(), strict=True):
        path = path or folder / name
        data = read_file(path)
        if path.suffix == ".gz":
            if md5:
                check_sum(path, hashlib.md5(data, usedforsecurity=False).hexdigest(), md5, "MD5")
            data = unzip(data, path)
        read.append((path, data))
    return read


def _read_archive(path: Path, sibling: Sibling) -> list[tuple[Path, bytes]]:
    assert sibling.archive
    try:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            check_sum(path, md5, sibling.archive, "MD5")
            with zipfile.ZipFile(file) as archive:
                members = [f"gzip/{name}.gz" for name in sibling.files]
                return [(path / one, unzip(archive.read(one), path / one)) for one in members]
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _parse_named(data: bytes, path: Path) -> NDArray[Any]:
    """Return the array in a file whose name says its type and dimensions: ``idx3-ubyte``."""
    array = parse_idx(data, path)
    kind = "ubyte" if array.dtype == np.uint8 else "int"
    if f"-idx{array.ndim}-{kind}" not in path.name:
        raise DataError(f"{path} is altered: it holds {array.dtype} {array.shape}")
    return array


def _check_part(
    images: NDArray[Any], labels: NDArray[Any], path: Path
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images and labels of one part; ``path`` is the labels' file.

    Raises:
        DataError: They do not belong together, or a class is unknown or missing.
    """
    if labels.ndim == 2:  # QMNIST: the class, and then who wrote it and where
        labels = labels[:, 0]
    if images.shape != (len(labels), SIDE_PX, SIDE_PX):
        raise DataError(f"{path} is altered: {len(labels):,} labels for images {images.shape}")
    found = np.unique(labels).tolist()
    if found != list(range(N_CLASSES)):
        raise DataError(f"{path} is altered: its labels are {found[:12]}, should be 0 .. 9")
    return images, labels.astype(np.int64)
