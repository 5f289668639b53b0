"""Runs: one training from start to end, and its folder."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_mnist.atomic import make_folder, output_errors, write_atomically
from edge_mnist.errors import ModelError, UsageError
from edge_mnist.modelfile import CHECKPOINT_NAME
from edge_mnist.plots.curves import plot_curves
from edge_mnist.plots.filters import plot_filters
from edge_mnist.plots.gallery import N_SHOWN, draw_test_pictures
from edge_mnist.plots.grids import plot_samples
from edge_mnist.training.checkpoint import load_checkpoint, load_network, save_checkpoint
from edge_mnist.training.dataset import Dataset
from edge_mnist.training.environment import describe_environment
from edge_mnist.training.loop import Epoch, Progress, Trainer
from edge_mnist.training.networks import compute_logits, first_weights, to_probabilities
from edge_mnist.training.plan import RECIPE_NAME, RESULT_NAME, is_finished, new_run_folder
from edge_mnist.training.recipe import Recipe

HISTORY_NAME = "history.jsonl"


@dataclass(frozen=True)
class RunResult:
    """What a finished training measured; accuracies are fractions.

    ``test_accuracy`` was measured once, after the last epoch.
    """

    folder: str
    recipe: Recipe
    n_weights: int
    validation_accuracy: float
    test_accuracy: float
    n_test_images: int
    train_s: float
    device: str


def train(
    recipe: Recipe,
    dataset: Dataset,
    *,
    folder: Path | None = None,
    device: torch.device | None = None,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> RunResult:
    """Train a network by a recipe and keep everything about it in a run folder.

    Args:
        recipe: Every number that decides the weights.
        dataset: The data set that the recipe names.
        folder: The run folder; holds checkpoint, history, pictures, recipe and environment.
            None makes a new one below ``./runs``.
        device: Where to train; the CPU if None.
        resume: Go on from the folder's checkpoint, if it has one, instead of starting anew.
        report: Called with the progress every few steps.

    Raises:
        TrainingError: The loss became infinite or NaN; the last good checkpoint is kept.
        ModelError: The folder's checkpoint is of another recipe.
        UsageError: The run to resume is finished.
        OutputError: The folder cannot be written.
    """
    folder = make_folder(folder) if folder else new_run_folder(recipe.name)
    trainer = Trainer(recipe, dataset, device or torch.device("cpu"))
    history = restore_run(trainer, folder) if resume else start_run(trainer, folder)
    while trainer.epoch < recipe.epochs:
        history.append(trainer.run_epoch(_reporter(trainer, history, report)))
        write_atomically(folder / HISTORY_NAME, _to_jsonl(history))
        save_checkpoint(folder / CHECKPOINT_NAME, trainer.checkpoint())
    return _finish(trainer, dataset, history, folder)


def start_run(trainer: Trainer, folder: Path) -> list[Epoch]:
    """Make a folder ready for a new run and return the history, which is empty."""
    for name in (CHECKPOINT_NAME, HISTORY_NAME, RESULT_NAME):
        with output_errors(folder / name):
            (folder / name).unlink(missing_ok=True)
    environment = describe_environment(trainer.device)
    if trainer.teacher:
        environment["teacher_sha256"] = trainer.teacher.predictor.model.sha256
    write_atomically(folder / "environment.json", to_json(environment))
    write_atomically(folder / RECIPE_NAME, to_json(dataclasses.asdict(trainer.recipe)))
    return []


def restore_run(trainer: Trainer, folder: Path) -> list[Epoch]:
    """Bring a trainer to where a run stopped and return the history up to there.

    Raises:
        ModelError: The checkpoint is of another recipe.
        UsageError: The run is finished.
    """
    if not (folder / CHECKPOINT_NAME).exists():  # killed within its first epoch
        return start_run(trainer, folder)
    checkpoint = load_checkpoint(folder / CHECKPOINT_NAME)
    if checkpoint.recipe != trainer.recipe:
        raise ModelError(f"{folder} was trained by another recipe; see {folder / RECIPE_NAME}")
    if is_finished(folder):
        raise UsageError(f"{folder} is finished after {checkpoint.epoch} epochs; nothing to resume")
    trainer.restore(checkpoint)
    lines = (folder / HISTORY_NAME).read_text().splitlines()
    history = [Epoch(**json.loads(line)) for line in lines]
    return history[: checkpoint.epoch]


def _reporter(
    trainer: Trainer, history: list[Epoch], report: Callable[[Progress], None]
) -> Callable[[int, float, float], None]:
    last_accuracy = history[-1].validation_accuracy if history else None
    epochs, steps = trainer.recipe.epochs, trainer.steps

    def report_step(step: int, loss: float, spent_s: float) -> None:
        left_steps = steps - step + steps * (epochs - trainer.epoch - 1)
        images_per_s = step * trainer.batch_size / spent_s
        report(
            Progress(
                fold=trainer.recipe.fold,
                folds=trainer.recipe.folds,
                epoch=trainer.epoch + 1,
                epochs=epochs,
                step=step,
                steps=steps,
                loss=loss,
                validation_accuracy=last_accuracy,
                images_per_s=images_per_s,
                left_s=left_steps * trainer.batch_size / images_per_s,
            )
        )

    return report_step


def _finish(trainer: Trainer, dataset: Dataset, history: list[Epoch], folder: Path) -> RunResult:
    network = load_network(load_checkpoint(folder / CHECKPOINT_NAME))
    probabilities = to_probabilities(compute_logits(network, dataset.test_images))
    result = RunResult(
        folder=str(folder),
        recipe=trainer.recipe,
        n_weights=sum(weight.numel() for weight in network.parameters()),
        validation_accuracy=history[-1].validation_accuracy,
        test_accuracy=float((probabilities.argmax(axis=1) == dataset.test_labels).mean()),
        n_test_images=len(dataset.test_labels),
        train_s=sum(epoch.train_s for epoch in history),
        device=str(trainer.device),
    )
    tests = dataset.test_images, dataset.test_labels, probabilities, dataset.class_names
    pictures = draw_test_pictures(*tests) | {
        "curves.png": plot_curves(history),
        "filters.png": plot_filters(first_weights(network)),
        "samples.png": draw_samples(trainer),
    }
    for name, content in pictures.items():
        write_atomically(folder / name, content)
    write_atomically(folder / RESULT_NAME, to_json(dataclasses.asdict(result)))
    return result


def draw_samples(trainer: Trainer) -> bytes:
    """Draw images as they come to the network in training, with the classes they are to give."""
    pixels, targets = next(trainer.draw_batches())
    shown = min(N_SHOWN, len(targets))  # what comes after the targets shows no single digit
    images = (pixels[:shown, 0] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    names = [trainer.class_names[label] for label in targets[:shown].argmax(dim=1).tolist()]
    return plot_samples(images, names)


def to_json(value: object) -> bytes:
    """Return the content of a JSON file for people."""
    return (json.dumps(value, indent=2) + "\n").encode()


def _to_jsonl(history: list[Epoch]) -> bytes:
    return "".join(json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in history).encode()
