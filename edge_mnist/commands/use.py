"""Commands that use a model: predict."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_mnist.commands.app import MODEL_HELP, Json, Provider, app, need
from edge_mnist.errors import UsageError

if TYPE_CHECKING:
    from edge_mnist.cluster.job import JobReport

Engine = Annotated[
    str, typer.Option(help="local, or ray: many pictures, on all cores or a Ray cluster.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for ray's answers, Parquet files.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to use. [default: ray starts on this machine]")
]


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
    engine: Engine = "local",
    output: Output = None,
    address: Address = None,
) -> None:
    """Read the digit in each picture; exit 1 if some were rejected or could not be read."""
    from edge_mnist.items import predict_paths
    from edge_mnist.predictor import Predictor
    from edge_mnist.printing import Style, print_items, print_job

    if as_json and as_jsonl:
        raise UsageError("--json and --jsonl exclude each other")
    only_local = {"--jsonl": as_jsonl, "--top-k": top_k, "--show": show, "--save-seen": save_seen}
    if _is_ray(engine, only_local, {"--output": output, "--address": address}):
        settings = {"provider": provider, "threads": threads, "accept_all": accept_all}
        report = _predict_on_ray(pictures, output or Path(), model, settings, address=address)
        print_job(report, as_json=as_json)
        raise typer.Exit(0 if report.all_ok else 1)
    predictor = Predictor(model, provider, threads, accept_all=accept_all)
    stdin = sys.stdin.buffer if sys.stdin else None
    items = predict_paths(predictor, pictures, recursive=recursive, stdin=stdin)
    kind = "json" if as_json else "jsonl" if as_jsonl else "table"
    all_ok = print_items(predictor, items, Style(kind, top_k, show, save_seen))
    raise typer.Exit(0 if all_ok else 1)


def _is_ray(engine: str, only_local: Mapping[str, Any], only_ray: Mapping[str, Any]) -> bool:
    """Tell whether Ray is to work, and refuse options that have no meaning then."""
    if engine not in ("local", "ray"):
        raise UsageError(f"no engine named {engine!r}; there are: local, ray")
    foreign = only_local if engine == "ray" else only_ray
    given = [option for option, value in foreign.items() if value]
    if given:
        raise UsageError(f"{given[0]} has no meaning with --engine {engine}")
    if engine == "ray" and not only_ray["--output"]:
        raise UsageError("--engine ray needs --output, the folder for its Parquet files")
    return engine == "ray"


def _predict_on_ray(
    pictures: Sequence[str],
    output: Path,
    model: str | None,
    settings: Mapping[str, Any],
    *,
    address: str | None,
) -> "JobReport":
    need("ray", "edge-mnist[ray]")
    need("pyarrow", "edge-mnist[ray]")
    from edge_mnist.cluster.job import run_job
    from edge_mnist.cluster.worker import Settings
    from edge_mnist.modelfile import find_model, read_model
    from edge_mnist.printing import print_progress

    file, how = read_model(find_model(model)), Settings(**settings)
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of lost workers on stdout
        return run_job(pictures, output, file, how, address=address, report=print_progress)
