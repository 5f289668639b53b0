"""The command ``models``."""

import dataclasses

from edge_mnist.cli.app import Json, app, print_json
from edge_mnist.machine import require_package


@app.command()
def models(as_json: Json = False) -> None:
    """List the networks that recipes can train, with their sizes."""
    require_package("torch", "train")
    from edge_mnist.cli import rendering
    from edge_mnist.training.catalogue import list_networks

    entries = list_networks()
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        rendering.print_networks(entries)
