"""Validation: does a model keep the contract, agree with its reference, and lose no accuracy?

Runs without torch on a device; torch is used only where a checkpoint is the reference.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ProviderError, UsageError
from edge_mnist.model_file import FLOAT32_NAME
from edge_mnist.predictor import Predictor
from edge_mnist.validation.gate import (
    Check,
    Limits,
    check_accuracy_lost,
    check_batchmates,
    check_parity,
    check_weights,
    find_reference,
)
from edge_mnist.validation.robustness import Robustness, measure_robustness
from edge_mnist.validation.timing import Latency, measure_latencies, one_image

if TYPE_CHECKING:
    from edge_mnist.training.dataset import Dataset

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Accuracy:
    """How well the test images are read.

    Attributes:
        n_images: Images in the test set.
        accuracy: Share read right.
        by_class: That share for each class.
        calibration_error: Expected calibration error: how far confidence lies from accuracy.
        rejected: Share that the rejection threshold refuses; ``accuracy`` counts them all.
    """

    n_images: int
    accuracy: float
    by_class: dict[str, float]
    calibration_error: float
    rejected: float


@dataclass(frozen=True)
class Float32Comparison:
    """An int8 model beside the float32 file of the same weights.

    Attributes:
        accuracy_lost: Accuracy of float32 less that of int8, a fraction; None without data.
        labels_changed: Test images whose predicted label differs; None without data.
        size_ratio: Bytes of int8 over bytes of float32.
        p50_ratio: Median latency of int8 over that of float32, timed in turns.
    """

    accuracy_lost: float | None
    labels_changed: int | None
    size_ratio: float
    p50_ratio: float


@dataclass(frozen=True)
class ModelReport:
    """All that was found out about one model file; ``passed`` if every check did."""

    path: str
    sha256: str
    size_bytes: int
    quantization: str
    providers: tuple[str, ...]
    reference: str
    checks: tuple[Check, ...]
    accuracy: Accuracy | None
    robustness: Robustness | None
    latency: Latency
    against_float32: Float32Comparison | None
    passed: bool


@dataclass(frozen=True)
class ValidationReport:
    """The reports of one validation."""

    models: tuple[ModelReport, ...]
    passed: bool
    schema_version: int = SCHEMA_VERSION


def validate(
    paths: Sequence[Path],
    *,
    dataset: "Dataset | None",
    against: str | Path | None = None,
    limits: Limits | None = None,
    with_robustness: bool = False,
) -> ValidationReport:
    """Put model files through the gate.

    Args:
        paths: Model files.
        dataset: Its test part measures accuracy and, against a checkpoint, parity. None for a
            self-test on the golden images alone.
        against: A checkpoint file, or ``reference`` for the reference.npz beside each model.
            None takes the checkpoint beside the model where torch is installed, else the latter.
        limits: What may be missed.
        with_robustness: Measure accuracy on corrupted test images too; takes a minute.

    Raises:
        ModelError: A model is missing, broken or breaks the contract; so is its reference.
        UsageError: A checkpoint was given, but no data set.
    """
    if with_robustness and not dataset:
        raise UsageError("robustness is measured on the test set; it has no place in a self-test")
    wear = _measure_robustness(paths, dataset) if with_robustness else {}
    reports = tuple(
        _validate_model(path, dataset, against, limits or Limits(), wear.get(path))
        for path in paths
    )
    return ValidationReport(reports, passed=all(report.passed for report in reports))


def load_test_data(paths: Sequence[Path], *, data_dir: Path | None, offline: bool) -> "Dataset":
    """Load the data set that models say they were trained on.

    Raises:
        UsageError: They were trained on different ones, or do not say on which.
        DataError: It cannot be had.
    """
    from edge_mnist.training.data import load_dataset

    names = {Predictor(path, provider="cpu").info.metadata.get("dataset", "") for path in paths}
    if len(names) > 1:
        raise UsageError(f"the models are of different data sets: {', '.join(sorted(names))}")
    if "" in names:
        raise UsageError("a model does not say what it was trained on; only --self-test can help")
    return load_dataset(names.pop(), data_dir=data_dir, offline=offline)


def _validate_model(
    path: Path,
    dataset: "Dataset | None",
    against: str | Path | None,
    limits: Limits,
    robustness: Robustness | None,
) -> ModelReport:
    predictors = open_on_each_provider(path)
    first = predictors[0]
    reference = find_reference(first, dataset, against)
    checks: list[Check] = []
    for predictor in predictors:
        checks += check_parity(predictor, reference, limits)
        checks.append(check_batchmates(predictor, reference.images))
    comparison = compare_with_float32(first, dataset)
    if comparison and comparison.accuracy_lost is not None and dataset:
        n_images = len(dataset.test_labels)
        checks.append(check_accuracy_lost(comparison.accuracy_lost, n_images, limits))
    return ModelReport(
        path=str(path),
        sha256=first.model.sha256,
        size_bytes=first.model.size_bytes,
        quantization=first.info.quantization,
        providers=tuple(predictor.provider for predictor in predictors),
        reference=reference.name,
        checks=tuple(checks),
        accuracy=measure_accuracy(first, dataset) if dataset else None,
        robustness=robustness,
        latency=measure_latencies({"model": one_image(first.session)})["model"],
        against_float32=comparison,
        passed=all(check.passed for check in checks),
    )


def _measure_robustness(paths: Sequence[Path], dataset: "Dataset | None") -> dict[Path, Robustness]:
    assert dataset is not None
    predictors = [Predictor(path, provider="cpu") for path in paths]
    found = measure_robustness(predictors, dataset.test_images, dataset.test_labels)
    return dict(zip(paths, found, strict=True))


def compare_with_float32(
    predictor: Predictor, dataset: "Dataset | None"
) -> Float32Comparison | None:
    """Compare an int8 model with the float32 file beside it; None if there is nothing to compare.

    Raises:
        ModelError: The float32 file is of other weights.
    """
    sibling = predictor.model.path.with_name(FLOAT32_NAME)
    if predictor.info.quantization == "none" or not sibling.is_file():
        return None
    float32 = Predictor(sibling, provider="cpu")
    check_weights(predictor, float32.info.metadata.get("weights_sha256", ""), sibling)
    latencies = measure_latencies(
        {"int8": one_image(predictor.session), "float32": one_image(float32.session)}
    )
    lost, changed = None, None
    if dataset:
        old, new = (one.predict_images(dataset.test_images)[0] for one in (float32, predictor))
        n_lost = int((old == dataset.test_labels).sum() - (new == dataset.test_labels).sum())
        lost, changed = n_lost / len(old), int((old != new).sum())
    return Float32Comparison(
        accuracy_lost=lost,
        labels_changed=changed,
        size_ratio=predictor.model.size_bytes / float32.model.size_bytes,
        p50_ratio=latencies["int8"].p50_us / latencies["float32"].p50_us,
    )


def open_on_each_provider(path: Path) -> list[Predictor]:
    """Open a model on every provider that really runs here, the CPU first."""
    predictors = [Predictor(path, provider="cpu")]
    with contextlib.suppress(ProviderError):  # the report names the providers that did run
        predictors.append(Predictor(path, provider="cuda"))
    return predictors


def measure_accuracy(predictor: Predictor, dataset: "Dataset") -> Accuracy:
    """Measure accuracy on the test set, in all and by class."""
    predicted, probabilities = predictor.predict_images(dataset.test_images)
    confidences = probabilities.max(axis=1)
    correct = predicted == dataset.test_labels
    by_class = {
        name: float(correct[dataset.test_labels == label].mean())
        for label, name in enumerate(dataset.class_names)
    }
    return Accuracy(
        n_images=len(correct),
        accuracy=float(correct.mean()),
        by_class=by_class,
        calibration_error=measure_calibration(confidences, correct),
        rejected=float((confidences < predictor.info.rejection_threshold).mean()),
    )


def measure_calibration(
    confidences: NDArray[np.float32], correct: NDArray[np.bool_], *, n_bins: int = 15
) -> float:
    """Return the expected calibration error, 0 if confidence is accuracy.

    Args:
        confidences: Probability of each answer, shape (N,), 0..1.
        correct: Whether each answer was right, shape (N,).
        n_bins: Bins of equal width over the confidences.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    bins = np.minimum((confidences * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=confidences - correct, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(correct))
