"""Data sets by their names. Loading needs numpy; the digits and every split scikit-learn."""

import dataclasses
from pathlib import Path

import numpy as np

from edge_mnist.errors import UsageError
from edge_mnist.picture.frame import frame_ink
from edge_mnist.training.dataset import DIGIT_LABELS, Dataset, split_stratified
from edge_mnist.training.folder import load_folder
from edge_mnist.training.mnist import load_mnist
from edge_mnist.training.siblings import SIBLINGS, load_sibling

DATASETS = ("mnist", "digits", *SIBLINGS)


def load_dataset(
    name: str,
    *,
    data_dir: Path | None = None,
    offline: bool = False,
    timeout_s: float | None = None,
) -> Dataset:
    """Load a data set by name, checksums verified, or a folder of one's own pictures.

    Args:
        name: One of ``DATASETS``, or a folder with one folder of pictures for each class;
            ``./kmnist`` is such a folder, ``kmnist`` never.
        data_dir: For MNIST a folder with its four files, gzipped or not, flat or in ``MNIST/raw``,
            or with torchvision's old ``training.pt`` and ``test.pt``; for its siblings
            torchvision's root, with ``FashionMNIST/raw`` or the like in it. Without it
            EDGE_MNIST_DATA, then the cache, then the download.
        offline: Never download. EDGE_MNIST_OFFLINE=1 does the same.
        timeout_s: Longest time for a download; None for one that suits its size.

    Raises:
        UsageError: There is no such data set.
        DataError: It cannot be had, or a file is truncated or altered.
    """
    if name == "digits":
        return load_digits()
    if name == "mnist":
        return load_mnist(data_dir, offline=offline, timeout_s=timeout_s)
    if name in SIBLINGS:
        return load_sibling(name, data_dir, offline=offline, timeout_s=timeout_s)
    if Path(name).is_dir():
        # By the name as given: a Path drops the "./" that tells a folder from a sibling.
        return dataclasses.replace(load_folder(Path(name)), name=name)
    raise UsageError(
        f"no data set named {name!r}; there are: {', '.join(DATASETS)}, and any folder with "
        "a folder of pictures for each class"
    )


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
