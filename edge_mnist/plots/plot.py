"""All pictures of a model's answers on a test set.

What can be drawn: a model on its test set, a run with its training; and where that goes.
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import MissingPackageError, ModelError
from edge_mnist.files import make_folder, write_atomically
from edge_mnist.model_file import CHECKPOINT_NAME, FLOAT32_NAME, INT8_NAME, find_model
from edge_mnist.model_file import locate as locate_model
from edge_mnist.plots.charts import plot_confusion, plot_curves, plot_reliability
from edge_mnist.plots.images import plot_filters, plot_mistakes, plot_predictions, plot_samples
from edge_mnist.predictor import Predictor

if TYPE_CHECKING:
    from edge_mnist.training.checkpoint import Checkpoint
    from edge_mnist.training.datasets import Dataset
    from edge_mnist.training.trainer import Epoch


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


LoadDataset = Callable[[str], "Dataset"]


@dataclass(frozen=True)
class Pictures:
    """The picture files that were written."""

    paths: tuple[str, ...]
    schema_version: int = 1


def plot(
    paths: Sequence[str | Path] | None, *, folder: Path, data_dir: Path | None, offline: bool
) -> Pictures:
    """Draw models and runs: what they read, how well, their filters and how they were trained.

    Args:
        paths: Model files, folders written by export (the file that ``predict`` would use), run
            folders and checkpoints; None for the model that ``predict`` would use.
        folder: Where the pictures go; of several paths, each into a folder below.
        data_dir: Folder with MNIST's four files; see ``training.datasets.load_dataset``.
        offline: Never download.

    Raises:
        ModelError: A path is none of these, or damaged.
        DataError: The data set that a model was trained on cannot be had.
        MissingPackageError: A run is drawn, and torch is not installed.
        OutputError: The folder cannot be written.
    """
    from edge_mnist.training.datasets import load_dataset

    named = list(dict.fromkeys(map(locate_model, paths or [find_model()])))
    found = [locate(path) for path in named]
    load = functools.cache(functools.partial(load_dataset, data_dir=data_dir, offline=offline))
    written: list[str] = []
    for path, place in zip(found, place_pictures(named, folder), strict=True):
        draw = draw_run if path.is_dir() else draw_model
        written += write_pictures(draw(path, load), place)
    return Pictures(tuple(written))


def plot_tests(paths: Sequence[Path], dataset: "Dataset", *, folder: Path) -> Pictures:
    """Draw what models read in the test part of a data set, and how well.

    Args:
        paths: Model files.
        dataset: The one they were trained on.
        folder: Where the pictures go; of several models, each into a folder below.

    Raises:
        ModelError: A model is missing, broken, or of other classes than the data set.
        OutputError: The folder cannot be written.
    """
    written: list[str] = []
    for path, place in zip(paths, place_pictures(paths, folder), strict=True):
        written += write_pictures(_draw_tests(Predictor(path), dataset), place)
    return Pictures(tuple(written))


def locate(path: Path) -> Path:
    """Return the model file that a path means, or the run folder that it is.

    Raises:
        ModelError: It is neither.
    """
    if path.name == CHECKPOINT_NAME and path.is_file():
        return path.parent
    if not path.is_dir() or any((path / name).is_file() for name in (FLOAT32_NAME, INT8_NAME)):
        return find_model(path)
    if not (path / CHECKPOINT_NAME).is_file():
        raise ModelError(f"{path} holds neither a model nor a run with an epoch done")
    return path


def draw_model(path: Path, load: LoadDataset) -> dict[str, bytes]:
    """Draw a model on its test set, and its filters where its checkpoint lies beside it.

    Raises:
        ModelError: The file is broken, or does not say what it was trained on.
    """
    predictor = Predictor(path)
    if "dataset" not in predictor.info.metadata:
        raise ModelError(f"{path} does not say what data set it was trained on")
    pictures = _draw_tests(predictor, load(predictor.info.metadata["dataset"]))
    return pictures | _draw_filters_beside(predictor)


def draw_run(folder: Path, load: LoadDataset) -> dict[str, bytes]:
    """Draw how a training went, its filters, and what its checkpoint reads in the test set.

    Raises:
        ModelError: The checkpoint or the history is damaged.
        MissingPackageError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError("drawing a run needs torch; install 'edge-mnist[train]'")
    from edge_mnist.training.checkpoint import load_checkpoint, load_network
    from edge_mnist.training.networks import compute_logits, to_probabilities

    checkpoint = load_checkpoint(folder / CHECKPOINT_NAME)
    dataset = load(checkpoint.recipe.dataset)
    _check_classes(folder, checkpoint.class_names, dataset)
    probabilities = to_probabilities(compute_logits(load_network(checkpoint), dataset.test_images))
    history = read_history(folder)
    curves = {"curves.png": plot_curves(history)} if history else {}
    tests = draw_test_pictures(
        dataset.test_images, dataset.test_labels, probabilities, checkpoint.class_names
    )
    return curves | _draw_filters(checkpoint) | tests


def read_history(folder: Path) -> list["Epoch"]:
    """Read what each epoch of a run did; nothing where the run kept no history.

    Raises:
        ModelError: The history is damaged.
    """
    from edge_mnist.training.run import HISTORY_NAME
    from edge_mnist.training.trainer import Epoch

    path = folder / HISTORY_NAME
    try:
        return [Epoch(**json.loads(line)) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"the history {path} is damaged: {error}") from error


def write_pictures(pictures: Mapping[str, bytes], folder: Path) -> list[str]:
    """Write PNG files by name and return their paths.

    Raises:
        OutputError: The folder cannot be written.
    """
    make_folder(folder)
    for name, content in pictures.items():
        write_atomically(folder / name, content)
    return [str(folder / name) for name in pictures]


def place_pictures(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Return the folder for each path's pictures: named like it, told apart where names agree."""
    if len(paths) == 1:
        return [folder]
    parts = [path.resolve().parts for path in paths]
    for n_parts in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-n_parts:]).removesuffix(".onnx") for part in parts]
        if len(set(names)) == len(names):
            return [folder / name for name in names]
    return [folder / str(number) for number, _ in enumerate(paths, 1)]


def _draw_tests(predictor: Predictor, dataset: "Dataset") -> dict[str, bytes]:
    names = predictor.info.class_names
    _check_classes(predictor.model.path, names, dataset)
    _, probabilities = predictor.predict_images(dataset.test_images)
    return draw_test_pictures(dataset.test_images, dataset.test_labels, probabilities, names)


def _check_classes(path: Path, class_names: tuple[str, ...], dataset: "Dataset") -> None:
    if class_names != dataset.class_names:
        raise ModelError(
            f"the {len(class_names)} classes of {path} are not the {len(dataset.class_names)} "
            f"that the data set {dataset.name} holds now"
        )


def _draw_filters_beside(predictor: Predictor) -> dict[str, bytes]:
    """Draw the filters from the checkpoint that a model was exported from, where it is."""
    path = predictor.model.path.with_name(CHECKPOINT_NAME)
    if not path.is_file() or importlib.util.find_spec("torch") is None:
        return {}
    from edge_mnist.training.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    same = checkpoint.weights_sha256 == predictor.info.metadata.get("weights_sha256")
    return _draw_filters(checkpoint) if same else {}


def _draw_filters(checkpoint: "Checkpoint") -> dict[str, bytes]:
    from edge_mnist.training.checkpoint import load_network
    from edge_mnist.training.networks import first_weights

    return {"filters.png": plot_filters(first_weights(load_network(checkpoint)))}
