"""Commands that tell what there is: info, models, recipes."""

import dataclasses

from edge_mnist.cli.app import Json, app, need, print_json


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes, with their sizes and the accuracy measured."""
    need("torch", "edge-mnist[train]")
    from edge_mnist.cli import rendering
    from edge_mnist.training.catalogue import list_recipes

    entries = list_recipes()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        rendering.print_recipes(entries)
