"""Commands that measure: validate, bench, doctor."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.commands.app import (
    MODEL_HELP,
    DataDir,
    Json,
    MaxAccuracyLost,
    Offline,
    Provider,
    app,
    need,
    print_json,
)
from edge_mnist.errors import UsageError


@app.command()
def validate(
    models: Annotated[list[Path] | None, typer.Argument(help=MODEL_HELP)] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Checkpoint, or 'reference' for the reference.npz beside the model."),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Golden images only: no torch, no data.")
    ] = False,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Fifteen corruptions too; takes a minute.")
    ] = False,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for pictures of the mistakes and more.")
    ] = None,
    atol: Annotated[float, typer.Option(help="Largest difference of float32 logits.")] = 1e-3,
    max_accuracy_lost: MaxAccuracyLost = 0.001,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Put model files through the gate; exit 1 if one misses a limit."""
    if plots and self_test:
        raise UsageError("--plots draws the test set; it has no place in a --self-test")
    if plots:
        need("matplotlib", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.modelfile import find_models
    from edge_mnist.validation.gate import Limits
    from edge_mnist.validation.validate import load_test_data, validate

    paths = find_models(models)
    dataset = None if self_test else load_test_data(paths, data_dir=data_dir, offline=offline)
    limits = Limits(atol=atol, accuracy_lost=max_accuracy_lost)
    report = validate(
        paths, dataset=dataset, against=against, limits=limits, with_robustness=robustness
    )
    if plots and dataset:
        from edge_mnist.plots.subjects import plot_tests

        pictures = plot_tests(paths, dataset, folder=plots)
        terminal.say(f"{len(pictures.paths)} pictures in {plots}")
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        terminal.print_validation(report)
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def bench(
    models: Annotated[list[Path] | None, typer.Argument(help=MODEL_HELP)] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="Any other image classifier's .onnx file; repeat.")
    ] = None,
    provider: Provider = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads for one image.")] = 1,
    batch_sizes: Annotated[
        str, typer.Option("--batch-size", help="Batch sizes for throughput, with commas.")
    ] = "1,8,64,256",
    no_torch: Annotated[bool, typer.Option("--no-torch", help="Leave PyTorch out.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a PNG file.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="An earlier --json report; exit 1 if it was better.")
    ] = None,
    max_regression: Annotated[
        str, typer.Option(help="How much worse --compare lets a number get.")
    ] = "10%",
    as_json: Json = False,
) -> None:
    """Measure latency, throughput, start, memory and bytes; say which file to use here."""
    if plot:
        need("matplotlib", "edge-mnist[train]")
    from edge_mnist.atomic import write_atomically
    from edge_mnist.bench import regression
    from edge_mnist.bench.benchmark import run_benchmark

    base = regression.read_report(compare) if compare else None
    share = regression.parse_share(max_regression)
    report = run_benchmark(
        models,
        against=against or (),
        provider=provider or "auto",
        threads=threads,
        batch_sizes=_parse_sizes(batch_sizes),
        with_torch=not no_torch,
    )
    worse = regression.compare_reports(base, report, max_regression=share) if base else None
    if plot:
        from edge_mnist.plots.benchmark import plot_benchmark

        write_atomically(plot, plot_benchmark(report))
    if as_json:
        print_json(regression.to_json(report, worse))
    else:
        from edge_mnist import terminal

        terminal.print_benchmark(report, worse)
    raise typer.Exit(1 if worse else 0)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: what is installed, what runs, what mends it; exit 1 if wrong."""
    from edge_mnist.doctor import examine

    diagnosis = examine()
    if as_json:
        print_json(dataclasses.asdict(diagnosis))
    else:
        for finding in diagnosis.findings:
            print(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.name}: {finding.text}")
            if finding.mend:
                print(f"       mend: {finding.mend}")
    raise typer.Exit(0 if diagnosis.ok else 1)


def _parse_sizes(text: str) -> list[int]:
    sizes = [part.strip() for part in text.split(",")]
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise UsageError(f"--batch-size {text}: want whole numbers with commas between")
    return [int(size) for size in sizes]
