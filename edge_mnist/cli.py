"""The command ``edge-mnist``.

Heavy imports stand inside the command that needs them, so that ``--help`` and ``predict`` are
quick.
"""

# Each of these puts its commands into the app.
from edge_mnist.commands import draw, export, make, measure, serve, tell, use
from edge_mnist.commands.app import app

__all__ = ["draw", "export", "main", "make", "measure", "serve", "tell", "use"]


def main() -> None:
    """Run the command ``edge-mnist``."""
    app()
