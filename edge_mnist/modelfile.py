"""The contract of a model file, where model files are found, and what they say of themselves."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_mnist.errors import ModelError

if TYPE_CHECKING:
    import onnxruntime

CONTRACT_VERSION = "1"
MAX_BYTES = 100_000_000
FLOAT32_NAME, INT8_NAME = "model.onnx", "model.int8.onnx"
REFERENCE_NAME, MANIFEST_NAME, CARD_NAME = "reference.npz", "manifest.json", "README.md"
CHECKPOINT_NAME = "checkpoint.safetensors"
EXPORTS_FOLDER = Path("exports")

INPUT = ("images", "tensor(uint8)", (28, 28))
OUTPUTS = ("logits", "probabilities")


@dataclass(frozen=True)
class ModelFile:
    """A model file's bytes and identity.

    Attributes:
        path: Where it was read from.
        content: All its bytes.
    """

    path: Path
    content: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the file."""
        return len(self.content)

    @property
    def sha256(self) -> str:
        """Hash of the file, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself.

    Attributes:
        class_names: What each output means, for people.
        quantization: ``none`` or how the weights were quantised.
        rejection_threshold: Least confidence of an answer, 0..1.
        metadata: Every entry of the file's ``metadata_props``.
    """

    class_names: tuple[str, ...]
    quantization: str
    rejection_threshold: float
    metadata: Mapping[str, str]


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """Return the model file to use.

    Args:
        name: A file, or a folder written by export. Without it EDGE_MNIST_MODEL, then
            ``./exports`` where that holds a model, then the model shipped with the package.

    Raises:
        ModelError: There is no such file.
    """
    named = name or os.environ.get("EDGE_MNIST_MODEL")
    if named:
        path = Path(named)
        path = path / FLOAT32_NAME if path.is_dir() else path
        if not path.is_file():
            raise ModelError(f"no model file {path}")
        return path
    local = EXPORTS_FOLDER / FLOAT32_NAME
    return local if local.is_file() else shipped_folder() / FLOAT32_NAME


def shipped_folder() -> Path:
    """Return the folder of the shipped model: inside the wheel, or of the checkout.

    Raises:
        ModelError: The installation is damaged.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "shipped", package.parent / "exports"):
        if (folder / FLOAT32_NAME).is_file():
            return folder
    raise ModelError("the shipped model is missing; install edge-mnist again")


def read_model(path: Path) -> ModelFile:
    """Read a model file whole.

    Raises:
        ModelError: It is missing, empty or larger than ``MAX_BYTES``.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read model {path}: {error.strerror}") from error
    if not content:
        raise ModelError(f"the model {path} is empty")
    if len(content) > MAX_BYTES:
        raise ModelError(f"the model {path} is larger than {MAX_BYTES:,} bytes")
    return ModelFile(path, content)


def check_contract(session: "onnxruntime.InferenceSession") -> ModelInfo:
    """Check an open session's inputs, outputs and metadata against the contract.

    Returns:
        What the model says of itself.

    Raises:
        ModelError: It breaks the contract; the message says where.
    """
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    if metadata.get("contract") != CONTRACT_VERSION:
        found = metadata.get("contract", "none")
        raise _breach(f"contract version {found}, want {CONTRACT_VERSION}")
    class_names = tuple(json.loads(metadata["class_names"]))
    _check_input(session)
    _check_outputs(session, len(class_names))
    threshold = float(metadata.get("rejection_threshold", "0"))
    return ModelInfo(class_names, metadata["quantization"], threshold, metadata)


def _check_input(session: "onnxruntime.InferenceSession") -> None:
    found = [_describe(value) for value in session.get_inputs()]
    name, kind, shape = INPUT
    if found != [(name, kind, shape)]:
        raise _breach(f"inputs {found}, want {name} {kind} [batch, 28, 28]")


def _check_outputs(session: "onnxruntime.InferenceSession", n_classes: int) -> None:
    found = [_describe(value) for value in session.get_outputs()]
    if found != [(name, "tensor(float)", (n_classes,)) for name in OUTPUTS]:
        raise _breach(f"outputs {found}, want {' and '.join(OUTPUTS)} [batch, {n_classes}]")


def _describe(value: Any) -> tuple[str, str, tuple[int, ...]]:
    """Return name, type and the shape after the batch; a fixed batch is part of the shape."""
    batch, *rest = value.shape or [0]
    shape = (batch, *rest) if isinstance(batch, int) else tuple(rest)
    return value.name, value.type, shape


def _breach(reason: str) -> ModelError:
    return ModelError(f"the model breaks the contract: {reason}")
