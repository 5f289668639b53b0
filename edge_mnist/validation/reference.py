"""References: the trusted logits that a model file is held to."""

import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.modelfile import CHECKPOINT_NAME, REFERENCE_NAME
from edge_mnist.predictor import Predictor

if TYPE_CHECKING:
    from edge_mnist.training.dataset import Dataset


@dataclass(frozen=True)
class Reference:
    """Trusted logits for some images.

    Attributes:
        name: Where they come from, for people.
        images: Shape (N, 28, 28), uint8.
        logits: Shape (N, classes), float32; PyTorch's.
        int8_logits: Those of the int8 file when it was exported; None where it is not known.
    """

    name: str
    images: NDArray[np.uint8]
    logits: NDArray[np.float32]
    int8_logits: NDArray[np.float32] | None = None


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
        return read_reference(folder / REFERENCE_NAME, predictor)
    if dataset is None:
        raise UsageError("a self-test compares against reference.npz, not against a checkpoint")
    return compute_reference(Path(against), predictor, dataset)


def read_reference(path: Path, predictor: Predictor) -> Reference:
    """Read the golden images and their logits that ``export`` wrote beside a model.

    Raises:
        ModelError: The file is missing, broken, or of other weights.
    """
    try:
        content = io.BytesIO(path.read_bytes())  # numpy leaves a broken file open
        with np.load(content, allow_pickle=False) as arrays:
            reference = Reference(
                f"{path.name} (PyTorch's logits on golden images)",
                arrays["images"],
                arrays["logits"],
                arrays.get("int8_logits"),
            )
            weights = str(arrays["weights_sha256"])
    except FileNotFoundError as error:
        raise ModelError(f"no reference {path}; export writes one beside the model") from error
    except Exception as error:  # a damaged archive raises whatever zip, zlib or numpy stumble on
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
    logits = compute_logits(load_network(checkpoint), dataset.test_images)
    return Reference(f"PyTorch on {path}", dataset.test_images, logits)


def check_weights(predictor: Predictor, weights_sha256: str, path: Path) -> None:
    """Make sure that a file belongs to a model.

    Raises:
        ModelError: It is of other weights.
    """
    if weights_sha256 != predictor.info.metadata.get("weights_sha256"):
        raise ModelError(f"{path} holds other weights than {predictor.model.path}")
