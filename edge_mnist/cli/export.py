"""The command ``export``."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.cli.app import DataDir, Json, TestedOn, app, carry_options, print_json
from edge_mnist.exporting.targets import TARGETS, export_to

SOURCE_HELP = (
    "Checkpoint or run folder [default: newest run]; for web, triton and c a model file or folder "
    "[default: the model that predict uses]."
)
TARGET_NAMES = [target.name for target in TARGETS]
TARGET_HELP = "; ".join(f"{target.name}: {target.writes}" for target in TARGETS) + "."
FOLDER_HELP = f"Folder. [default: {', '.join(target.folder for target in TARGETS)}]"


@app.command()
def export(
    source: Annotated[str | None, typer.Argument(help=SOURCE_HELP)] = None,
    target: Annotated[
        str,
        typer.Option(
            help=TARGET_HELP,
            metavar="|".join(TARGET_NAMES),
            autocompletion=lambda: TARGET_NAMES,
        ),
    ] = "onnx",
    quantize: Annotated[
        bool | None, typer.Option("--quantize", help="Write an int8 file too.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=FOLDER_HELP)] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that no export wrote.")
    ] = False,
    max_accuracy_lost: Annotated[
        float | None, typer.Option(help="Share of accuracy that int8 may lose. [default: 0.001]")
    ] = None,
    dataset: TestedOn = None,
    optimize: Annotated[
        str | None, typer.Option(help="For c: size or speed. [default: size]")
    ] = None,
    data_dir: DataDir = None,
    offline: Annotated[
        bool | None, typer.Option("--offline", help="Never download anything.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a checkpoint to ONNX, validated before it is written; or a model to be served."""
    result = export_to(
        target,
        source,
        output,
        overwrite=overwrite,
        quantize=quantize,
        max_accuracy_lost=max_accuracy_lost,
        dataset=dataset,
        optimize=optimize,
        data_dir=data_dir,
        offline=offline,
    )
    if as_json:
        print_json(dataclasses.asdict(result))  # type: ignore[call-overload]
    else:
        print(result.to_text())
        # What is said to validate has to hold for what was exported: the same limit, the same data.
        validates = result.next_command.startswith("edge-mnist validate")
        carried = carry_options(
            max_accuracy_lost=max_accuracy_lost, data_dir=data_dir, offline=offline
        )
        print(f"next: {result.next_command}{carried if validates else ''}", file=sys.stderr)
