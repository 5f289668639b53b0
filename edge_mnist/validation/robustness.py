"""How much of its accuracy a model keeps when pictures get worse."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.picture.reading import Sight, read_picture
from edge_mnist.predictor import Predictor
from edge_mnist.validation.corruptions import corrupt

N_IMAGES = 1000  # of the test set; all fifteen kinds, read as pictures too, take half a minute


@dataclass(frozen=True)
class Robustness:
    """Accuracy under each corruption, as fractions; see ``edge_mnist.validation.corruptions``.

    Attributes:
        n_images: Test images, each corrupted in every way.
        images: Share read right of the corrupted images as they are, by corruption.
        images_mean: Mean of those.
        pictures: Share read right when each is taken for a picture and brought to MNIST's form
            first; a rejected one counts as wrong. None if not measured.
        pictures_mean: Mean of those.
    """

    n_images: int
    images: dict[str, float]
    images_mean: float
    pictures: dict[str, float] | None
    pictures_mean: float | None


def measure_robustness(
    predictors: Sequence[Predictor],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    as_pictures: bool = True,
    seed: int = 0,
) -> list[Robustness]:
    """Measure several models on the same corrupted images.

    Args:
        predictors: Open models of one data set.
        images: Shape (N, 28, 28), uint8; the first ``N_IMAGES`` are used.
        labels: True classes, shape (N,).
        as_pictures: Measure them taken for pictures too; twenty times as slow.
        seed: Of the corruptions.
    """
    images, labels = images[:N_IMAGES], labels[:N_IMAGES]
    framing = predictors[0].info.framing
    plain: list[dict[str, float]] = [{} for _ in predictors]
    framed: list[dict[str, float]] = [{} for _ in predictors]
    for name, corrupted in corrupt(images, seed=seed):
        sights = [read_picture(one, framing=framing) for one in corrupted] if as_pictures else []
        for row, predictor in enumerate(predictors):
            plain[row][name] = _share_right(predictor, corrupted, labels)
            if as_pictures:
                framed[row][name] = _share_right_of_sights(predictor, sights, labels)
    return [
        Robustness(
            n_images=len(images),
            images=by_name,
            images_mean=float(np.mean(list(by_name.values()))),
            pictures=as_seen or None,
            pictures_mean=float(np.mean(list(as_seen.values()))) if as_seen else None,
        )
        for by_name, as_seen in zip(plain, framed, strict=True)
    ]


def _share_right(
    predictor: Predictor, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> float:
    predicted, _ = predictor.predict_images(images)
    return float((predicted == labels).mean())


def _share_right_of_sights(
    predictor: Predictor, sights: Sequence[Sight], labels: NDArray[np.int64]
) -> float:
    predicted, probabilities = predictor.predict_images(np.stack([one.image for one in sights]))
    accepted = np.array([one.reason is None for one in sights])
    accepted &= probabilities.max(axis=1) >= predictor.info.rejection_threshold
    return float(((predicted == labels) & accepted).mean())
