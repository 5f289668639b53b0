"""Commands that use a model: predict."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.commands.app import MODEL_HELP, Json, Provider, app
from edge_mnist.errors import UsageError


@app.command()
def predict(
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders with -r, - for stdin.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Read the pictures in folders.")
    ] = False,
    provider: Provider = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads for one image. [env: EDGE_MNIST_THREADS]")
    ] = None,
    accept_all: Annotated[
        bool, typer.Option("--accept-all", help="Answer whatever the picture shows.")
    ] = False,
    top_k: Annotated[int | None, typer.Option(min=1, help="List the K likeliest classes.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Draw what the model saw.")] = False,
    save_seen: Annotated[
        Path | None, typer.Option(help="Folder for what the model saw, as PNG files.")
    ] = None,
    as_json: Json = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print one JSON object a line on stdout.")
    ] = False,
) -> None:
    """Read the digit in each picture; exit 1 if some were rejected or could not be read."""
    from edge_mnist.items import predict_paths
    from edge_mnist.predictor import Predictor
    from edge_mnist.printing import Style, print_items

    if as_json and as_jsonl:
        raise UsageError("--json and --jsonl exclude each other")
    predictor = Predictor(model, provider, threads, accept_all=accept_all)
    stdin = sys.stdin.buffer if sys.stdin else None
    items = predict_paths(predictor, pictures, recursive=recursive, stdin=stdin)
    kind = "json" if as_json else "jsonl" if as_jsonl else "table"
    all_ok = print_items(predictor, items, Style(kind, top_k, show, save_seen))
    raise typer.Exit(0 if all_ok else 1)
