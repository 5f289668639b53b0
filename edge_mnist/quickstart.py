"""The whole chain in one call: data, training, export, validation, prediction."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_mnist.errors import DataError
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.exporting.onnx import ExportResult, export
from edge_mnist.files import make_folder, write_atomically, write_png
from edge_mnist.plots.images import plot_predictions
from edge_mnist.predictor import Prediction, Predictor
from edge_mnist.training.datasets import Dataset, load_dataset, named_folder
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.run import RunResult, train
from edge_mnist.training.trainer import Progress
from edge_mnist.validation.validate import ValidationReport, validate

N_SHOWN = 60
DRAWN_DIGIT = 7


@dataclass(frozen=True)
class QuickstartResult:
    """Everything that a quickstart made."""

    run: RunResult
    export: ExportResult
    validation: ValidationReport
    picture_path: str
    prediction: Prediction
    grid_path: str
    schema_version: int = 1


def run_quickstart(
    folder: Path,
    *,
    data_dir: Path | None = None,
    offline: bool = False,
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> QuickstartResult:
    """Train a network, export it, validate the files and read digits with them.

    Args:
        folder: Where everything goes; an earlier quickstart there is replaced.
        data_dir: Folder with MNIST's four files; see ``load_dataset``.
        offline: Never download.
        say: Called with each line of progress.
        report: Called with the training's progress.

    Raises:
        GateError: An export misses a limit.
        DataError: A named data folder is missing or damaged.
        OutputError: The folder cannot be written.
    """
    make_folder(folder)
    dataset = choose_dataset(data_dir, offline=offline, say=say)
    recipe = find_recipe("fast" if dataset.name == "mnist" else None, dataset=dataset.name)
    say(f"training on {dataset.name}: {len(dataset.train_labels):,} images, {recipe.epochs} epochs")
    run = train(recipe, dataset, out=folder / "run", threads="auto", overwrite=True, report=report)
    say("exporting, quantising and validating")
    exports = folder / "exports"
    exported = export(run, folder=exports, quantize=True)
    validation = validate(exports, dataset)
    predictor = Predictor(exports)
    picture = draw_picture(folder / f"drawn-{DRAWN_DIGIT}.png")
    grid = draw_grid(predictor, dataset, folder / "predictions.png")
    prediction = predictor.predict(picture)
    return QuickstartResult(run.result, exported, validation, str(picture), prediction, str(grid))


def choose_dataset(data_dir: Path | None, *, offline: bool, say: Callable[[str], None]) -> Dataset:
    """Load MNIST where it is given, cached or quickly downloaded, else the built-in digits.

    Raises:
        DataError: MNIST was named with ``data_dir`` or EDGE_MNIST_DATA and is not there whole.
    """
    try:
        return load_dataset("mnist", data_dir=data_dir, offline=offline, timeout_s=30)
    except DataError as error:
        if named_folder(data_dir):
            raise
        say(f"WARNING: {error}")
        say("WARNING: continuing with scikit-learn's 1,797 digits, NOT with MNIST")
        return load_dataset("digits")


def draw_picture(path: Path) -> Path:
    """Draw a digit, black on white, and save it."""
    sheet = draw_digit(DRAWN_DIGIT, np.random.default_rng(0))
    write_png(path, sheet)
    return path


def draw_grid(predictor: Predictor, dataset: Dataset, path: Path) -> Path:
    """Draw the first test images with what the model reads in them."""
    images, labels = dataset.test_images[:N_SHOWN], dataset.test_labels[:N_SHOWN]
    _, probabilities = predictor.predict_images(images)
    write_atomically(path, plot_predictions(images, labels, probabilities, dataset.class_names))
    return path
