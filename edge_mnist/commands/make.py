"""Commands that make a model: train, export, and all in one go."""

import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_mnist.commands.app import (
    DataDir,
    Json,
    MaxAccuracyLost,
    Offline,
    Quiet,
    app,
    need,
    print_json,
)
from edge_mnist.errors import UsageError

if TYPE_CHECKING:
    from edge_mnist.export.release import ExportResult
    from edge_mnist.export.triton import TritonModel

TARGETS = {"files": "exports", "triton": "triton"}  # and the folder that each is written to
SOURCE_HELP = (
    "Checkpoint or run folder; for triton an exported file or folder, too. "
    "[default: newest run; for triton the model that predict uses]"
)
DatasetName = Annotated[
    str | None,
    typer.Option(
        help="mnist, digits, fashion-mnist, kmnist, qmnist, emnist-digits, or a folder with a "
        "folder for each class."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE for any number of the recipe; repeat."),
]


@app.command()
def train(
    recipe: Annotated[str | None, typer.Option(help="Preset. [default: default]")] = None,
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
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/RECIPE]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out, or the newest unfinished run.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start --out anew.")] = False,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network, or one for each fold; writes a run folder."""
    need("torch", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.training.data import load_dataset
    from edge_mnist.training.device import pick_device
    from edge_mnist.training.folds import train_plan
    from edge_mnist.training.plan import plan_run
    from edge_mnist.training.recipe import parse_changes

    named = {"dataset": dataset, "epochs": epochs, "seed": seed, "folds": folds}
    named["teacher"] = "" if teacher == "none" else teacher
    changes = {**named, **parse_changes(settings or ())}
    plan, folder = plan_run(recipe, changes, folder=out, resume=resume, overwrite=overwrite)
    data = load_dataset(plan.dataset, data_dir=data_dir, offline=offline)
    terminal.warn_of_skipped(data.skipped)
    with terminal.training_bar(quiet=quiet) as report:
        where = pick_device(device)
        result = train_plan(plan, data, folder=folder, device=where, resume=resume, report=report)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        terminal.print_training(result)


@app.command()
def export(
    source: Annotated[Path | None, typer.Argument(help=SOURCE_HELP)] = None,
    target: Annotated[
        str, typer.Option(help="files, or triton: a model repository for NVIDIA Triton.")
    ] = "files",
    quantize: Annotated[bool, typer.Option("--quantize", help="Write an int8 file too.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder. [default: exports, or triton]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that no export wrote.")
    ] = False,
    max_accuracy_lost: MaxAccuracyLost = 0.001,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to ONNX, proven before it is written, or to a server's form."""
    if target not in TARGETS:
        raise UsageError(f"no target named {target!r}; there are: {', '.join(TARGETS)}")
    folder = output or Path(TARGETS[target])
    options: dict[str, Any] = {"quantize": quantize, "max_accuracy_lost": max_accuracy_lost}
    options |= {"data_dir": data_dir, "offline": offline}
    if target == "triton":
        models = _export_to_triton(source, folder, options, overwrite=overwrite)
        _print_triton(models, folder, as_json=as_json)
        return
    result = _export_files(source, folder, options, overwrite=overwrite)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        from edge_mnist import terminal

        terminal.print_export(result)


def _export_files(
    source: Path | None, folder: Path, options: Mapping[str, Any], *, overwrite: bool
) -> "ExportResult":
    """Export a checkpoint through the gate."""
    need("torch", "edge-mnist[train]")
    need("onnx", "edge-mnist[train]")
    from edge_mnist.export.release import export
    from edge_mnist.training.checkpoint import load_checkpoint
    from edge_mnist.training.data import load_dataset
    from edge_mnist.training.plan import find_checkpoint
    from edge_mnist.validation.gate import Limits

    path = find_checkpoint(source)
    name = load_checkpoint(path).recipe.dataset
    return export(
        path,
        load_dataset(name, data_dir=options["data_dir"], offline=options["offline"]),
        folder=folder,
        quantize=options["quantize"],
        limits=Limits(accuracy_lost=options["max_accuracy_lost"]),
        overwrite=overwrite,
        command="edge-mnist export" + " --quantize" * options["quantize"],
    )


def _export_to_triton(
    source: Path | None, repository: Path, options: Mapping[str, Any], *, overwrite: bool
) -> "list[TritonModel]":
    """Write exported models to a repository; a checkpoint goes through the gate first."""
    from edge_mnist.export.triton import export_triton, is_checkpoint
    from edge_mnist.modelfile import find_model, find_models

    if source and is_checkpoint(source):
        with tempfile.TemporaryDirectory() as name:
            _export_files(source, Path(name), options, overwrite=False)
            paths = find_models([Path(name)])
            return [export_triton(path, repository, overwrite=overwrite) for path in paths]
    paths = find_models([source]) if source else [find_model()]
    if options["quantize"]:
        raise UsageError(f"--quantize needs a checkpoint, and {paths[0]} is exported already")
    return [export_triton(path, repository, overwrite=overwrite) for path in paths]


def _print_triton(models: "Sequence[TritonModel]", repository: Path, *, as_json: bool) -> None:
    if as_json:
        listed = [dataclasses.asdict(model) for model in models]
        print_json({"schema_version": 1, "repository": str(repository), "models": listed})
        return
    for model in models:
        print(f"{model.folder}: {', '.join(model.files)}, from {model.source}")
    print(f"next: tritonserver --model-repository {repository.resolve()}", file=sys.stderr)


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("quickstart"),
    data_dir: DataDir = None,
    offline: Offline = False,
) -> None:
    """Train, export, quantise, validate and predict, in one go of about two minutes."""
    need("torch", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.quickstart import run_quickstart

    with terminal.training_bar(quiet=False) as report:
        result = run_quickstart(
            output, data_dir=data_dir, offline=offline, say=terminal.say, report=report
        )
    terminal.print_quickstart(result)
    raise typer.Exit(0 if result.validation.passed else 1)
