"""The command ``export``: a checkpoint becomes model files, or a model goes where it is served."""

import dataclasses
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_mnist.cli.app import (
    DataDir,
    Json,
    MaxAccuracyLost,
    Offline,
    app,
    need,
    print_json,
)
from edge_mnist.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_mnist.export.onnx import ExportResult
    from edge_mnist.export.triton import TritonModel


SOURCE_HELP = (
    "Checkpoint or run folder [default: newest run]; for web and triton a model file or folder "
    "[default: what predict uses]."
)
TARGET_HELP = "files; web: a page for any static host; triton: a repository for NVIDIA Triton."


@dataclass(frozen=True)
class _Options:
    """What a checkpoint is exported with."""

    quantize: bool
    overwrite: bool
    max_accuracy_lost: float
    data_dir: Path | None
    offline: bool


@app.command()
def export(
    source: Annotated[Path | None, typer.Argument(help=SOURCE_HELP)] = None,
    target: Annotated[str, typer.Option(help=TARGET_HELP)] = "files",
    quantize: Annotated[bool, typer.Option("--quantize", help="Write an int8 file too.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder. [default: exports, web or triton]"),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that no export wrote.")
    ] = False,
    max_accuracy_lost: MaxAccuracyLost = 0.001,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to ONNX, proven before it is written; or a model to be served."""
    options = _Options(quantize, overwrite, max_accuracy_lost, data_dir, offline)
    if target == "files":
        _print_files(_export_files(source, output or Path("exports"), options), as_json=as_json)
    elif target == "web":
        _export_web(source, output or Path("web"), options, as_json=as_json)
    elif target == "triton":
        folder = output or Path("triton")
        _print_triton(_export_triton(source, folder, options), folder, as_json=as_json)
    else:
        raise UsageError(f"no target named {target!r}; there are: files, web, triton")


def _export_files(source: Path | None, folder: Path, options: _Options) -> "ExportResult":
    """Export a checkpoint through the gate."""
    need("torch", "edge-mnist[train]")
    need("onnx", "edge-mnist[train]")
    from edge_mnist.export.onnx import export
    from edge_mnist.training.checkpoint import load_checkpoint
    from edge_mnist.training.data import load_dataset
    from edge_mnist.training.run import find_checkpoint
    from edge_mnist.validation.gate import Limits

    path = find_checkpoint(source)
    name = load_checkpoint(path).recipe.dataset
    return export(
        path,
        load_dataset(name, data_dir=options.data_dir, offline=options.offline),
        folder=folder,
        quantize=options.quantize,
        limits=Limits(accuracy_lost=options.max_accuracy_lost),
        overwrite=options.overwrite,
        command="edge-mnist export" + " --quantize" * options.quantize,
    )


def _print_files(result: "ExportResult", *, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(result))
        return
    from edge_mnist.cli import rendering

    rendering.print_export(result)


def _export_web(model: Path | None, folder: Path, options: _Options, *, as_json: bool) -> None:
    """Write a page; this needs neither torch nor onnx."""
    from edge_mnist.export.web import export_web

    if options.quantize:
        raise UsageError("--quantize is for checkpoints; --target web takes a model file")
    result = export_web(model, folder, offline=options.offline, overwrite=options.overwrite)
    if as_json:
        print_json(dataclasses.asdict(result))
        return
    size = f"{result.files} files, {result.size_bytes:,} bytes"
    print(f"{result.folder}: {size}, with {result.model}")
    print(f"see it: python3 -m http.server -d {result.folder} -b 127.0.0.1 8000", file=sys.stderr)


def _export_triton(source: Path | None, repository: Path, options: _Options) -> "list[TritonModel]":
    """Write exported models to a repository; a checkpoint goes through the gate first."""
    from edge_mnist.export.triton import export_triton, is_checkpoint
    from edge_mnist.model_file import find_model, find_models

    if source and is_checkpoint(source):
        with tempfile.TemporaryDirectory() as name:
            _export_files(source, Path(name), dataclasses.replace(options, overwrite=False))
            paths = find_models([Path(name)])
            return [export_triton(path, repository, overwrite=options.overwrite) for path in paths]
    paths = find_models([source]) if source else [find_model()]
    if options.quantize:
        raise UsageError(f"--quantize needs a checkpoint, and {paths[0]} is exported already")
    return [export_triton(path, repository, overwrite=options.overwrite) for path in paths]


def _print_triton(models: "Sequence[TritonModel]", repository: Path, *, as_json: bool) -> None:
    if as_json:
        listed = [dataclasses.asdict(model) for model in models]
        print_json({"schema_version": 1, "repository": str(repository), "models": listed})
        return
    for model in models:
        print(f"{model.folder}: {', '.join(model.files)}, from {model.source}")
    print(f"next: tritonserver --model-repository {repository.resolve()}", file=sys.stderr)
