"""Runs: one training from start to end, its folder, and finding it again."""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_mnist.atomic import make_folder, output_errors, write_atomically
from edge_mnist.errors import ModelError, UsageError
from edge_mnist.modelfile import CHECKPOINT_NAME
from edge_mnist.plots.curves import plot_curves
from edge_mnist.training.checkpoint import load_checkpoint, load_network, save_checkpoint
from edge_mnist.training.dataset import Dataset
from edge_mnist.training.environment import describe_environment
from edge_mnist.training.loop import Epoch, Progress, Trainer
from edge_mnist.training.networks import compute_logits
from edge_mnist.training.recipe import Recipe, find_recipe, parse_recipe

RUNS_FOLDER = Path("runs")
RECIPE_NAME, HISTORY_NAME, RESULT_NAME = "recipe.json", "history.jsonl", "result.json"


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


def plan_run(
    recipe_name: str | None,
    changes: Mapping[str, str | int | float | bool | None],
    *,
    folder: Path | None,
    resume: bool,
    overwrite: bool = False,
) -> tuple[Recipe, Path | None]:
    """Decide what to train and where, without writing anything.

    Args:
        recipe_name: A preset, or None for the one that suits the data set.
        changes: Attributes of the recipe to change; None is no change.
        folder: The run folder; None for a new one, or the newest unfinished one on ``resume``.
        resume: Take the recipe of the run to go on with.
        overwrite: Allow ``folder`` to hold an earlier run, which is lost.

    Returns:
        The recipe, and the folder or None for a new one.

    Raises:
        UsageError: The options contradict each other or the run.
        ModelError: There is no run to resume.
    """
    if not resume:
        if folder and (folder / RECIPE_NAME).exists() and not overwrite:
            raise UsageError(f"{folder} holds a run; add --resume to go on, --overwrite to lose it")
        return find_recipe(recipe_name, **changes), folder
    if overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    folder = folder or newest_unfinished_run()
    recipe = read_recipe(folder)
    wanted = {key: value for key, value in {"name": recipe_name, **changes}.items() if value}
    for key, value in wanted.items():
        if getattr(recipe, key) != value:
            raise UsageError(
                f"{folder} has {key} {getattr(recipe, key)}; it cannot go on as {value}"
            )
    return recipe, folder


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
        folder: The run folder; holds checkpoint, history, curves, recipe and environment.
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
    write_atomically(folder / "curves.png", plot_curves(history))
    return _finish(trainer, dataset, history, folder)


def start_run(trainer: Trainer, folder: Path) -> list[Epoch]:
    """Make a folder ready for a new run and return the history, which is empty."""
    for name in (CHECKPOINT_NAME, HISTORY_NAME, RESULT_NAME):
        with output_errors(folder / name):
            (folder / name).unlink(missing_ok=True)
    environment = describe_environment(trainer.device)
    if trainer.teacher:
        environment["teacher_sha256"] = trainer.teacher.predictor.model.sha256
    write_atomically(folder / "environment.json", _to_json(environment))
    write_atomically(folder / RECIPE_NAME, _to_json(dataclasses.asdict(trainer.recipe)))
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
    if checkpoint.is_finished:
        raise UsageError(f"{folder} is finished after {checkpoint.epoch} epochs; nothing to resume")
    trainer.restore(checkpoint)
    lines = (folder / HISTORY_NAME).read_text().splitlines()
    history = [Epoch(**json.loads(line)) for line in lines]
    return history[: checkpoint.epoch]


def new_run_folder(name: str) -> Path:
    """Create and return ``runs/NAME``, or ``runs/NAME-2`` and so on where that exists.

    Raises:
        OutputError: It cannot be created.
    """
    make_folder(RUNS_FOLDER)
    for number in itertools.count(1):
        folder = RUNS_FOLDER / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError), output_errors(folder):
            folder.mkdir()
            return folder
    raise AssertionError("unreachable: the numbers do not end")


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a run folder.

    Raises:
        ModelError: It is not a run folder.
    """
    try:
        return parse_recipe((folder / RECIPE_NAME).read_text())
    except OSError as error:
        raise ModelError(f"{folder} is not a run: no {RECIPE_NAME} in it") from error


def newest_unfinished_run() -> Path:
    """Return the folder below ``./runs`` that was last trained in and is not finished.

    Raises:
        ModelError: There is none.
    """
    runs = [path.parent for path in RUNS_FOLDER.glob(f"*/{RECIPE_NAME}")]
    for folder in sorted(runs, key=_last_change, reverse=True):
        checkpoint = folder / CHECKPOINT_NAME
        if not checkpoint.exists() or not load_checkpoint(checkpoint).is_finished:
            return folder
    raise ModelError(f"no unfinished run in ./{RUNS_FOLDER}; start one with: edge-mnist train")


def find_checkpoint(path: Path | None = None) -> Path:
    """Return a checkpoint file.

    Args:
        path: A checkpoint or a run folder; None for the newest run below ``./runs``.

    Raises:
        ModelError: There is none.
    """
    if path is None:
        checkpoints = list(RUNS_FOLDER.glob(f"*/{CHECKPOINT_NAME}"))
        if not checkpoints:
            raise ModelError(f"no run in ./{RUNS_FOLDER}; start one with: edge-mnist train")
        return max(checkpoints, key=lambda checkpoint: checkpoint.stat().st_mtime_ns)
    path = path / CHECKPOINT_NAME if path.is_dir() else path
    if not path.is_file():
        raise ModelError(f"no checkpoint {path}")
    return path


def _last_change(folder: Path) -> int:
    return max(path.stat().st_mtime_ns for path in folder.iterdir())


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
    predicted = compute_logits(network, dataset.test_images).argmax(axis=1)
    result = RunResult(
        folder=str(folder),
        recipe=trainer.recipe,
        n_weights=sum(weight.numel() for weight in network.parameters()),
        validation_accuracy=history[-1].validation_accuracy,
        test_accuracy=float((predicted == dataset.test_labels).mean()),
        n_test_images=len(dataset.test_labels),
        train_s=sum(epoch.train_s for epoch in history),
        device=str(trainer.device),
    )
    write_atomically(folder / RESULT_NAME, _to_json(dataclasses.asdict(result)))
    return result


def _to_json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _to_jsonl(history: list[Epoch]) -> bytes:
    return "".join(json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in history).encode()
