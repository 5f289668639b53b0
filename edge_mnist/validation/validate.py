"""Validation: whether a model file keeps the contract, agrees with its reference, and is accurate.

Runs without torch on a device; torch is used only if a checkpoint is the reference.
"""

import contextlib
import hashlib
import importlib.util
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError, ProviderError, UsageError, check_number
from edge_mnist.model_file import (
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    REFERENCE_NAME,
    ModelFile,
    check_contract,
    find_models,
    locate,
    read_model,
)
from edge_mnist.predictor import Predictor
from edge_mnist.validation.robustness import Robustness, measure_robustness
from edge_mnist.validation.timing import Latency, is_slower, measure_latencies, one_image

if TYPE_CHECKING:
    from edge_mnist.training.datasets import Dataset

SCHEMA_VERSION = 1
BATCH_SIZES = (1, 2, 7, 64, 1000)
BATCH_INVARIANCE_ATOL = 1e-4  # kernels may add in another order in another batch
N_BATCH_INVARIANCE_IMAGES = 500


@dataclass(frozen=True)
class Limits:
    """The limits of the gate.

    Attributes:
        atol: Largest difference of a float32 model's logits from the reference.
        int8_atol: Largest difference of an int8 model's logits from those recorded at export,
            on the golden images: processors round differently, and that adds up over the layers.
        label_changes: Largest number of labels of a float32 model that differ from the reference.
        accuracy_lost: Largest share of accuracy that int8 may lose against float32. One image
            is always allowed: on a small test set it is more than this share.
    """

    atol: float = 1e-3
    int8_atol: float = 0.5
    label_changes: int = 0
    accuracy_lost: float = 0.001

    def __post_init__(self) -> None:
        """Refuse limits that no model could keep.

        Raises:
            UsageError: One is negative, NaN or no number.
        """
        for name, limit in vars(self).items():
            check_number(name, limit, 0, float("inf"))


@dataclass(frozen=True)
class Check:
    """One limit and the measured value; it passed if ``measured`` is at most ``limit``.

    So ``measured`` is also the smallest limit that would have passed.
    """

    name: str
    measured: float
    limit: float
    passed: bool = field(init=False)

    def __post_init__(self) -> None:
        """Decide; written so that NaN fails."""
        object.__setattr__(self, "passed", bool(self.measured <= self.limit))


@dataclass(frozen=True)
class Reference:
    """Trusted logits for some images.

    Attributes:
        name: Where they come from, for people.
        images: Shape (N, 28, 28), uint8.
        logits: Shape (N, classes), float32; PyTorch's, divided by the temperature.
        int8_logits: Those of the int8 file when it was exported; None if they are not known.
        image_hashes: Of the images that the network was trained on, as
            ``training.provenance.TrainingData`` has them; None if they are not known.
    """

    name: str
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    int8_logits: NDArray[np.float32] | None = None
    image_hashes: NDArray[np.uint64] | None = None


@dataclass(frozen=True)
class Parity:
    """The distance of two models' logits.

    ``label_changes`` counts the images whose predicted label differs.
    """

    n_images: int
    max_abs_error: float
    label_changes: int


@dataclass(frozen=True)
class Accuracy:
    """The accuracy on the test images.

    Attributes:
        n_images: Images in the test set.
        accuracy: Share of correct labels, whatever the confidence.
        by_class: That share for each class that has test images.
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
    files = [read_model(path) for path in find_models(models)]
    if dataset is None and not self_test:
        dataset = load_test_data(files, data_dir=data_dir, offline=offline)
    elif dataset is not None:
        from edge_mnist.training.datasets import check_dataset

        check_dataset(dataset)
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
    as_pictures: bool = True,
) -> ValidationReport:
    """Check model files that were read, or are still to be written; see ``validate``.

    Args:
        files: An int8 file is compared with the float32 file of its folder, which may be among
            ``files`` or on disk.
        dataset: None for a self-test.
        against: As for ``validate``, or the reference itself.
        limits: The limits of the gate.
        robustness: Measure accuracy on corrupted test images too.
        as_pictures: See ``measure_robustness``.

    Raises:
        ModelError, DataError: As for ``validate``.
    """
    opened = [_open_on_each_provider(file, dataset) for file in files]
    first = [predictors[0] for predictors in opened]
    corrupted: Sequence[Robustness | None] = [None] * len(files)
    if robustness and dataset:
        corrupted = measure_robustness(
            first, dataset.test_images, dataset.test_labels, as_pictures=as_pictures
        )
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

    if name is not None:
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
    """Check one model file; the first of its predictors, on the CPU, is the one to be measured."""
    first = predictors[0]
    data_note = _compare_data(first, reference, dataset) if dataset else None
    checks: list[Check] = []
    for predictor in predictors:
        checks += check_parity(predictor, reference, limits)
        checks.append(check_batch_invariance(predictor, reference.images))
    predicted, accuracy = measure_accuracy(first, dataset) if dataset else (None, None)
    timed = {"model": one_image(first.session)}
    comparison = None
    if first.info.quantization == "none" or float32 is None:
        latencies = measure_latencies(timed)
    else:
        check_weights(first, float32.info.metadata.get("weights_sha256", ""), float32.model.path)
        latencies = measure_latencies(timed | {"float32": one_image(float32.session)})
        lost, changed = None, None
        if dataset and predicted is not None:
            expected, labels = float32.predict_images(dataset.test_images)[0], dataset.test_labels
            n_lost = int((expected == labels).sum() - (predicted == labels).sum())
            lost, changed = n_lost / len(labels), int((expected != predicted).sum())
            checks.append(check_accuracy_lost(lost, len(labels), limits))
        comparison = Float32Comparison(
            accuracy_lost=lost,
            labels_changed=changed,
            size_ratio=first.model.size_bytes / float32.model.size_bytes,
            p50_ratio=latencies["model"].p50_us / latencies["float32"].p50_us,
            slower=is_slower(latencies["model"], latencies["float32"]),
        )
    return ModelReport(
        path=str(first.model.path),
        sha256=first.model.sha256,
        size_bytes=first.model.size_bytes,
        quantization=first.info.quantization,
        providers=tuple(predictor.provider for predictor in predictors),
        reference=reference.name,
        checks=tuple(checks),
        accuracy=accuracy,
        robustness=robustness,
        latency=latencies["model"],
        against_float32=comparison,
        passed=all(check.passed for check in checks),
        data_note=data_note,
    )


def _open_on_each_provider(file: ModelFile, dataset: "Dataset | None") -> list[Predictor]:
    """Open a model on every provider that really runs here, the CPU first.

    Raises:
        ModelError: It cannot be opened, or its classes are not those of the data set.
    """
    predictors = [Predictor(file, provider="cpu")]
    class_names = predictors[0].info.class_names
    if dataset and class_names != dataset.class_names:
        raise ModelError(
            f"the {len(class_names)} classes of {file.path} are not the "
            f"{len(dataset.class_names)} of the data set {dataset.name}"
        )
    with contextlib.suppress(ProviderError):  # the report names the providers that did run
        predictors.append(Predictor(file, provider="cuda"))
    return predictors


def _compare_data(predictor: Predictor, reference: Reference, dataset: "Dataset") -> str | None:
    """Compare a data set with the one of the training; see ``compare_with_training``."""
    from edge_mnist.training.provenance import TrainingData, compare_with_training

    about = predictor.info.metadata
    trained_on = TrainingData(
        about.get("dataset", ""), about.get("dataset_sha256", ""), reference.image_hashes
    )
    return compare_with_training(trained_on, dataset, str(predictor.model.path))


def measure_accuracy(
    predictor: Predictor, dataset: "Dataset"
) -> tuple[NDArray[np.int64], Accuracy]:
    """Classify the test set; return the predicted labels, shape (N,), and their accuracy."""
    predicted, probabilities = predictor.predict_images(dataset.test_images)
    confidences = probabilities.max(axis=1)
    correct = predicted == dataset.test_labels
    by_class = {
        name: float(correct[dataset.test_labels == label].mean())
        for label, name in enumerate(dataset.class_names)
        if (dataset.test_labels == label).any()
    }
    return predicted, Accuracy(
        n_images=len(correct),
        accuracy=float(correct.mean()),
        by_class=by_class,
        calibration_error=measure_calibration(confidences, correct),
        rejected=float((~(confidences >= predictor.info.rejection_threshold)).mean()),  # NaN too
    )


def measure_calibration(
    confidences: NDArray[np.float32], correct: NDArray[np.bool_], *, n_bins: int = 15
) -> float:
    """Return the expected calibration error, 0 if confidence is accuracy; NaN of a NaN.

    Args:
        confidences: Probability of each answer, shape (N,), 0..1.
        correct: Whether each answer was right, shape (N,).
        n_bins: Bins of equal width over the confidences.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    if np.isnan(confidences).any():
        return float("nan")
    bins = np.minimum((confidences * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, weights=confidences - correct, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(correct))


def find_reference(
    predictor: Predictor, dataset: "Dataset | None", against: str | Path | None
) -> Reference:
    """Find the trusted logits for a model; see ``validate`` for the choice.

    Raises:
        ModelError: The reference is missing, broken, or of other weights.
        UsageError: A checkpoint needs a data set.
    """
    folder = predictor.model.path.parent
    if against is None and dataset is not None:
        beside = folder / CHECKPOINT_NAME
        if beside.is_file() and importlib.util.find_spec("torch"):
            against = beside
    if against is None or str(against) == "reference":
        return read_reference(folder / REFERENCE_NAME, predictor, dataset)
    if dataset is None:
        raise UsageError("a self-test compares against reference.npz, not against a checkpoint")
    return compute_reference(locate(against), predictor, dataset)


def read_reference(path: Path, predictor: Predictor, dataset: "Dataset | None" = None) -> Reference:
    """Read the trusted logits that ``export`` wrote beside a model.

    Those of the golden images; or, of somebody else's network, those of the whole test set, if
    ``dataset`` is the one that it was exported with.

    Raises:
        ModelError: The file is missing, broken, or of other weights.
    """
    try:
        content = io.BytesIO(path.read_bytes())  # numpy leaves a broken file open
        with np.load(content, allow_pickle=False) as arrays:
            reference = Reference(
                f"{path.name} (the network's own logits on golden images)",
                arrays["images"],
                arrays["logits"],
                arrays.get("int8_logits"),
                arrays.get("image_hashes"),
            )
            weights = str(arrays["weights_sha256"])
            if dataset is not None and "test_logits" in arrays:
                digest = hashlib.sha256(np.ascontiguousarray(dataset.test_images).tobytes())
                if str(arrays["test_images_sha256"]) == digest.hexdigest():
                    name = f"{path.name} (the network's own logits on the test set)"
                    reference = Reference(
                        name,
                        dataset.test_images,
                        arrays["test_logits"],
                        image_hashes=reference.image_hashes,
                    )
    except FileNotFoundError as error:
        raise ModelError(f"no reference {path}; export writes one beside the model") from error
    except Exception as error:  # a damaged archive makes zip, zlib or numpy raise anything
        raise ModelError(f"the reference {path} is damaged: {error}") from error
    check_weights(predictor, weights, path)
    return reference


def compute_reference(path: Path, predictor: Predictor, dataset: "Dataset") -> Reference:
    """Compute PyTorch's logits on the whole test set from a checkpoint.

    Raises:
        ModelError: The checkpoint is missing, broken, or of other weights.
    """
    from edge_mnist.training.checkpoint import load_checkpoint, load_network
    from edge_mnist.training.networks import compute_logits

    checkpoint = load_checkpoint(path)
    check_weights(predictor, checkpoint.weights_sha256, path)
    logits = compute_logits(
        load_network(checkpoint),
        dataset.test_images,
        temperature=checkpoint.calibration.temperature,
    )
    return Reference(
        f"PyTorch on {path}",
        dataset.test_images,
        logits,
        image_hashes=checkpoint.trained_on.image_hashes,
    )


def check_weights(predictor: Predictor, weights_sha256: str, path: Path) -> None:
    """Check that a file belongs to a model.

    Raises:
        ModelError: It is of other weights.
    """
    if weights_sha256 != predictor.info.metadata.get("weights_sha256"):
        raise ModelError(f"{path} holds other weights than {predictor.model.path}")


def compare_logits(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> Parity:
    """Measure the distance of two models' logits.

    Args:
        reference: Logits of the trusted model, shape (N, classes).
        candidate: Logits of the model under test for the same N images.

    Raises:
        UsageError: The shapes differ, or there is no row.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise UsageError(
            f"expected two arrays (N, classes), got {reference.shape} and {candidate.shape}"
        )
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, and NaN fails every check
        error = np.abs(candidate.astype(np.float64) - reference)
    changed = reference.argmax(axis=1) != candidate.argmax(axis=1)
    return Parity(len(reference), float(error.max()), int(changed.sum()))


def check_parity(predictor: Predictor, reference: Reference, limits: Limits) -> list[Check]:
    """Compare a model with its reference at several batch sizes.

    A float32 model is compared with PyTorch's logits. An int8 model has logits of its own: it is
    compared with those recorded at export, if they are known; its accuracy has a check of its own.
    """
    is_int8 = predictor.info.quantization != "none"
    expected = reference.int8_logits if is_int8 else reference.logits
    if expected is None:
        return []
    checks = []
    for batch_size in (*BATCH_SIZES, len(reference.images)):
        logits = predictor.compute_logits(reference.images, batch_size=batch_size)
        parity = compare_logits(expected, logits)
        where = f"{predictor.provider}, batch {batch_size}"
        atol = limits.int8_atol if is_int8 else limits.atol
        checks.append(Check(f"largest difference of logits ({where})", parity.max_abs_error, atol))
        checks.append(
            Check(f"labels changed ({where})", parity.label_changes, limits.label_changes)
        )
    return checks


def check_batch_invariance(predictor: Predictor, images: NDArray[np.uint8]) -> Check:
    """Check that an image gets the same logits whatever else is in its batch."""
    some = images[:N_BATCH_INVARIANCE_IMAGES]
    alone = predictor.compute_logits(some, batch_size=1)
    order = np.random.default_rng(0).permutation(len(some))
    mixed = np.empty_like(alone)
    mixed[order] = predictor.compute_logits(some[order], batch_size=37)
    error = compare_logits(alone, mixed).max_abs_error
    return Check(f"batch invariance of logits ({predictor.provider})", error, BATCH_INVARIANCE_ATOL)


def check_accuracy_lost(accuracy_lost: float, n_images: int, limits: Limits) -> Check:
    """Check how much accuracy int8 loses against float32; a gain passes."""
    # Counted in images: 0.9963 - 0.9953 is a hair above 0.001 in binary.
    allowed = max(1, round(limits.accuracy_lost * n_images))
    lost = round(accuracy_lost * n_images) / n_images
    return Check("accuracy lost by int8", lost, allowed / n_images)
