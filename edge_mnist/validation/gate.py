"""The gate: the reference that a model file is compared with, the checks, and their limits."""

import hashlib
import importlib.util
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.model_file import CHECKPOINT_NAME, REFERENCE_NAME, locate
from edge_mnist.predictor import Predictor

if TYPE_CHECKING:
    from edge_mnist.training.datasets import Dataset

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
