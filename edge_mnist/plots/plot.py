"""Plots of models on their test set and of training runs: the ``plot`` command and its parts."""

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError
from edge_mnist.files import check_folder, make_folder, write_atomically
from edge_mnist.machine import require_package
from edge_mnist.model_file import CHECKPOINT_NAME, FLOAT32_NAME, INT8_NAME, find_model, locate
from edge_mnist.plots.charts import plot_confusion, plot_curves, plot_folds, plot_reliability
from edge_mnist.plots.images import plot_filters, plot_mistakes, plot_predictions, plot_samples
from edge_mnist.predictor import Predictor

# torch takes seconds to import and may be missing, so edge_mnist.training is imported where used.
if TYPE_CHECKING:
    from edge_mnist.training.datasets import Dataset
    from edge_mnist.training.recipes import Recipe

N_SHOWN = 60  # images in a grid of samples or predictions

LoadDataset = Callable[[str], "Dataset"]


@dataclass(frozen=True)
class Plots:
    """The PNG files that were written."""

    paths: tuple[str, ...]
    schema_version: int = 1


def plot(
    paths: Sequence[str | Path] | None, *, folder: Path, data_dir: Path | None, offline: bool
) -> Plots:
    """Draw models and runs: predictions, mistakes, confusions, filters, training curves.

    Args:
        paths: Names of models (see ``model_file.find_model``), run folders and checkpoints; None
            for the model that ``find_model`` chooses.
        folder: Where the PNG files go; of several paths, each into a folder below.
        data_dir: Folder with MNIST's four files; see ``training.datasets.load_dataset``.
        offline: Never download.

    Raises:
        ModelError: A path is none of these, or damaged.
        DataError: The data set that a model was trained on is missing.
        MissingPackageError: A run is drawn, and torch is not installed.
        OutputError: The folder cannot be written.
    """
    from edge_mnist.training.datasets import load_dataset

    named = list(dict.fromkeys(map(locate, paths or [find_model()])))
    sources = [find_source(path) for path in named]
    check_folder(folder)
    load = functools.cache(functools.partial(load_dataset, data_dir=data_dir, offline=offline))
    written: list[str] = []
    for source, place in zip(sources, choose_folders(named, folder), strict=True):
        if source.is_dir():
            written += plot_run(source, load(_name_dataset(source)), folder=place).paths
        else:
            written += _write(_draw_model(source, load), place)
    return Plots(tuple(written))


def plot_tests(paths: Sequence[Path], dataset: "Dataset", *, folder: Path) -> Plots:
    """Draw the predictions of models on the test part of a data set.

    Args:
        paths: Model files.
        dataset: The data set that they were trained on.
        folder: Where the PNG files go; of several models, each into a folder below.

    Raises:
        ModelError: A model is missing, broken, or of other classes than the data set.
        OutputError: The folder cannot be written.
    """
    written: list[str] = []
    for path, place in zip(paths, choose_folders(paths, folder), strict=True):
        written += _write(_draw_predictor(Predictor(path), dataset), place)
    return Plots(tuple(written))


def plot_run(run_folder: Path, dataset: "Dataset", *, folder: Path | None = None) -> Plots:
    """Draw the training in a run folder: curves, filters, augmented samples, test predictions.

    Args:
        run_folder: Holds the checkpoint and the history.
        dataset: What it was trained on.
        folder: Where the PNG files go; None for the run folder.

    Raises:
        ModelError: The checkpoint or the history is damaged, or of other classes.
        OutputError: The folder cannot be written.
    """
    return Plots(tuple(_write(_draw_run(run_folder, dataset), folder or run_folder)))


def plot_cross_validation(folder: Path, accuracies: Sequence[float]) -> Plots:
    """Draw the validation accuracy of each fold as ``folds.png``.

    Args:
        folder: Where the PNG file goes; usually the folder with all folds.
        accuracies: Fractions, one for each fold, in order; at least one.

    Raises:
        OutputError: The folder cannot be written.
    """
    return Plots(tuple(_write({"folds.png": plot_folds(accuracies)}, folder)))


def find_source(path: Path) -> Path:
    """Return the run folder that a path names, else the model file.

    Raises:
        ModelError: There is neither.
    """
    if path.name == CHECKPOINT_NAME:
        return path.parent
    has_model = any(os.path.isfile(path / name) for name in (FLOAT32_NAME, INT8_NAME))
    has_checkpoint = os.path.isfile(path / CHECKPOINT_NAME)
    return path if has_checkpoint and not has_model else find_model(path)


def choose_folders(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Return a folder for each path's plots, named by as much of the path as tells them apart."""
    if len(paths) == 1:
        return [folder]
    parts = [path.resolve().parts for path in paths]
    for n_parts in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-n_parts:]).removesuffix(".onnx") for part in parts]
        if len(set(names)) == len(names):
            return [folder / name for name in names]
    return [folder / str(number) for number, _ in enumerate(paths, 1)]


def _write(pictures: Mapping[str, bytes], folder: Path) -> list[str]:
    make_folder(folder)
    for name, content in pictures.items():
        write_atomically(folder / name, content)
    return [str(folder / name) for name in pictures]


def _draw_model(path: Path, load: LoadDataset) -> dict[str, bytes]:
    """Draw a model on its test set, and its filters if its checkpoint lies beside it.

    Raises:
        ModelError: The file is broken, or does not name the data set that it was trained on.
    """
    predictor = Predictor(path)
    if "dataset" not in predictor.info.metadata:
        raise ModelError(f"{path} does not name the data set that it was trained on")
    pictures = _draw_predictor(predictor, load(predictor.info.metadata["dataset"]))
    checkpoint_path = path.with_name(CHECKPOINT_NAME)
    if checkpoint_path.is_file() and importlib.util.find_spec("torch"):
        from edge_mnist.training.checkpoint import load_checkpoint, load_network
        from edge_mnist.training.networks import first_weights

        checkpoint = load_checkpoint(checkpoint_path)
        if checkpoint.weights_sha256 == predictor.info.metadata.get("weights_sha256"):
            weights = first_weights(load_network(checkpoint))
            pictures["filters.png"] = plot_filters(weights)
    return pictures


def _draw_predictor(predictor: Predictor, dataset: "Dataset") -> dict[str, bytes]:
    names = predictor.info.class_names
    _check_classes(predictor.model.path, names, dataset)
    _, probabilities = predictor.predict_images(dataset.test_images)
    return draw_test_pictures(dataset.test_images, dataset.test_labels, probabilities, names)


def _name_dataset(run_folder: Path) -> str:
    """Return the name of the data set that a run's checkpoint was trained on.

    Raises:
        ModelError: The checkpoint is damaged.
        MissingPackageError: torch is not installed.
    """
    require_package("torch", "train")
    from edge_mnist.training.checkpoint import load_checkpoint

    return load_checkpoint(run_folder / CHECKPOINT_NAME).recipe.dataset


def _draw_run(folder: Path, dataset: "Dataset") -> dict[str, bytes]:
    """Draw the training in a run folder; return PNG files by name."""
    from edge_mnist.training.checkpoint import load_checkpoint, load_network
    from edge_mnist.training.networks import compute_logits, first_weights, to_probabilities
    from edge_mnist.training.run import read_history

    checkpoint = load_checkpoint(folder / CHECKPOINT_NAME)
    _check_classes(folder, checkpoint.class_names, dataset)
    network, temperature = load_network(checkpoint), checkpoint.calibration.temperature
    logits = compute_logits(network, dataset.test_images, temperature=temperature)
    history = read_history(folder)
    pictures = {"curves.png": plot_curves(history)} if history else {}
    pictures["filters.png"] = plot_filters(first_weights(network))
    pictures |= draw_test_pictures(
        dataset.test_images, dataset.test_labels, to_probabilities(logits), dataset.class_names
    )
    return pictures | {"samples.png": _draw_training_samples(checkpoint.recipe, dataset)}


def _draw_training_samples(recipe: "Recipe", dataset: "Dataset") -> bytes:
    """Draw images of the training split as the network is given them: augmented."""
    import torch

    from edge_mnist.training.augmentation import augment
    from edge_mnist.training.datasets import split_training
    from edge_mnist.training.networks import to_pixels

    rows, _ = split_training(dataset, recipe)
    rows = rows[pick_samples(dataset.train_labels[rows], N_SHOWN)]
    pixels = to_pixels(torch.from_numpy(dataset.train_images[rows]))
    _, augmented = augment(pixels, recipe, torch.Generator().manual_seed(recipe.seed))
    images = (augmented[:, 0] * 255).round().to(torch.uint8).numpy()
    return plot_samples(images, [dataset.class_names[i] for i in dataset.train_labels[rows]])


def draw_test_pictures(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> dict[str, bytes]:
    """Draw a model's predictions on test images.

    Args:
        images: Shape (N, 28, 28), uint8; N of at least 1.
        labels: True classes, shape (N,).
        probabilities: Shape (N, classes), float32.
        class_names: Name of each class.

    Returns:
        PNG files by name: samples, predictions, confusion, mistakes, reliability.
    """
    predicted_labels = probabilities.argmax(axis=1)
    samples = pick_samples(labels, N_SHOWN)
    # A random sample, so that its share of mistakes is the model's; the same at every call.
    drawn = np.sort(np.random.default_rng(0).permutation(len(labels))[:N_SHOWN])
    return {
        "samples.png": plot_samples(images[samples], [class_names[i] for i in labels[samples]]),
        "predictions.png": plot_predictions(
            images[drawn], labels[drawn], probabilities[drawn], class_names
        ),
        "confusion.png": plot_confusion(labels, predicted_labels, class_names),
        "mistakes.png": plot_mistakes(images, labels, probabilities, class_names),
        "reliability.png": plot_reliability(probabilities.max(axis=1), predicted_labels == labels),
    }


def pick_samples(labels: NDArray[np.int64], n_samples: int) -> NDArray[np.int64]:
    """Pick rows of every class in turn: the first of each, the second of each, and so on.

    Args:
        labels: True classes, shape (N,).
        n_samples: How many rows; of more classes than that, evenly spaced ones are picked.

    Returns:
        Row numbers, ``n_samples`` of them or N.
    """
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.arange(len(labels)) - starts  # how many of its class precede a row
    in_turn = by_class[np.argsort(ranks, kind="stable")]
    n_first = max(n_samples, int((counts > 0).sum()))
    picked = np.linspace(0, min(n_first, len(labels)) - 1, min(n_samples, len(labels)))
    return np.asarray(in_turn[picked.astype(int)], np.int64)


def _check_classes(path: Path, class_names: tuple[str, ...], dataset: "Dataset") -> None:
    if class_names != dataset.class_names:
        raise ModelError(
            f"the {len(class_names)} classes of {path} are not the {len(dataset.class_names)} "
            f"of the data set {dataset.name}"
        )
