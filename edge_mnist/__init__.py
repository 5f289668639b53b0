"""From handwritten digits to a model that runs at the edge.

Importing this package costs milliseconds: everything behind the door is loaded at first use.
"""

from typing import TYPE_CHECKING, Any

from edge_mnist.errors import (
    DataError,
    EdgeMnistError,
    MissingPackageError,
    ModelError,
    OutputError,
    PictureError,
    ProviderError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from edge_mnist.predictor import Prediction, Predictor

__all__ = [
    "DataError",
    "EdgeMnistError",
    "MissingPackageError",
    "ModelError",
    "OutputError",
    "PictureError",
    "Prediction",
    "Predictor",
    "ProviderError",
    "TrainingError",
    "UsageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load the predictor, or look up the version, when first asked for."""
    if name in ("Prediction", "Predictor"):
        from edge_mnist import predictor

        return getattr(predictor, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("edge-mnist")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
