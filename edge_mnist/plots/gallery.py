"""All pictures of a model's answers on a test set."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_mnist.plots.grids import plot_mistakes, plot_predictions, plot_samples
from edge_mnist.plots.measures import plot_confusion, plot_reliability

N_SHOWN = 60


def draw_test_pictures(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> dict[str, bytes]:
    """Draw what a model reads in test images, and how well.

    Args:
        images: Shape (N, 28, 28), uint8; N of at least 1.
        labels: True classes, shape (N,).
        probabilities: Shape (N, classes), float32.
        class_names: What each label means.

    Returns:
        PNG files by name: samples, predictions, confusion, mistakes, reliability.
    """
    predicted_labels = probabilities.argmax(axis=1)
    confidences = probabilities.max(axis=1)
    samples = pick_samples(labels, N_SHOWN)
    # Drawn by lot, so that the share of wrong ones is the model's; the same at every call.
    lot = np.sort(np.random.default_rng(0).permutation(len(labels))[:N_SHOWN])
    predictions = plot_predictions(
        images[lot],
        [class_names[label] for label in predicted_labels[lot]],
        [class_names[label] for label in labels[lot]],
        confidences[lot].tolist(),
    )
    return {
        "samples.png": plot_samples(images[samples], [class_names[i] for i in labels[samples]]),
        "predictions.png": predictions,
        "confusion.png": plot_confusion(labels, predicted_labels, class_names),
        "mistakes.png": plot_mistakes(images, labels, probabilities, class_names),
        "reliability.png": plot_reliability(confidences, predicted_labels == labels),
    }


def pick_samples(labels: NDArray[np.int64], n_samples: int) -> NDArray[np.int64]:
    """Pick rows of every class in turns: the first of each, the second of each, and so on.

    Args:
        labels: True classes, shape (N,).
        n_samples: How many; of more classes than that, every so many-th is picked.

    Returns:
        Row numbers, ``n_samples`` of them or N.
    """
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    turns = np.arange(len(labels)) - starts  # how many of its class come before a row
    in_turns = by_class[np.argsort(turns, kind="stable")]
    n_first = max(n_samples, int((counts > 0).sum()))
    picked = np.linspace(0, min(n_first, len(labels)) - 1, min(n_samples, len(labels)))
    return np.asarray(in_turns[picked.astype(int)], np.int64)
