"""The command ``recipes``."""

import dataclasses

from edge_mnist.cli.app import Json, app, print_json


@app.command()
def recipes(as_json: Json = False) -> None:
    """List the recipes, with their sizes and the accuracy measured."""
    from edge_mnist.training.catalogue import list_recipes

    found = list_recipes()
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        from edge_mnist.cli import rendering

        rendering.print_recipes(found.recipes)
