"""Commands that tell what there is: info, models, recipes."""

import dataclasses

from edge_mnist.cli.app import Json, app, need, print_json


@app.command()
def models(as_json: Json = False) -> None:
    """List the networks that recipes can train, with their sizes."""
    need("torch", "edge-mnist[train]")
    from edge_mnist.cli import rendering
    from edge_mnist.training.catalogue import list_networks

    entries = list_networks()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        rendering.print_networks(entries)
