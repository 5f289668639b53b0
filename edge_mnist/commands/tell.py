"""Commands that tell what there is: info, models, recipes."""

import dataclasses
import json
from typing import Annotated

import typer

from edge_mnist.commands.app import MODEL_HELP, Json, app, need, print_json


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None, as_json: Json = False
) -> None:
    """Print what a model file says of itself."""
    from edge_mnist.modelfile import check_contract, find_model, read_model

    file = read_model(find_model(model))
    metadata = dict(check_contract(file).metadata)
    known = {"path": str(file.path), "sha256": file.sha256, "size_bytes": file.size_bytes}
    if as_json:
        parsed = {key: _parse(value) for key, value in metadata.items()}
        print_json({"schema_version": 1, **known, "metadata": parsed})
        return
    width = max(map(len, (*known, *metadata)))
    for key, value in (known | metadata).items():
        print(f"{key:{width}}  {value}")


@app.command()
def models(as_json: Json = False) -> None:
    """List the networks that recipes can train, with their sizes."""
    need("torch", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.training.catalogue import list_networks

    entries = list_networks()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        terminal.print_networks(entries)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes, with their sizes and the accuracy measured."""
    need("torch", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.training.catalogue import list_recipes

    entries = list_recipes()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        terminal.print_recipes(entries)


def _parse(value: str) -> object:
    """Read a metadata value that is JSON; the others are text."""
    try:
        return json.loads(value)
    except ValueError:
        return value
