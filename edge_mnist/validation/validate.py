"""Validation: whether a model file keeps the contract, agrees with its reference, and is accurate.

Runs without torch on a device; torch is used only if a checkpoint is the reference.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError, ProviderError, UsageError
from edge_mnist.model_file import (
    FLOAT32_NAME,
    ModelFile,
    check_contract,
    find_models,
    read_model,
)
from edge_mnist.predictor import Predictor
from edge_mnist.validation.gate import (
    Check,
    Limits,
    Reference,
    check_accuracy_lost,
    check_batch_invariance,
    check_parity,
    check_weights,
    find_reference,
)
from edge_mnist.validation.robustness import Robustness, measure_robustness
from edge_mnist.validation.timing import Latency, is_slower, measure_latencies, one_image

if TYPE_CHECKING:
    from edge_mnist.training.datasets import Dataset

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Accuracy:
    """The accuracy on the test images.

    Attributes:
        n_images: Images in the test set.
        accuracy: Share of correct labels, whatever the confidence.
        by_class: That share for each class.
        calibration_error: Expected calibration error: the distance of confidence and accuracy.
        rejected: Share with a confidence below the rejection threshold.
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
        slower: Whether int8 is slower than float32 here; see ``timing.is_slower``.
    """

    accuracy_lost: float | None
    labels_changed: int | None
    size_ratio: float
    p50_ratio: float
    slower: bool


@dataclass(frozen=True)
class ModelReport:
    """The checks and figures of one model file; ``passed`` if every check did.

    ``data_note`` says what differs if the data set is not the one of the training, or changed.
    """

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
    data_note: str | None = None


@dataclass(frozen=True)
class ValidationReport:
    """The reports of one validation."""

    models: tuple[ModelReport, ...]
    passed: bool
    schema_version: int = SCHEMA_VERSION


def validate(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    dataset: "Dataset | None" = None,
    *,
    self_test: bool = False,
    against: str | Path | None = None,
    limits: Limits | None = None,
    robustness: bool = False,
    data_dir: Path | None = None,
    offline: bool = False,
) -> ValidationReport:
    """Check model files against their reference and measure their accuracy.

    Args:
        models: Model files, folders written by export, released models; see
            ``model_file.find_models``. None takes EDGE_MNIST_MODEL, else the released ``default``.
        dataset: Its test part measures accuracy and, against a checkpoint, parity. None loads the
            data set that the models were trained on.
        self_test: Use the golden images that travel with a model, and no data set.
        against: A checkpoint file, or ``reference`` for the reference.npz beside each model.
            None takes the checkpoint beside the model if torch is installed, else reference.npz.
        limits: The limits of the gate.
        robustness: Measure accuracy on corrupted test images too; takes a minute.
        data_dir: See ``load_dataset``.
        offline: Never download.

    Returns:
        A report; ``passed`` is False if a limit is missed.

    Raises:
        ModelError: A model is missing, broken or breaks the contract; so is its reference. Or its
            classes are not the data set's.
        DataError: The data set cannot be had, or its test part has images that a model was
            trained on.
        UsageError: A checkpoint or robustness needs a data set, not a self-test; or the models
            were trained on different data sets.
    """
    if self_test and (dataset is not None or robustness):
        raise UsageError("a self-test uses golden images only: no data set, no robustness")
    names = [models] if isinstance(models, str | os.PathLike) else models
    files = [read_model(path) for path in find_models(names)]
    if dataset is None and not self_test:
        dataset = load_test_data(files, data_dir=data_dir, offline=offline)
    return validate_files(
        files, dataset, against=against, limits=limits or Limits(), robustness=robustness
    )


def validate_files(
    files: Sequence[ModelFile],
    dataset: "Dataset | None",
    *,
    against: str | Path | Reference | None,
    limits: Limits,
    robustness: bool = False,
) -> ValidationReport:
    """Check model files that were read, or are still to be written; see ``validate``.

    Args:
        files: An int8 file is compared with the float32 file of its folder, which may be among
            ``files`` or on disk.
        dataset: None for a self-test.
        against: As for ``validate``, or the reference itself.
        limits: The limits of the gate.
        robustness: Measure accuracy on corrupted test images too.

    Raises:
        ModelError, DataError: As for ``validate``.
    """
    opened = [_open_on_each_provider(file) for file in files]
    first = [predictors[0] for predictors in opened]
    if dataset:
        for predictor in first:
            check_classes(predictor, dataset)
    corrupted: Sequence[Robustness | None] = [None] * len(files)
    if robustness and dataset:
        corrupted = measure_robustness(first, dataset.test_images, dataset.test_labels)
    float32 = {one.model.path: one for one in first}
    reports = []
    for predictors, found in zip(opened, corrupted, strict=True):
        reference = (
            against
            if isinstance(against, Reference)
            else find_reference(predictors[0], dataset, against)
        )
        beside = predictors[0].model.path.with_name(FLOAT32_NAME)
        other = float32.get(beside)
        if other is None and beside.is_file():
            other = Predictor(beside, provider="cpu")
        reports.append(_validate_model(predictors, other, dataset, reference, limits, found))
    return ValidationReport(tuple(reports), passed=all(report.passed for report in reports))


def check_classes(predictor: Predictor, dataset: "Dataset") -> None:
    """Check that a data set has the classes of a model.

    Raises:
        ModelError: It has others.
    """
    if predictor.info.class_names != dataset.class_names:
        raise ModelError(
            f"the {len(predictor.info.class_names)} classes of {predictor.model.path} are not the "
            f"{len(dataset.class_names)} of the data set {dataset.name}"
        )


def compare_data(predictor: Predictor, reference: Reference, dataset: "Dataset") -> str | None:
    """Compare a data set with the one of the training; see ``compare_with_training``."""
    from edge_mnist.training.provenance import TrainingData, compare_with_training

    about = predictor.info.metadata
    trained_on = TrainingData(
        about.get("dataset", ""), about.get("dataset_sha256", ""), reference.image_hashes
    )
    return compare_with_training(trained_on, dataset, str(predictor.model.path))


def load_test_data(
    files: Iterable[ModelFile],
    *,
    name: str | None = None,
    data_dir: Path | None = None,
    offline: bool = False,
) -> "Dataset":
    """Load a data set to test models on: by default the one they were tested on at their export.

    Args:
        files: The models.
        name: Of another data set, or its folder.
        data_dir: See ``load_dataset``.
        offline: Never download.

    Raises:
        UsageError: They were trained on different ones, or do not name it.
        DataError: It cannot be had.
    """
    from edge_mnist.training.datasets import load_dataset

    if name:
        return load_dataset(name, data_dir=data_dir, offline=offline)
    found = [check_contract(file).metadata for file in files]
    names = {one.get("test_dataset") or one.get("dataset", "") for one in found}
    if len(names) > 1:
        raise UsageError(f"the models are of different data sets: {', '.join(sorted(names))}")
    if "" in names:
        raise UsageError("a model does not name its data set; only --self-test can validate it")
    return load_dataset(names.pop(), data_dir=data_dir, offline=offline)


def _validate_model(
    predictors: Sequence[Predictor],
    float32: Predictor | None,
    dataset: "Dataset | None",
    reference: Reference,
    limits: Limits,
    robustness: Robustness | None,
) -> ModelReport:
    first = predictors[0]
    data_note = compare_data(first, reference, dataset) if dataset else None
    checks: list[Check] = []
    for predictor in predictors:
        checks += check_parity(predictor, reference, limits)
        checks.append(check_batch_invariance(predictor, reference.images))
    timed = {"model": one_image(first.session)}
    is_compared = first.info.quantization != "none" and float32 is not None
    if is_compared and float32:
        check_weights(first, float32.info.metadata.get("weights_sha256", ""), float32.model.path)
        timed["float32"] = one_image(float32.session)
    latencies = measure_latencies(timed)
    comparison = None
    if is_compared and float32:
        comparison = _compare_with_float32(first, float32, dataset, latencies)
        if comparison.accuracy_lost is not None and dataset:
            n_images = len(dataset.test_labels)
            checks.append(check_accuracy_lost(comparison.accuracy_lost, n_images, limits))
    return ModelReport(
        path=str(first.model.path),
        sha256=first.model.sha256,
        size_bytes=first.model.size_bytes,
        quantization=first.info.quantization,
        providers=tuple(predictor.provider for predictor in predictors),
        reference=reference.name,
        checks=tuple(checks),
        accuracy=measure_accuracy(first, dataset) if dataset else None,
        robustness=robustness,
        latency=latencies["model"],
        against_float32=comparison,
        passed=all(check.passed for check in checks),
        data_note=data_note,
    )


def _compare_with_float32(
    predictor: Predictor,
    float32: Predictor,
    dataset: "Dataset | None",
    latencies: Mapping[str, Latency],
) -> Float32Comparison:
    lost, changed = None, None
    if dataset:
        old, new = (one.predict_images(dataset.test_images)[0] for one in (float32, predictor))
        n_lost = int((old == dataset.test_labels).sum() - (new == dataset.test_labels).sum())
        lost, changed = n_lost / len(old), int((old != new).sum())
    return Float32Comparison(
        accuracy_lost=lost,
        labels_changed=changed,
        size_ratio=predictor.model.size_bytes / float32.model.size_bytes,
        p50_ratio=latencies["model"].p50_us / latencies["float32"].p50_us,
        slower=is_slower(latencies["model"], latencies["float32"]),
    )


def _open_on_each_provider(file: ModelFile) -> list[Predictor]:
    """Open a model on every provider that really runs here, the CPU first."""
    predictors = [Predictor(file, provider="cpu")]
    with contextlib.suppress(ProviderError):  # the report names the providers that did run
        predictors.append(Predictor(file, provider="cuda"))
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
