"""What to train and where; finding earlier runs again."""

import contextlib
import itertools
from collections.abc import Mapping
from pathlib import Path

from edge_mnist.atomic import make_folder, output_errors
from edge_mnist.errors import ModelError, UsageError
from edge_mnist.modelfile import CHECKPOINT_NAME
from edge_mnist.training.recipe import Recipe, parse_recipe
from edge_mnist.training.recipes import find_recipe

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
