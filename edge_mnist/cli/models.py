"""The command ``models``."""

import dataclasses

from edge_mnist.cli.app import Json, app, print_json


@app.command()
def models(as_json: Json = False) -> None:
    """List the networks that recipes can train, with their sizes."""
    from edge_mnist.training.catalogue import list_networks

    found = list_networks()
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        from edge_mnist.cli import rendering

        rendering.print_networks(found.networks)
