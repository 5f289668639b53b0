"""Which training images a recipe trains on, and which it validates on."""

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError, UsageError
from edge_mnist.training.dataset import SPLIT_SEED, split_stratified
from edge_mnist.training.recipe import Recipe

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
