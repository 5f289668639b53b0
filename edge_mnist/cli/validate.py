"""Commands that measure: validate, bench, doctor."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.cli.app import (
    MODEL_HELP,
    DataDir,
    Json,
    MaxAccuracyLost,
    Offline,
    app,
    need,
    print_json,
)
from edge_mnist.errors import UsageError


@app.command()
def validate(
    models: Annotated[list[str] | None, typer.Argument(help=MODEL_HELP)] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Checkpoint, or 'reference' for the reference.npz beside the model."),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Golden images only: no torch, no data.")
    ] = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Fifteen corruptions too; takes a minute.")
    ] = False,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for pictures of the mistakes and more.")
    ] = None,
    atol: Annotated[float, typer.Option(help="Largest difference of float32 logits.")] = 1e-3,
    max_accuracy_lost: MaxAccuracyLost = 0.001,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Put model files through the gate; exit 1 if one misses a limit."""
    if plots and self_test:
        raise UsageError("--plots draws the test set; it has no place in a --self-test")
    if plots:
        need("matplotlib", "edge-mnist[train]")
    from edge_mnist.cli import rendering
    from edge_mnist.model_file import find_models
    from edge_mnist.validation.gate import Limits
    from edge_mnist.validation.validate import load_test_data, validate

    paths = find_models(models, prefer_exports=True)
    dataset = None if self_test else load_test_data(paths, data_dir=data_dir, offline=offline)
    limits = Limits(atol=atol, accuracy_lost=max_accuracy_lost)
    report = validate(
        paths, dataset=dataset, against=against, limits=limits, with_robustness=robustness
    )
    if plots and dataset:
        from edge_mnist.plots.plot import plot_tests

        pictures = plot_tests(paths, dataset, folder=plots)
        rendering.say(f"{len(pictures.paths)} pictures in {plots}")
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        rendering.print_validation(report)
    raise typer.Exit(0 if report.passed else 1)
