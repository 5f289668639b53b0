"""The command ``train``."""

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edge_mnist.cli.app import DataDir, Json, Offline, Quiet, app, carry_options, print_json
from edge_mnist.errors import UsageError
from edge_mnist.machine import require_package
from edge_mnist.training.recipes import RECIPES, Recipe

if TYPE_CHECKING:
    from edge_mnist.training.cross_validation import FoldsResult
    from edge_mnist.training.datasets import Dataset
    from edge_mnist.training.run import TrainingRun

KEYS = tuple(field.name for field in dataclasses.fields(Recipe) if field.name != "name")
DatasetName = Annotated[
    str | None,
    typer.Option(
        help="mnist, digits, fashion-mnist, kmnist, qmnist, emnist-digits, or a folder with a "
        "folder for each class."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help=f"KEY=VALUE for any number of the recipe; repeat. Keys: {', '.join(KEYS)}.",
        autocompletion=lambda: [f"{key}=" for key in KEYS],
    ),
]


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"Preset: {', '.join(RECIPES)}. [default: default]",
            autocompletion=lambda: [*RECIPES],
        ),
    ] = None,
    dataset: DatasetName = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Model file to learn from too, or none. [default: recipe's]")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate: train so many networks in turn.")
    ] = None,
    settings: Settings = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads of PyTorch; another number gives other weights. "
            "[env: EDGE_MNIST_THREADS] [default: the fastest in a short measurement]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder. [default: runs/RECIPE]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", hidden=True)] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue --output, or the newest unfinished run.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --output.")
    ] = False,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network, or one for each fold; writes a run folder with plots."""
    require_package("torch", "train")
    from edge_mnist.session import read_threads
    from edge_mnist.training.recipes import find_recipe, parse_changes

    named = {"dataset": dataset, "epochs": epochs, "seed": seed, "folds": folds}
    named["teacher"] = "" if teacher == "none" else teacher
    changed = parse_changes(settings or ())
    _refuse_twice({f"--set {key}=...": key for key in changed}, named)
    _refuse_twice({"--out": "output"} if out else {}, {"output": output})
    changes = {**named, **changed}
    if not resume:
        find_recipe(recipe, **changes)  # a mistake is told before PyTorch's import of seconds
    asked = read_threads(threads)
    from edge_mnist.cli import rendering
    from edge_mnist.files import check_folder
    from edge_mnist.training.cross_validation import cross_validate
    from edge_mnist.training.datasets import load_dataset
    from edge_mnist.training.run import (
        TrainingRun,
        new_run_folder,
        plan_run,
        read_run_threads,
        remove_unused_run,
    )
    from edge_mnist.training.run import train as train_network
    from edge_mnist.training.unipen import load_unipen

    plan, folder = plan_run(
        recipe, changes, folder=output or out, resume=resume, overwrite=overwrite
    )
    if folder:
        check_folder(folder)
    started = read_run_threads(folder) if resume and folder else None
    if asked and started and asked != started:
        rendering.say(
            f"note: {folder} was started with {started} threads; with {asked} its weights will "
            "not be those of a run that was never interrupted"
        )
    data = load_dataset(plan.dataset, data_dir=data_dir, offline=offline)
    rendering.warn_of_skipped(data.skipped)
    for note in () if quiet else data.notes:
        rendering.say(note)
    uses_unipen = plan.handwriting_share > 0
    handwriting = load_unipen(data_dir, offline=offline) if uses_unipen else None
    new_folder = None if folder else new_run_folder(plan.name)
    folder = folder or new_folder
    assert folder
    with rendering.training_bar(quiet=quiet) as report:
        run = cross_validate if plan.folds and not plan.fold else train_network
        try:
            result = run(
                plan,
                data,
                handwriting=handwriting,
                out=folder,
                device=device,
                threads=asked or "auto",
                resume=resume,
                overwrite=overwrite,
                report=report,
            )
        finally:
            if new_folder:
                remove_unused_run(new_folder)
    figures = result.result if isinstance(result, TrainingRun) else result
    if find_spec("matplotlib"):
        _plot(folder, result, data)
    else:
        rendering.say("no plots: they need matplotlib; install 'edge-mnist[train]'")
    if as_json:
        print_json(dataclasses.asdict(figures))
    else:
        carried = carry_options(data_dir=data_dir, offline=offline)
        rendering.print_training(figures, carried=carried)


def _refuse_twice(others: Mapping[str, str], named: Mapping[str, object]) -> None:
    """Refuse options that state what another option states too, perhaps otherwise.

    Args:
        others: Options that were given, each with the name of the option that states the same.
        named: The values of those, by their names; None if not given.

    Raises:
        UsageError: Both were given.
    """
    for option, name in others.items():
        if named.get(name) is not None:
            raise UsageError(f"--{name} and {option} exclude each other")


def _plot(folder: Path, result: "TrainingRun | FoldsResult", dataset: "Dataset") -> None:
    """Draw the training, or each fold and their accuracies, into the run folder."""
    from edge_mnist.plots.plot import plot_cross_validation, plot_run
    from edge_mnist.training.run import TrainingRun

    if isinstance(result, TrainingRun):
        plot_run(folder, dataset)
        return
    for fold in result.folds:
        plot_run(folder / f"fold-{fold.recipe.fold}", dataset)
    plot_cross_validation(folder, [fold.validation_accuracy for fold in result.folds])
