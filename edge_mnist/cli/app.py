"""The app, and the options that several commands share."""

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from edge_mnist.errors import UsageError

app = typer.Typer(
    name="edge-mnist",
    help="From handwritten digits to a model that runs at the edge.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

TestedOn = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Data set to test on, by name or a folder. [default: the training's]",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder with the data set's files. [env: EDGE_MNIST_DATA]")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never download anything.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
MaxAccuracyLost = Annotated[float, typer.Option(help="Share of accuracy that int8 may lose.")]
PROVIDER_NAMES = ("auto", "cpu", "cuda")
Provider = Annotated[
    str | None,
    typer.Option(
        help="Where the model runs. [default: auto]",
        metavar="|".join(PROVIDER_NAMES),
        autocompletion=lambda: [*PROVIDER_NAMES],
        envvar="EDGE_MNIST_PROVIDER",
        show_default=False,
    ),
]
MODEL_HELP = (
    "Model file, or folder written by export. [env: EDGE_MNIST_MODEL] "
    "[default: ./exports, else the shipped model]"
)


def _print_version(requested: bool) -> None:
    if requested:
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


class Command(TyperCommand):
    """A command of this package: refuses values that are empty, as from a variable that is not set.

    ``--model ""`` would otherwise count as not given, and ``--output ""`` as the working folder.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse the command line.

        Raises:
            UsageError: A value is empty.
        """
        if ctx.resilient_parsing:  # completing an unfinished line
            return super().parse_args(ctx, args)
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.get_params(ctx):
            values = given.get(param.name or "")
            if param.name == "pictures":  # an empty one is its own error, and the rest is read
                continue
            if "" in (values if isinstance(values, list | tuple) else (values,)):
                raise UsageError(f"{param.opts[0]}: expected a value, got an empty one")
        return super().parse_args(ctx, args)


def find_command_model(name: str | None) -> Path:
    """Return the model file that a command uses: unlike the library, it looks into ./exports."""
    from edge_mnist.model_file import find_model

    return find_model(name, prefer_exports=True)


def carry_options(**options: object) -> str:
    """Return options as they have to be repeated on the next command line; those not given are not.

    Args:
        options: The value of each by its name with underscores; None and False are not given.
    """
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    words = [
        f" {name}" if value is True else f" {name} {shlex.quote(str(value))}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    return "".join(words)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a result on stdout; a number that is not finite as null, as JSON has no such numbers.

    Args:
        value: Dictionaries, lists, tuples, texts and numbers.
        indent: Of each level; None for one line.
    """
    print(json.dumps(_drop_not_finite(value), indent=indent, allow_nan=False))


def _drop_not_finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _drop_not_finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_drop_not_finite(one) for one in value]
    return value
