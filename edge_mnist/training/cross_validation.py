"""Cross-validation: one training for each fold, and what they reach together."""

import dataclasses
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_mnist.errors import ModelError
from edge_mnist.files import make_folder, output_errors, write_atomically
from edge_mnist.plots.charts import plot_folds
from edge_mnist.training.dataset import Dataset
from edge_mnist.training.recipes import Recipe
from edge_mnist.training.run import (
    FOLDS_NAME,
    RECIPE_NAME,
    RESULT_NAME,
    RunResult,
    new_run_folder,
    read_recipe,
    to_json,
    train,
)
from edge_mnist.training.trainer import Progress


@dataclass(frozen=True)
class FoldsResult:
    """What a cross-validation measured; accuracies are fractions.

    Attributes:
        folder: Holds a run folder for each fold.
        recipe: Of all folds.
        folds: Result of each fold, in order.
        validation_mean: Mean accuracy on the parts that the folds were not trained on.
        validation_std: Standard deviation of those accuracies.
        test_mean: Mean accuracy of the folds' networks on the test set.
        test_std: Standard deviation of those.
    """

    folder: str
    recipe: Recipe
    folds: tuple[RunResult, ...]
    validation_mean: float
    validation_std: float
    test_mean: float
    test_std: float


def train_plan(
    recipe: Recipe,
    dataset: Dataset,
    *,
    folder: Path | None = None,
    device: torch.device | None = None,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> RunResult | FoldsResult:
    """Train one network, or one for each fold where the recipe has folds; see both."""
    run = train_folds if recipe.folds and not recipe.fold else train
    return run(recipe, dataset, folder=folder, device=device, resume=resume, report=report)


def train_folds(
    recipe: Recipe,
    dataset: Dataset,
    *,
    folder: Path | None = None,
    device: torch.device | None = None,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> FoldsResult:
    """Train a network for each fold of a recipe, each validated on its own part of the images.

    Args:
        recipe: With two ``folds`` or more.
        dataset: The data set that the recipe names.
        folder: Gets a run folder ``fold-1``, ``fold-2`` ... for each. None makes a new one.
        device: Where to train; the CPU if None.
        resume: Keep the finished folds, and go on with the one that stopped.
        report: Called with the progress every few steps.

    Raises:
        TrainingError, ModelError, DataError, OutputError: As for one training.
    """
    folder = make_folder(folder) if folder else new_run_folder(recipe.name)
    if not resume:
        with output_errors(folder / FOLDS_NAME):
            (folder / FOLDS_NAME).unlink(missing_ok=True)
        write_atomically(folder / RECIPE_NAME, to_json(dataclasses.asdict(recipe)))
    results = []
    for fold in range(1, recipe.folds + 1):
        one = dataclasses.replace(recipe, fold=fold)
        part = folder / f"fold-{fold}"
        done = read_result(part, one) if resume else None
        results.append(
            done or train(one, dataset, folder=part, device=device, resume=resume, report=report)
        )
    result = summarise(str(folder), recipe, results)
    accuracies = [one.validation_accuracy for one in results]
    write_atomically(folder / "folds.png", plot_folds(accuracies))
    write_atomically(folder / FOLDS_NAME, to_json(dataclasses.asdict(result)))
    return result


def summarise(folder: str, recipe: Recipe, results: list[RunResult]) -> FoldsResult:
    """Return means and standard deviations over the folds."""
    validation = [one.validation_accuracy for one in results]
    test = [one.test_accuracy for one in results]
    return FoldsResult(
        folder=folder,
        recipe=recipe,
        folds=tuple(results),
        validation_mean=statistics.fmean(validation),
        validation_std=statistics.stdev(validation),
        test_mean=statistics.fmean(test),
        test_std=statistics.stdev(test),
    )


def read_result(folder: Path, recipe: Recipe) -> RunResult | None:
    """Return the result of a finished fold; None if it is not finished.

    Raises:
        ModelError: The folder's run is of another recipe.
    """
    if not (folder / RESULT_NAME).exists():
        return None
    if read_recipe(folder) != recipe:
        raise ModelError(f"{folder} was trained by another recipe; see {folder / RECIPE_NAME}")
    found = json.loads((folder / RESULT_NAME).read_text())
    return RunResult(**{**found, "recipe": recipe})
