"""The command ``quickstart``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.cli.app import DataDir, Json, Offline, app, print_json
from edge_mnist.machine import require_package


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("quickstart"),
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Train, export, quantise, validate and predict, in one go of about two minutes."""
    require_package("torch", "train")
    from edge_mnist.cli import rendering
    from edge_mnist.quickstart import run_quickstart

    with rendering.training_bar(quiet=False) as report:
        result = run_quickstart(
            output, data_dir=data_dir, offline=offline, say=rendering.say, report=report
        )
    if as_json:
        prediction = result.prediction.to_dict(())
        print_json(dataclasses.asdict(result) | {"prediction": prediction})
    else:
        rendering.print_quickstart(result)
    raise typer.Exit(0 if result.validation.passed else 1)
