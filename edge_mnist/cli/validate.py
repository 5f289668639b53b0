"""The command ``validate``."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from edge_mnist.cli.app import (
    MODEL_HELP,
    DataDir,
    Json,
    MaxAccuracyLost,
    Offline,
    TestedOn,
    app,
    print_json,
)
from edge_mnist.errors import UsageError
from edge_mnist.machine import require_package

ATOL, ACCURACY_LOST = 1e-3, 0.001


@app.command()
def validate(
    models: Annotated[list[str] | None, typer.Argument(help=MODEL_HELP)] = None,
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
    atol: Annotated[float, typer.Option(help="Largest difference of float32 logits.")] = ATOL,
    max_accuracy_lost: MaxAccuracyLost = ACCURACY_LOST,
    dataset: TestedOn = None,
    data_dir: DataDir = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Check model files against their reference; exit 1 if one misses a limit."""
    of_data = {"--plots": plots, "--dataset": dataset, "--data-dir": data_dir, "--offline": offline}
    if self_test:
        limit = {"--max-accuracy-lost": max_accuracy_lost != ACCURACY_LOST}
        _refuse_options({**of_data, **limit}, "with --self-test, which uses golden images")
    from edge_mnist.cli import rendering
    from edge_mnist.files import check_folder
    from edge_mnist.model_file import find_models, read_model
    from edge_mnist.validation.c_code import is_code_folder
    from edge_mnist.validation.validate import Limits, load_test_data
    from edge_mnist.validation.validate import validate as validate_models

    folders = [name for name in models or [] if is_code_folder(name)]
    if folders:
        of_models = {
            "--against": against,
            "--robustness": robustness,
            "--plots": plots,
            "--dataset": dataset,
            "--atol": atol != ATOL,
            "--max-accuracy-lost": max_accuracy_lost != ACCURACY_LOST,
        }
        _refuse_options(of_models, "on C code, which has to be equal to its model")
        _validate_code(models or [], folders, self_test, data_dir, offline, as_json)
    if plots:
        require_package("matplotlib", "train")
        check_folder(plots)
    paths = find_models(models, prefer_exports=True)
    data = None
    if not self_test:
        data = load_test_data(
            map(read_model, paths), name=dataset, data_dir=data_dir, offline=offline
        )
    report = validate_models(
        paths,
        data,
        self_test=self_test,
        against=against,
        limits=Limits(atol=atol, accuracy_lost=max_accuracy_lost),
        robustness=robustness,
    )
    if plots and data:
        from edge_mnist.plots.plot import plot_tests

        pictures = plot_tests(paths, data, folder=plots)
        rendering.say(f"{len(pictures.paths)} pictures in {plots}")
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        rendering.print_validation(report)
    raise typer.Exit(0 if report.passed else 1)


def _refuse_options(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that were given and have no effect.

    Raises:
        UsageError: One of them is neither None nor false.
    """
    for option, value in options.items():
        if value:
            raise UsageError(f"{option} has no effect {reason}")


def _validate_code(
    names: list[str],
    folders: list[str],
    self_test: bool,
    data_dir: Path | None,
    offline: bool,
    as_json: bool,
) -> NoReturn:
    """Validate what ``export --target c`` wrote, and end the command."""
    from edge_mnist.validation.c_code import validate_code

    if len(folders) != len(names):
        raise UsageError("C code and model files are validated apart: name one kind")
    reports = [
        validate_code(folder, self_test=self_test, data_dir=data_dir, offline=offline)
        for folder in folders
    ]
    if as_json:
        reported = [dataclasses.asdict(report) for report in reports]
        print_json({"schema_version": reports[0].schema_version, "folders": reported})
    else:
        print("\n".join(report.to_text() for report in reports))
    raise typer.Exit(0 if all(report.passed for report in reports) else 1)
