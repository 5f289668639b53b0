"""The command ``export``."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_mnist.cli.app import DataDir, Json, TestedOn, app, carry_options, print_json
from edge_mnist.errors import ConventionError
from edge_mnist.exporting.targets import TARGETS, export_to

SOURCE_HELP = (
    "Checkpoint or run folder [default: newest run]; somebody else's network: net.py:Net, "
    "package.module:Net, .onnx, .pt2, TorchScript; for web, triton and c a model file or folder "
    "[default: the model that predict uses]."
)
LAYOUT_HELP = (
    "Form of one image in the network's input, such as 1x28x28, 28x28x1, 784, 1x32x32-padded or "
    "3x32x32-resized. [default: measured]"
)
SCALE_HELP = (
    "0..1, 0..255, -1..1, -0.5..0.5, mnist (mean 0.1307, std 0.3081), imagenet, imagenet-gray or "
    "imagenet-red. [default: measured]"
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
        float | None,
        typer.Option(
            help="Share of accuracy that int8 may lose; needs --quantize. [default: 0.001]"
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="State_dict of net.py:Net: .pt, .pth or .safetensors.")
    ] = None,
    network_args: Annotated[
        str | None, typer.Option(help="""Keyword arguments of net.py:Net: '{"hidden": 128}'.""")
    ] = None,
    trust_pickle: Annotated[
        bool | None,
        typer.Option("--trust-pickle", help="Open a pickled module, which may run any code."),
    ] = None,
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    input_scale: Annotated[str | None, typer.Option(help=SCALE_HELP)] = None,
    mean: Annotated[
        float | None, typer.Option(help="Mean of pixels in 0..1. [default: measured]")
    ] = None,
    std: Annotated[
        float | None, typer.Option(help="Standard deviation of them. [default: measured]")
    ] = None,
    invert: Annotated[
        bool | None,
        typer.Option("--invert/--no-invert", help="Black ink on white. [default: measured]"),
    ] = None,
    force: Annotated[
        bool | None,
        typer.Option("--force", help="Take what is stated, whatever the measurement says."),
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
    """Export a network to ONNX, validated before it is written; or a model to be served.

    The input that somebody else's network expects is measured on training images.
    """
    try:
        result = export_to(
            target,
            source,
            output,
            overwrite=overwrite,
            quantize=quantize,
            max_accuracy_lost=max_accuracy_lost,
            dataset=dataset,
            optimize=optimize,
            weights=weights,
            network_args=network_args,
            trust_pickle=trust_pickle,
            layout=layout,
            input_scale=input_scale,
            mean=mean,
            std=std,
            inverted=invert,
            force=force,
            data_dir=data_dir,
            offline=offline,
        )
    except ConventionError as error:
        print(error.table, file=sys.stderr)
        raise
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
