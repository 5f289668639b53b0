"""The command ``edge-mnist``: one module for each command, named after it.

A new command is one more module here: every module of this package is imported, and each adds its
command to the app. Heavy imports stand inside the functions, so that ``--help`` and ``predict``
start quickly.
"""

import importlib
import pkgutil
import sys

from edge_mnist.cli.app import Command, app
from edge_mnist.cli.streams import escape, prepare_streams
from edge_mnist.errors import EdgeMnistError
from edge_mnist.machine import passive_waiting

__all__ = ["load_commands", "main"]


def load_commands() -> None:
    """Import the module of each command, which adds it to the app."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in ("app", "rendering", "streams"):
            importlib.import_module(f"{__name__}.{module.name}")
    for command in app.registered_commands:
        command.cls = Command


def main() -> None:
    """Run the command ``edge-mnist``; an error that a user can cause is a line and an exit code."""
    prepare_streams()
    load_commands()
    try:
        try:
            with passive_waiting():
                app()
        finally:
            sys.stdout.flush()
    except EdgeMnistError as error:
        print(f"edge-mnist: {escape(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
