"""The command ``bench``."""

from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.cli.app import (
    MODEL_HELP,
    Json,
    Provider,
    app,
    print_json,
)
from edge_mnist.errors import UsageError
from edge_mnist.machine import require_package


@app.command()
def bench(
    models: Annotated[list[str] | None, typer.Argument(help=MODEL_HELP)] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="Any other image classifier's .onnx file; repeat.")
    ] = None,
    provider: Provider = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads for one image. [env: EDGE_MNIST_THREADS]")
    ] = None,
    batch_sizes: Annotated[
        str, typer.Option("--batch-size", help="Batch sizes for throughput, with commas.")
    ] = "1,8,64,256",
    no_torch: Annotated[bool, typer.Option("--no-torch", help="Leave PyTorch out.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a PNG file.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="An earlier --json report; exit 1 if it was better.")
    ] = None,
    max_regression: Annotated[
        str | None,
        typer.Option(help="How much worse --compare lets a number get. [default: 10%]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure latency, throughput, start, memory and bytes; recommend a file for this machine."""
    if plot:
        require_package("matplotlib", "train")
    from edge_mnist.files import check_writable, write_atomically
    from edge_mnist.model_file import find_models
    from edge_mnist.validation import benchmark

    if max_regression and not compare:
        raise UsageError("--max-regression has no effect without --compare")
    base = benchmark.read_report(compare) if compare else None
    share = benchmark.parse_share(max_regression or "10%")
    if plot:
        check_writable(plot)
    report = benchmark.bench(
        find_models(models, prefer_exports=True),
        against=against or (),
        provider=provider or "auto",
        threads=threads,
        batch_sizes=_parse_sizes(batch_sizes),
        with_torch=not no_torch,
    )
    worse = benchmark.compare_reports(base, report, max_regression=share) if base else None
    if plot:
        from edge_mnist.plots.charts import plot_benchmark

        write_atomically(plot, plot_benchmark(report))
    if as_json:
        print_json(benchmark.to_json(report, worse))
    else:
        from edge_mnist.cli import rendering

        rendering.print_benchmark(report, worse)
    raise typer.Exit(1 if worse else 0)


def _parse_sizes(text: str) -> list[int]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise UsageError(f"--batch-size {text}: expected whole numbers separated by commas")
    return [int(size) for size in sizes]
