"""The command ``edge-mnist``: one module for each command, named after it.

A new command is one more module here: every module of this package is imported, and each adds its
command to the app. Heavy imports stand inside the functions, so that ``--help`` and ``predict``
start quickly.
"""

import importlib
import pkgutil

from edge_mnist.cli.app import app
from edge_mnist.machine import passive_waiting

__all__ = ["main"]


def main() -> None:
    """Run the command ``edge-mnist``."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in ("app", "rendering"):
            importlib.import_module(f"{__name__}.{module.name}")
    with passive_waiting():
        app()
