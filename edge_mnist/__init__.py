"""From handwritten digits to a model that runs at the edge.

    from edge_mnist import load_dataset, train, export, validate, Predictor

Importing this package takes milliseconds: each name is loaded when it is first used, and only
training and exporting import PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from edge_mnist.errors import (
    ClusterError,
    ConventionError,
    DataError,
    EdgeMnistError,
    GateError,
    MissingPackageError,
    ModelError,
    OutputError,
    PictureError,
    ProviderError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from edge_mnist.exporting.c import CResult, export_c
    from edge_mnist.exporting.convention import MeasuredConvention, PixelConvention, Statement
    from edge_mnist.exporting.onnx import ExportResult, export
    from edge_mnist.exporting.sources import Loading
    from edge_mnist.exporting.triton import TritonResult, export_triton
    from edge_mnist.exporting.web import WebResult, export_web
    from edge_mnist.predictor import Prediction, Predictor
    from edge_mnist.training.cross_validation import FoldsResult, cross_validate
    from edge_mnist.training.datasets import Dataset, load_dataset
    from edge_mnist.training.recipes import Recipe, find_recipe
    from edge_mnist.training.run import RunResult, TrainingRun, train
    from edge_mnist.training.trainer import Progress
    from edge_mnist.validation.benchmark import BenchReport, bench
    from edge_mnist.validation.c_code import CodeReport, validate_code
    from edge_mnist.validation.validate import Limits, ValidationReport, validate

    __version__: str

# Where each name is defined, and the extra that its module needs besides onnxruntime.
_MODULES = {
    "exporting.c": (("CResult", "export_c"), None),
    "exporting.convention": (("MeasuredConvention", "PixelConvention", "Statement"), None),
    "exporting.onnx": (("ExportResult", "export"), "onnx"),
    "exporting.sources": (("Loading",), "onnx"),
    "exporting.triton": (("TritonResult", "export_triton"), None),
    "exporting.web": (("WebResult", "export_web"), None),
    "predictor": (("Prediction", "Predictor"), None),
    "training.cross_validation": (("FoldsResult", "cross_validate"), "train"),
    "training.datasets": (("Dataset", "load_dataset"), None),
    "training.recipes": (("Recipe", "find_recipe"), None),
    "training.run": (("RunResult", "TrainingRun", "train"), "train"),
    "training.trainer": (("Progress",), "train"),
    "validation.benchmark": (("BenchReport", "bench"), None),
    "validation.c_code": (("CodeReport", "validate_code"), None),
    "validation.validate": (("Limits", "ValidationReport", "validate"), None),
}
_PACKAGES = {"train": "torch", "onnx": "onnx"}  # what an extra is recognised by
_NAMES = {name: (module, extra) for module, (names, extra) in _MODULES.items() for name in names}

__all__ = [
    "BenchReport",
    "CResult",
    "ClusterError",
    "CodeReport",
    "ConventionError",
    "DataError",
    "Dataset",
    "EdgeMnistError",
    "ExportResult",
    "FoldsResult",
    "GateError",
    "Limits",
    "Loading",
    "MeasuredConvention",
    "MissingPackageError",
    "ModelError",
    "OutputError",
    "PictureError",
    "PixelConvention",
    "Prediction",
    "Predictor",
    "Progress",
    "ProviderError",
    "Recipe",
    "RunResult",
    "Statement",
    "TrainingError",
    "TrainingRun",
    "TritonResult",
    "UsageError",
    "ValidationReport",
    "WebResult",
    "__version__",
    "bench",
    "cross_validate",
    "export",
    "export_c",
    "export_triton",
    "export_web",
    "find_recipe",
    "load_dataset",
    "train",
    "validate",
    "validate_code",
]


def __getattr__(name: str) -> Any:
    """Load a public name, or look up the version, when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("edge-mnist")
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, extra = _NAMES[name]
    if extra:
        from edge_mnist.machine import require_package

        require_package(_PACKAGES[extra], extra)
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """List the public names that can be loaded here, so that ``help()`` works without PyTorch."""
    from importlib.util import find_spec

    found = {extra for extra, package in _PACKAGES.items() if find_spec(package)} | {None}
    return [name for name in __all__ if _NAMES.get(name, ("", None))[1] in found]
