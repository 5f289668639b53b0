"""A folder of one's own pictures as a data set: one folder for each class."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError, PictureError
from edge_mnist.picture.decode import find_pictures
from edge_mnist.picture.frame import read_picture
from edge_mnist.training.dataset import Dataset, split_stratified

MAX_CLASSES = 1000
LEAST_PICTURES = 5  # of each class: one for the test, one for validation, some to learn from
TEST_SHARE = 0.2


def load_folder(folder: Path) -> Dataset:
    """Load pictures of any size and kind, brought to MNIST's form, one in five for the test.

    Args:
        folder: Holds one folder for each class, named like it; pictures anywhere below.

    Returns:
        The data set. Pictures that cannot be read, or that are blank, are listed in ``skipped``.

    Raises:
        DataError: There are not 2 to 1,000 classes, or one has fewer than five readable pictures.
    """
    names = sorted(one.name for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(
            f"{folder} holds {len(names)} folders; want one for each of 2 to 1,000 classes"
        )
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    skipped: list[str] = []
    for label, name in enumerate(names):
        found = list(_read_pictures(folder / name, skipped))
        if len(found) < LEAST_PICTURES:
            raise DataError(
                f"{folder / name}: {len(found)} readable pictures, want {LEAST_PICTURES}"
            )
        images += found
        labels += [label] * len(found)
    stacked, numbers = np.stack(images), np.array(labels, np.int64)
    train, test = split_stratified(numbers, share=TEST_SHARE)
    parts = stacked[train], numbers[train], stacked[test], numbers[test]
    return Dataset(str(folder), tuple(names), *parts, skipped=tuple(skipped))


def _read_pictures(folder: Path, skipped: list[str]) -> Iterator[NDArray[np.uint8]]:
    for path in find_pictures(str(folder)):
        try:
            model_input = read_picture(path)
        except PictureError as error:
            skipped.append(f"{path}: {error}")
            continue
        if (
            model_input.image.any()
        ):  # a sign may have several parts; that is no reason to leave it out
            yield model_input.image
        else:
            skipped.append(f"{path}: blank")
