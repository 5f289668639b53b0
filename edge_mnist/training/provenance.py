"""What a model was trained on: recorded with it, and compared with the data set that tests it."""

import shlex
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError
from edge_mnist.training.datasets import DATASETS, Dataset, hash_each_image


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class TrainingData:
    """The data set of a training, as a checkpoint or an export records it.

    Attributes:
        name: Its name, or a folder's path.
        sha256: Of all its images and labels, test part included; empty if unknown.
        image_hashes: Of each image outside its test part, shape (N,), uint64. None if unknown, and
            for the published data sets: those never change, and the hashes of MNIST would be
            larger than the model.
    """

    name: str
    sha256: str = ""
    image_hashes: NDArray[np.uint64] | None = None


def record_training_data(dataset: Dataset) -> TrainingData:
    """Return what a model keeps of the data set that it is trained on."""
    hashes = None
    if dataset.name not in DATASETS:
        hashes = hash_each_image(dataset.train_images, purpose="training")
    return TrainingData(dataset.name, dataset.sha256, hashes)


def compare_with_training(trained_on: TrainingData, dataset: Dataset, model: str) -> str | None:
    """Compare a data set with the one that a model was trained on.

    Args:
        trained_on: What was recorded then.
        dataset: What the model is tested on now.
        model: Name of the model, for messages.

    Returns:
        A sentence if the data set is another or has changed; None if not, or if nothing was
        recorded.

    Raises:
        DataError: The model was trained on images that are in the test part now.
    """
    if trained_on.sha256 in ("", dataset.sha256):
        return None
    what = f"{dataset.name} changed since {model} was trained"
    if dataset.name != trained_on.name:
        what = f"{model} was trained on {trained_on.name}, and is tested on {dataset.name}"
    if trained_on.image_hashes is None:
        return f"{what}; whether it was trained on images of the test part is not known"
    hashes = hash_each_image(dataset.test_images, purpose="training")
    is_leaked = np.isin(hashes, trained_on.image_hashes)
    if is_leaked.any():
        raise DataError(
            f"{what}: it was trained on {is_leaked.sum()} of the {len(hashes)} images that are in "
            "the test part now, so its accuracy there would tell nothing; move them back, or train "
            f"again: edge-mnist train --dataset {shlex.quote(dataset.name)}"
        )
    return f"{what}; it was trained on none of the {len(hashes)} images of the test part"
