"""The command ``info``."""

import json
from typing import Annotated

import typer

from edge_mnist.cli.app import MODEL_HELP, Json, app, find_command_model, print_json
from edge_mnist.cli.streams import escape


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None, as_json: Json = False
) -> None:
    """Print the metadata of a model file."""
    from edge_mnist.model_file import check_contract, read_model

    file = read_model(find_command_model(model))
    metadata = dict(check_contract(file).metadata)
    known = {"path": str(file.path), "sha256": file.sha256, "size_bytes": file.size_bytes}
    if as_json:
        parsed = {key: _parse(value) for key, value in metadata.items()}
        print_json({"schema_version": 1, **known, "metadata": parsed})
        return
    width = max(map(len, (*known, *metadata)))
    for key, value in (known | metadata).items():
        print(escape(f"{key:{width}}  {value}"))


def _parse(value: str) -> object:
    """Read a metadata value that is JSON; the others are text."""
    try:
        return json.loads(value)
    except ValueError:
        return value
