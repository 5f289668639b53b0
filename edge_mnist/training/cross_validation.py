"""Cross-validation: one training for each fold, and their mean accuracy."""

import dataclasses
import json
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.files import make_folder, output_errors, write_atomically
from edge_mnist.model_file import CHECKPOINT_NAME
from edge_mnist.training.checkpoint import load_checkpoint
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.provenance import record_training_data
from edge_mnist.training.recipes import Recipe
from edge_mnist.training.run import (
    FOLDS_NAME,
    RECIPE_NAME,
    RESULT_NAME,
    RunResult,
    check_run_folder,
    check_same_data,
    lock_output,
    read_recipe,
    resolve,
    to_json,
    train,
)
from edge_mnist.training.trainer import Progress
from edge_mnist.training.unipen import Characters, load_unipen


@dataclass(frozen=True)
class FoldsResult:
    """The figures of a cross-validation; accuracies are fractions.

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
    schema_version: int = 1


@lock_output
def cross_validate(
    recipe: str | Recipe,
    dataset: Dataset | None = None,
    *,
    handwriting: Characters | None = None,
    out: str | os.PathLike[str],
    device: str | torch.device = "auto",
    threads: int | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> FoldsResult:
    """Train a network for each fold of a recipe, each validated on its own part of the images.

    Args:
        recipe: A preset's name, or every number; with two ``folds`` or more.
        dataset: What to train on; None loads the one that the recipe names.
        handwriting: UNIPEN, for a recipe with a ``handwriting_share``; None loads it.
        out: Gets a run folder ``fold-1``, ``fold-2`` ... for each fold.
        device: ``auto``, ``cpu``, ``cuda`` or a torch device.
        threads: As for ``train``; all folds take the number of the first.
        resume: Keep the finished folds, and continue with the one that was stopped.
        overwrite: Replace an earlier run in ``out``.
        report: Called with the progress every few steps.

    Raises:
        UsageError: The recipe has no folds, or ``out`` holds a run.
        TrainingError, ModelError, DataError, OutputError: As for ``train``.
    """
    recipe, dataset = resolve(recipe, dataset)
    if recipe.folds < 2 or recipe.fold:
        raise UsageError(f"expected a recipe with folds, got {recipe.folds}, fold {recipe.fold}")
    if recipe.handwriting_share and handwriting is None:
        handwriting = load_unipen()
    folder = Path(out)
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    make_folder(folder)
    if not resume:
        with output_errors(folder / FOLDS_NAME):
            (folder / FOLDS_NAME).unlink(missing_ok=True)
        write_atomically(folder / RECIPE_NAME, to_json(dataclasses.asdict(recipe)))
    results = []
    for fold in range(1, recipe.folds + 1):
        one, part = dataclasses.replace(recipe, fold=fold), folder / f"fold-{fold}"
        result = read_result(part, one, dataset) if resume else None
        if result is None:
            result = train(
                one,
                dataset,
                handwriting=handwriting,
                out=part,
                device=device,
                threads=threads,
                resume=resume,
                overwrite=not resume,
                report=report,
            ).result
        results.append(result)
        threads = result.threads or threads
    summary = summarise(str(folder), recipe, results)
    write_atomically(folder / FOLDS_NAME, to_json(dataclasses.asdict(summary)))
    return summary


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


def read_result(folder: Path, recipe: Recipe, dataset: Dataset) -> RunResult | None:
    """Return the result of a finished fold; None if it is not finished.

    Raises:
        ModelError: The folder's run is of another recipe.
        DataError: The data set changed since.
    """
    if not (folder / RESULT_NAME).exists():
        return None
    if read_recipe(folder) != recipe:
        raise ModelError(f"{folder} was trained by another recipe; see {folder / RECIPE_NAME}")
    check_same_data(
        load_checkpoint(folder / CHECKPOINT_NAME), record_training_data(dataset), folder
    )
    found = json.loads((folder / RESULT_NAME).read_text())
    return RunResult(**{**found, "recipe": recipe})
