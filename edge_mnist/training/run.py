"""Runs: one training from start to end, and the folder that keeps it."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import filelock
import numpy as np
import torch
from torch import nn

from edge_mnist.errors import DataError, ModelError, OutputError, UsageError
from edge_mnist.files import make_folder, output_errors, write_atomically
from edge_mnist.machine import processor_name
from edge_mnist.model_file import CHECKPOINT_NAME, locate
from edge_mnist.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_network,
    save_checkpoint,
)
from edge_mnist.training.datasets import Dataset, check_dataset, load_dataset
from edge_mnist.training.networks import compute_logits, limited_threads
from edge_mnist.training.provenance import TrainingData
from edge_mnist.training.recipes import Recipe, check_recipe, find_recipe, parse_recipe
from edge_mnist.training.threads import choose_threads, resolve_threads
from edge_mnist.training.trainer import Epoch, Progress, Trainer, pick_device
from edge_mnist.training.unipen import Characters, load_unipen

RUNS_FOLDER = Path("runs")
RECIPE_NAME, RESULT_NAME, HISTORY_NAME = "recipe.json", "result.json", "history.jsonl"
ENVIRONMENT_NAME = "environment.json"
FOLDS_NAME = "folds.json"
LOCK_NAME = ".lock"

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class RunResult:
    """The figures of a finished training; accuracies are fractions.

    Attributes:
        folder: The run folder; None if nothing was written.
        recipe: Every number that decided the weights.
        n_weights: Numbers that training decided.
        validation_accuracy: After the last epoch, on the held-out training images.
        test_accuracy: Measured once, after the last epoch, whatever the confidence.
        n_test_images: Images in the test set.
        train_s: Seconds of all epochs, without validation.
        device: Where it was trained.
        rejected_shares: Share of the validation images that the calibrated threshold rejects, by
            their source: the data set, ``unipen``.
        handwriting_accuracy: On the digits of UNIPEN's held-out writers; None without UNIPEN.
        n_handwriting_images: Renderings of those digits.
        letters_rejected: Share of the letters and signs of those writers that is rejected, without
            those that look like a digit; None without UNIPEN.
        test_rejected: Share of the test images that the calibrated threshold rejects.
        threads: PyTorch's threads in the training; 0 in results of old, which do not say.
    """

    folder: str | None
    recipe: Recipe
    n_weights: int
    validation_accuracy: float
    test_accuracy: float
    n_test_images: int
    train_s: float
    device: str
    rejected_shares: Mapping[str, float] = field(default_factory=dict)
    handwriting_accuracy: float | None = None
    n_handwriting_images: int = 0
    letters_rejected: float | None = None
    test_rejected: float = 0.0
    threads: int = 0
    schema_version: int = 1


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A finished training.

    Attributes:
        result: Its figures; what ``edge-mnist train --json`` prints.
        network: With the weights after the last epoch (their moving average), in evaluation mode;
            takes pixels (N, 1, 28, 28), float32, 0..1, and returns logits (N, classes).
        dataset: The data set, with what the training held out of it as ``held_out``.
        checkpoint: The weights with recipe and calibration.
        history: What each epoch did.
    """

    result: RunResult
    network: nn.Module
    dataset: Dataset
    checkpoint: Checkpoint
    history: tuple[Epoch, ...]

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test set, a fraction."""
        return self.result.test_accuracy


def lock_output(function: Callable[P, R]) -> Callable[P, R]:
    """Keep the folder ``out`` of a training function to one call at a time, on this machine.

    The lock is the operating system's: that of a killed process does not outlive it.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        out = kwargs.get("out")
        if not isinstance(out, str | os.PathLike):
            return function(*args, **kwargs)
        folder = make_folder(Path(out))
        lock = filelock.FileLock(folder / LOCK_NAME)
        with output_errors(folder / LOCK_NAME):
            try:
                lock.acquire(blocking=False)
            except filelock.Timeout as error:
                raise OutputError(f"another training is writing into {folder}") from error
        try:
            return function(*args, **kwargs)
        finally:
            lock.release()

    return call


@lock_output
def train(
    recipe: str | Recipe | None = None,
    dataset: Dataset | None = None,
    *,
    handwriting: Characters | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    threads: int | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> TrainingRun:
    """Train one network by a recipe.

    Args:
        recipe: A preset's name, or every number that decides the weights. None takes the preset
            that suits the data set.
        dataset: What to train on; None loads the one that the recipe names.
        handwriting: UNIPEN, for a recipe with a ``handwriting_share``; None loads it.
        out: Run folder: recipe, environment, history, a checkpoint after each epoch, result. None
            writes nothing.
        device: ``auto``, ``cpu``, ``cuda`` or a torch device.
        threads: PyTorch's threads during the training; another number gives other weights.
            ``auto`` measures at the start which is fastest. None takes, on ``resume``, the number
            that the run was started with, else EDGE_MNIST_THREADS, else PyTorch's own.
        resume: Continue from the folder's checkpoint, if it has one.
        overwrite: Replace an earlier run in ``out``.
        report: Called with the progress every few steps.

    Raises:
        DataError: The data set, or UNIPEN, cannot be loaded, or the data set changed since the run
            to resume was started.
        UsageError: There is no such recipe, it has folds (see ``cross_validate``), ``out`` holds
            a run, or the run to resume is finished.
        TrainingError: The loss became infinite or NaN; the last good checkpoint is kept.
        ModelError: The folder's checkpoint is of another recipe, or its files are damaged.
        ProviderError: CUDA was asked for and does not run here.
        OutputError: The folder cannot be written.
    """
    recipe, dataset = resolve(recipe, dataset)
    if recipe.folds and not recipe.fold:
        raise UsageError(f"recipe {recipe.name} has {recipe.folds} folds: use cross_validate")
    if recipe.handwriting_share and handwriting is None:
        handwriting = load_unipen()
    folder = Path(out) if out is not None else None
    if folder:
        check_run_folder(folder, resume=resume, overwrite=overwrite)
        make_folder(folder)
    if folder and resume and threads in (None, "auto"):
        threads = read_run_threads(folder) or threads
    n_threads = resolve_threads(threads)
    trainer = Trainer(recipe, dataset, pick_device(device), handwriting)
    with limited_threads(n_threads or choose_threads(trainer)):
        history = _begin_history(trainer, folder, resume=resume)
        while trainer.epoch < recipe.epochs:
            history.append(trainer.run_epoch(_make_reporter(trainer, history, report)))
            if folder:
                write_atomically(folder / HISTORY_NAME, _to_jsonl(history))
                save_checkpoint(folder / CHECKPOINT_NAME, trainer.checkpoint())
        return _finish(trainer, dataset, history, folder)


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
        folder: The run folder; None for a new one, or on ``resume`` the newest unfinished one.
        resume: Take the recipe of the run to continue.
        overwrite: Allow ``folder`` to hold an earlier run, which is lost.

    Returns:
        The recipe, and the folder or None for a new one.

    Raises:
        UsageError: The options contradict each other or the run.
        ModelError: There is no run to resume.
    """
    if not resume:
        if folder:
            check_run_folder(folder, resume=resume, overwrite=overwrite)
        return find_recipe(recipe_name, **changes), folder
    if overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    folder = folder or newest_unfinished_run()
    recipe = read_recipe(folder)
    for key, value in {"name": recipe_name, **changes}.items():
        if value is not None and getattr(recipe, key) != value:
            raise UsageError(
                f"{folder} has {key} {getattr(recipe, key)}; it cannot continue with {value}"
            )
    return recipe, folder


def check_run_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse to replace an earlier run unless that was asked for.

    Raises:
        UsageError: The folder holds a run.
    """
    if (folder / RECIPE_NAME).exists() and not (resume or overwrite):
        raise UsageError(
            f"{folder} holds a run; add --resume to continue it, --overwrite to replace it"
        )


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


def remove_unused_run(folder: Path) -> None:
    """Remove a new run folder in which no training began, so that the next run gets its name."""
    with contextlib.suppress(OSError):
        if set(os.listdir(folder)) <= {LOCK_NAME}:
            (folder / LOCK_NAME).unlink(missing_ok=True)
            folder.rmdir()


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe of a run folder.

    Raises:
        ModelError: It is not a run folder, or the recipe is damaged.
    """
    try:
        return parse_recipe((folder / RECIPE_NAME).read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} is not a run: no {RECIPE_NAME} in it") from error
    except (ModelError, UsageError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / RECIPE_NAME} is damaged: {error}") from error


def read_run_threads(folder: Path) -> int | None:
    """Return how many threads a run, or its first fold, trains with; None if it does not say."""
    for part in (folder, folder / "fold-1"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads((part / ENVIRONMENT_NAME).read_bytes())["torch_threads"])
    return None


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
    """Return whether the run in a folder, or all of its folds, is finished."""
    recipe = read_recipe(folder)
    has_all_folds = recipe.folds and not recipe.fold
    return (folder / (FOLDS_NAME if has_all_folds else RESULT_NAME)).exists()


def find_checkpoint(name: str | os.PathLike[str] | None = None) -> Path:
    """Return the checkpoint file that a name stands for.

    Args:
        name: A checkpoint, or a folder that holds one: a run folder (of several folds the newest
            checkpoint), a folder written by export, or a released model's in a checkout. None for
            the newest run below ``./runs``.

    Raises:
        ModelError: There is none.
    """
    path = None if name is None else locate(name)
    if path and not os.path.isdir(path):
        if not os.path.isfile(path):
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


def to_json(value: Any) -> bytes:
    """Return the content of a JSON file, indented."""
    return (json.dumps(value, indent=2) + "\n").encode()


def resolve(recipe: str | Recipe | None, dataset: Dataset | None) -> tuple[Recipe, Dataset]:
    """Return the recipe and the data set of a training, each of which may name the other.

    Raises:
        UsageError: There is no such recipe, a number of it is out of its range, or ``dataset`` is
            no data set.
        DataError: The data set that the recipe names cannot be had.
    """
    if dataset is not None:
        check_dataset(dataset)
    if not isinstance(recipe, Recipe):
        recipe = find_recipe(recipe, dataset=dataset.name if dataset else None)
    recipe = check_recipe(recipe)
    if dataset is None:
        dataset = load_dataset(recipe.dataset)
    return dataclasses.replace(recipe, dataset=dataset.name), dataset


def _begin_history(trainer: Trainer, folder: Path | None, *, resume: bool) -> list[Epoch]:
    """Prepare or restore a run, and return the history up to here."""
    if not folder:
        return []
    return _restore_run(trainer, folder) if resume else _start_run(trainer, folder)


def _start_run(trainer: Trainer, folder: Path) -> list[Epoch]:
    """Prepare a folder for a new run and return the history, which is empty."""
    for name in (CHECKPOINT_NAME, HISTORY_NAME, RESULT_NAME):
        with output_errors(folder / name):
            (folder / name).unlink(missing_ok=True)
    _write_environment(trainer, folder)
    write_atomically(folder / RECIPE_NAME, to_json(dataclasses.asdict(trainer.recipe)))
    return []


def _write_environment(trainer: Trainer, folder: Path) -> None:
    environment = describe_environment(trainer.device)
    if trainer.teacher:
        environment["teacher_sha256"] = trainer.teacher.predictor.model.sha256
    write_atomically(folder / ENVIRONMENT_NAME, to_json(environment))


def _restore_run(trainer: Trainer, folder: Path) -> list[Epoch]:
    """Restore a trainer from a run's checkpoint and return the history up to there.

    Raises:
        ModelError: The checkpoint is of another recipe, or the history is damaged.
        UsageError: The run is finished.
        DataError: The data set changed since the run was started.
    """
    if not (folder / CHECKPOINT_NAME).exists():  # killed within its first epoch
        return _start_run(trainer, folder)
    checkpoint = load_checkpoint(folder / CHECKPOINT_NAME)
    if checkpoint.recipe != trainer.recipe:
        raise ModelError(f"{folder} was trained by another recipe; see {folder / RECIPE_NAME}")
    check_same_data(checkpoint, trainer.trained_on, folder)
    if is_finished(folder):
        raise UsageError(f"{folder} is finished after {checkpoint.epoch} epochs; nothing to resume")
    trainer.restore(checkpoint)
    if read_run_threads(folder) != torch.get_num_threads():
        _write_environment(trainer, folder)
    # A process killed between the two files leaves an epoch more in the history.
    history = read_history(folder)[: checkpoint.epoch]
    if len(history) < checkpoint.epoch:
        raise ModelError(
            f"{folder / HISTORY_NAME} holds {len(history)} of the {checkpoint.epoch} epochs done, "
            "so the run cannot be continued; train again with --overwrite"
        )
    return history


def read_history(folder: Path) -> list[Epoch]:
    """Read the epochs of a run; none if the folder holds no history.

    Raises:
        ModelError: The history is damaged.
    """
    path = folder / HISTORY_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [Epoch(**json.loads(line)) for line in lines]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"the history {path} is damaged: {error}") from error


def check_same_data(checkpoint: Checkpoint, trained_on: TrainingData, folder: Path) -> None:
    """Refuse to continue a run with other images, which would give other weights.

    Raises:
        DataError: The data set changed since the run was started.
    """
    if checkpoint.trained_on.sha256 not in ("", trained_on.sha256):
        raise DataError(
            f"{trained_on.name} changed since the run in {folder} was started, so it cannot be "
            "continued; train again with --overwrite, or into another folder"
        )


def _make_reporter(
    trainer: Trainer, history: list[Epoch], report: Callable[[Progress], None]
) -> Callable[[int, float, float], None]:
    """Return the callback of one epoch that turns its figures into a ``Progress``."""
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


def _finish(
    trainer: Trainer, dataset: Dataset, history: list[Epoch], folder: Path | None
) -> TrainingRun:
    """Measure the test accuracy, once, and write the result."""
    checkpoint = trainer.checkpoint()
    network = load_network(checkpoint)
    logits = compute_logits(network, dataset.test_images)
    letters_rejected = None
    if trainer.handwriting:
        letters = trainer.handwriting.draw_held_out_letters(trainer.handwriting.split.validation)
        letters_rejected = checkpoint.calibration.measure_rejected(compute_logits(network, letters))
    drawn = trainer.validation_handwriting
    result = RunResult(
        folder=str(folder) if folder else None,
        recipe=trainer.recipe,
        n_weights=sum(weight.numel() for weight in network.parameters()),
        validation_accuracy=history[-1].validation_accuracy,
        test_accuracy=float(np.mean(logits.argmax(axis=1) == dataset.test_labels)),
        n_test_images=len(dataset.test_labels),
        train_s=sum(epoch.train_s for epoch in history),
        device=str(trainer.device),
        rejected_shares=checkpoint.calibration.rejected_shares,
        handwriting_accuracy=history[-1].handwriting_accuracy,
        n_handwriting_images=len(drawn.labels) if drawn else 0,
        letters_rejected=letters_rejected,
        test_rejected=checkpoint.calibration.measure_rejected(logits),
        threads=torch.get_num_threads(),
    )
    if folder:
        write_atomically(folder / RESULT_NAME, to_json(dataclasses.asdict(result)))
    split = dataclasses.replace(dataset, held_out=trainer.held_out)
    return TrainingRun(result, network, split, checkpoint, tuple(history))


def _to_jsonl(history: list[Epoch]) -> bytes:
    return "".join(json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in history).encode()
