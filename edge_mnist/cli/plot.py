"""The command ``plot``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.cli.app import DataDir, Json, Offline, app, find_command_model, print_json
from edge_mnist.cli.streams import escape
from edge_mnist.machine import require_package


@app.command()
def plot(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Model files, folders written by export, run folders. [env: EDGE_MNIST_MODEL] "
            "[default: ./exports, else the shipped model]"
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("plots"),
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Draw samples, predictions, confusions, mistakes, reliability, filters, training curves."""
    require_package("matplotlib", "train")
    from edge_mnist.plots.plot import plot as plot_files

    pictures = plot_files(
        paths or [find_command_model(None)], folder=output, data_dir=data_dir, offline=offline
    )
    if as_json:
        print_json(dataclasses.asdict(pictures))
    else:
        print("\n".join(map(escape, pictures.paths)))
