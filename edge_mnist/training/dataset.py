"""A data set: images and labels in two parts, and how a part is split off.

Which training images a recipe trains on, and which it validates on.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError, UsageError
from edge_mnist.training.recipes import Recipe

DIGIT_LABELS = tuple("0123456789")
SPLIT_SEED = 20_041_998  # one split for all seeds, so that runs are comparable


@dataclass(frozen=True)
class Dataset:
    """Images and labels: official training part and test part.

    Attributes:
        name: One of ``edge_mnist.training.data.DATASETS``, or a folder's path.
        class_names: What each label means, for people.
        train_images: Shape (N, 28, 28), uint8, 0 = background, 255 = full ink.
        train_labels: Shape (N,), int64.
        test_images: Like ``train_images``.
        test_labels: Like ``train_labels``.
        skipped: Each picture that could not be read, and why.
        framing: How a picture becomes such an image; see ``picture.reading.read_picture``.
    """

    name: str
    class_names: tuple[str, ...]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    skipped: tuple[str, ...] = ()
    framing: str = "digit"
    held_out: NDArray[np.int64] | None = None

    @property
    def sha256(self) -> str:
        """Hash over all images and labels, hexadecimal."""
        digest = hashlib.sha256()
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def split_stratified(
    labels: NDArray[np.int64], *, share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split row numbers in two, every class in proportion; the same split every time.

    Args:
        labels: True classes, shape (N,).
        share: Share of the second part, 0..1.

    Returns:
        Row numbers of the two parts, each sorted.

    Raises:
        DataError: There are too few to have every class in both parts.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    try:
        first, second = train_test_split(
            rows, test_size=share, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError as error:  # a class of one image, or fewer images in a part than classes
        raise DataError(
            f"{len(labels)} images of {len(np.unique(labels))} classes are too few to hold out "
            f"{share:.1%} of them; add images, or hold out more (--set validation_share=0.3)"
        ) from error
    return np.sort(first), np.sort(second)


Rows = NDArray[np.int64]


def split_training(labels: NDArray[np.int64], recipe: Recipe) -> tuple[Rows, Rows]:
    """Split the training images by a recipe, every class in proportion; the same every time.

    Args:
        labels: True classes of all training images, shape (N,).
        recipe: One of its folds, or its ``validation_share``.

    Returns:
        Sorted row numbers to train on and to validate on; no row is in both.

    Raises:
        UsageError: The recipe has folds and does not say which.
        DataError: A class has fewer images than there are folds.
    """
    if not recipe.folds:
        return split_stratified(labels, share=recipe.validation_share)
    if not recipe.fold:
        raise UsageError(f"which of the {recipe.folds} folds? --set fold=1, or train all of them")
    from sklearn.model_selection import StratifiedKFold

    fewest = int(np.bincount(labels).min())
    if fewest < recipe.folds:
        raise DataError(f"{recipe.folds} folds need as many images of each class; one has {fewest}")
    folds = StratifiedKFold(recipe.folds, shuffle=True, random_state=SPLIT_SEED)
    train, validation = list(folds.split(labels, labels))[recipe.fold - 1]
    return np.sort(train), np.sort(validation)
