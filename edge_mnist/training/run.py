"""What a result depends on besides its recipe: the machine and the versions.

What to train and where; finding earlier runs again.

Runs: one training from start to end, and its folder.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.files import make_folder, output_errors, write_atomically
from edge_mnist.machine import processor_name
from edge_mnist.model_file import CHECKPOINT_NAME
from edge_mnist.plots.charts import plot_curves
from edge_mnist.plots.images import plot_filters, plot_samples
from edge_mnist.plots.plot import N_SHOWN, draw_test_pictures
from edge_mnist.training.checkpoint import load_checkpoint, load_network, save_checkpoint
from edge_mnist.training.dataset import Dataset
from edge_mnist.training.networks import compute_logits, first_weights, to_probabilities
from edge_mnist.training.recipes import Recipe, find_recipe, parse_recipe
from edge_mnist.training.trainer import Epoch, Progress, Trainer


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Return what a result depends on besides the recipe: versions and machine."""
    names = ("edge-mnist", "torch", "torchvision", "numpy", "scikit-learn")
    versions = {name: version(name) for name in names}
    about: dict[str, str | int] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return versions | about


def limit_threads(threads: int) -> None:
    """Let PyTorch use so many threads within one operator, in this process."""
    torch.set_num_threads(threads)


RUNS_FOLDER = Path("runs")
RECIPE_NAME, RESULT_NAME, FOLDS_NAME = "recipe.json", "result.json", "folds.json"


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
        if not is_finished(folder):
            return folder
    raise ModelError(f"no unfinished run in ./{RUNS_FOLDER}; start one with: edge-mnist train")


def is_finished(folder: Path) -> bool:
    """Tell whether the run in a folder, or all of its folds, went to the end."""
    recipe = read_recipe(folder)
    has_all_folds = recipe.folds and not recipe.fold
    return (folder / (FOLDS_NAME if has_all_folds else RESULT_NAME)).exists()


def find_checkpoint(path: Path | None = None) -> Path:
    """Return a checkpoint file.

    Args:
        path: A checkpoint or a run folder, of several folds the newest; None for the newest run
            below ``./runs``.

    Raises:
        ModelError: There is none.
    """
    if path and not path.is_dir():
        if not path.is_file():
            raise ModelError(f"no checkpoint {path}")
        return path
    checkpoints = list((path or RUNS_FOLDER).rglob(CHECKPOINT_NAME))
    if path and path / CHECKPOINT_NAME in checkpoints:
        return path / CHECKPOINT_NAME
    if not checkpoints and path:
        raise ModelError(f"no checkpoint {path / CHECKPOINT_NAME}")
    if not checkpoints:
        raise ModelError(f"no run in ./{RUNS_FOLDER}; start one with: edge-mnist train")
    return max(checkpoints, key=lambda checkpoint: checkpoint.stat().st_mtime_ns)


def _last_change(folder: Path) -> int:
    return max(path.stat().st_mtime_ns for path in folder.iterdir())


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
