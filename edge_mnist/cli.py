"""The command: parse, call one library function, render, exit code. Nothing else.

Heavy imports stand inside the command that needs them, so that ``--help`` and ``predict`` are
quick.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edge_mnist.errors import EdgeMnistError, MissingPackageError, UsageError


class _Group(TyperGroup):
    """Turns the errors a user can cause into one line and an exit code, in one place."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; a reader that closed the pipe is no error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except EdgeMnistError as error:
            print(f"edge-mnist: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError as error:
            sys.stdout = None  # else Python flushes it once more
            raise typer.Exit(0) from error
        return result


app = typer.Typer(
    name="edge-mnist",
    cls=_Group,
    help="From handwritten digits to a model that runs at the edge.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None, typer.Option(help="Folder with MNIST's four files. [env: EDGE_MNIST_DATA]")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
MODEL_HELP = (
    "Model file, or folder written by export. [env: EDGE_MNIST_MODEL] "
    "[default: ./exports, else the shipped model]"
)


def main() -> None:
    """Run the command ``edge-mnist``."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"edge-mnist {version('edge-mnist')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """From handwritten digits to a model that runs at the edge."""


@app.command()
def train(
    recipe: Annotated[str | None, typer.Option(help="Preset. [default: default]")] = None,
    dataset: Annotated[str | None, typer.Option(help="mnist or digits.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training split.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/RECIPE]")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out, or the newest unfinished run.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start --out anew.")] = False,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network; writes a run folder."""
    _need("torch", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.training.data import load_dataset
    from edge_mnist.training.loop import pick_device
    from edge_mnist.training.run import plan_run, train

    changes = {"dataset": dataset, "epochs": epochs, "seed": seed}
    plan, folder = plan_run(recipe, changes, folder=out, resume=resume, overwrite=overwrite)
    with terminal.training_bar(quiet=quiet) as report:
        result = train(
            plan,
            load_dataset(plan.dataset, data_dir=data_dir, offline=offline),
            folder=folder,
            device=pick_device(device),
            resume=resume,
            report=report,
        )
    if as_json:
        _print_json(dataclasses.asdict(result))
    else:
        terminal.print_run(result)


@app.command()
def export(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint or run folder. [default: newest run]")
    ] = None,
    quantize: Annotated[bool, typer.Option("--quantize", help="Write an int8 file too.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("exports"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that no export wrote.")
    ] = False,
    max_accuracy_lost: Annotated[
        float, typer.Option(help="Share of accuracy that int8 may lose.")
    ] = 0.001,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to ONNX, proven before it is written."""
    _need("torch", "edge-mnist[train]")
    _need("onnx", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.export.release import export
    from edge_mnist.gate import Limits
    from edge_mnist.training.checkpoint import load_checkpoint
    from edge_mnist.training.data import load_dataset
    from edge_mnist.training.run import find_checkpoint

    path = find_checkpoint(checkpoint)
    result = export(
        path,
        load_dataset(load_checkpoint(path).recipe.dataset, data_dir=data_dir, offline=offline),
        folder=output,
        quantize=quantize,
        limits=Limits(accuracy_lost=max_accuracy_lost),
        overwrite=overwrite,
        command="edge-mnist export" + " --quantize" * quantize,
    )
    if as_json:
        _print_json(dataclasses.asdict(result))
    else:
        terminal.print_export(result)


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
    atol: Annotated[float, typer.Option(help="Largest difference of float32 logits.")] = 1e-3,
    max_accuracy_lost: Annotated[
        float, typer.Option(help="Share of accuracy that int8 may lose.")
    ] = 0.001,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Put model files through the gate; exit 1 if one misses a limit."""
    from edge_mnist.gate import Limits
    from edge_mnist.validation import find_models, load_test_data, validate

    paths = find_models(models)
    dataset = None if self_test else load_test_data(paths, data_dir=data_dir, offline=offline)
    limits = Limits(atol=atol, accuracy_lost=max_accuracy_lost)
    report = validate(paths, dataset=dataset, against=against, limits=limits)
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        from edge_mnist import terminal

        terminal.print_validation(report)
    raise typer.Exit(0 if report.passed else 1)


@app.command()
def predict(
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders with -r, - for stdin.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Read the pictures in folders.")
    ] = False,
    provider: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda. [env: EDGE_MNIST_PROVIDER]")
    ] = None,
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


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: what is installed, what runs, what mends it; exit 1 if wrong."""
    from edge_mnist.doctor import examine

    diagnosis = examine()
    if as_json:
        _print_json(dataclasses.asdict(diagnosis))
    else:
        for finding in diagnosis.findings:
            print(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.name}: {finding.text}")
            if finding.mend:
                print(f"       mend: {finding.mend}")
    raise typer.Exit(0 if diagnosis.ok else 1)


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = Path("quickstart"),
    data_dir: DataDir = None,
    offline: Offline = False,
) -> None:
    """Train, export, quantise, validate and predict, in one go of about two minutes."""
    _need("torch", "edge-mnist[train]")
    from edge_mnist import terminal
    from edge_mnist.quickstart import run_quickstart

    with terminal.training_bar(quiet=False) as report:
        result = run_quickstart(
            output, data_dir=data_dir, offline=offline, say=terminal.say, report=report
        )
    terminal.print_quickstart(result)
    raise typer.Exit(0 if result.validation.passed else 1)


def _need(module: str, install: str) -> None:
    """Stop early, with the way out, where an optional part is missing."""
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise MissingPackageError(f"this command needs {module}; install '{install}'")


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
