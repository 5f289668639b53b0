"""The command ``recipes``."""

import dataclasses

from edge_mnist.cli.app import Json, app, print_json
from edge_mnist.machine import require_package


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes, with their sizes and the accuracy measured."""
    require_package("torch", "train")
    from edge_mnist.cli import rendering
    from edge_mnist.training.catalogue import list_recipes

    entries = list_recipes()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        rendering.print_recipes(entries)
