"""The contract of a model file: names, shapes, metadata; finding, reading and checking a file."""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_mnist.errors import ModelError, UsageError

CONTRACT_VERSION = "1"
MAX_BYTES = 100_000_000
FLOAT32_NAME, INT8_NAME = "model.onnx", "model.int8.onnx"
REFERENCE_NAME, MANIFEST_NAME, CARD_NAME = "reference.npz", "manifest.json", "MODEL_CARD.md"
CHECKPOINT_NAME = "checkpoint.safetensors"
EXPORTS_FOLDER = Path("exports")
RELEASED = ("default", "nano", "max")

UINT8, FLOAT = 2, 1  # TensorProto.DataType
INPUT = ("images", UINT8, ("batch", 28, 28))
OUTPUTS = ("logits", "probabilities")
FRAMINGS = ("digit", "ink", "whole")

# Field numbers of onnx.proto.
MODEL_GRAPH, MODEL_METADATA, MODEL_FUNCTIONS = 7, 14, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_ATTRIBUTE, ATTRIBUTE_TENSOR = 5, 5
ATTRIBUTE_GRAPHS = (6, 11)
TENSOR_EXTERNAL = (13, 14)  # external_data, data_location

# Wire types of protobuf's encoding; a device has no onnx to parse a model with.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
Field = tuple[int, int | bytes]


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
    """The metadata of a model file.

    Attributes:
        class_names: The name of each class.
        quantization: ``none`` or how the weights were quantised.
        rejection_threshold: Smallest confidence of an accepted answer, 0..1.
        framing: How pictures are brought to its input; see ``picture.read_picture``.
        metadata: Every entry of the file's ``metadata_props``.
    """

    class_names: tuple[str, ...]
    quantization: str
    rejection_threshold: float
    framing: str
    metadata: Mapping[str, str]


def find_model(name: str | os.PathLike[str] | None = None, *, prefer_exports: bool = False) -> Path:
    """Return the model file that a name stands for.

    Args:
        name: A file, a folder written by export, or a released model: ``nano``,
            ``max/model.int8.onnx``; see ``locate``. Of a folder the float32 file is taken, or the
            int8 file if it is the only one. None takes EDGE_MNIST_MODEL, else the released
            ``default``.
        prefer_exports: Without a name and EDGE_MNIST_MODEL, take ``./exports`` if that holds a
            model. For commands: an application must not depend on the folder it is started in.

    Raises:
        ModelError: There is no such file.
        UsageError: The name is empty, as from a variable that is not set.
    """
    named = (os.environ.get("EDGE_MNIST_MODEL") or None) if name is None else name
    if named is None:
        local = prefer_exports and _models_in(EXPORTS_FOLDER)
        return local[0] if local else shipped_folder() / "default" / FLOAT32_NAME
    path = locate(named)
    # Unlike Path.is_dir, no error where a name is too long or its folder forbidden.
    if os.path.isdir(path):
        inside = _models_in(path)
        if not inside:
            raise ModelError(f"no model file {path / FLOAT32_NAME}")
        return inside[0]
    if not os.path.isfile(path):
        raise ModelError(f"no model file {named}")
    return path


def find_models(
    names: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    *,
    prefer_exports: bool = False,
) -> list[Path]:
    """Return the model files that names stand for: a folder stands for every model in it.

    Args:
        names: One or several, as for ``find_model``; None or none for the folder of the model that
            it would choose.
        prefer_exports: As for ``find_model``.

    Raises:
        ModelError: One of them is missing.
        UsageError: One of them is empty.
    """
    if isinstance(names, str | os.PathLike):
        names = [names]
    paths: list[Path] = []
    for name in names or [find_model(prefer_exports=prefer_exports).parent]:
        path = locate(name)
        paths += (_models_in(path) if os.path.isdir(path) else []) or [find_model(name)]
    return paths


def locate(name: str | os.PathLike[str]) -> Path:
    """Return the path that a name stands for: a released model, or else the path as given.

    A string whose first part is a released name is never a path; ``./nano``, and any ``Path``, is.

    Raises:
        UsageError: The name is empty, or neither a text nor a path.
    """
    if name == "":
        raise UsageError("expected a name or a path, got an empty text")
    if not isinstance(name, str | os.PathLike):
        raise UsageError(f"expected a name or a path, got {type(name).__name__}")
    if isinstance(name, str):
        first, _, file = name.partition("/")
        if first in RELEASED and "/" not in file:
            return shipped_folder() / first / file
    return Path(name)


def shell_path(path: str | os.PathLike[str]) -> str:
    """Return a path as a word of a command line, which a command takes for this very path."""
    text = os.fspath(path)
    if text.startswith("-") or locate(text) != Path(text):
        text = f".{os.sep}{text}"
    return shlex.quote(text)


def shipped_folder() -> Path:
    """Return the folder of the released models, one folder each, inside the package."""
    return Path(__file__).resolve().parent / "shipped"


def _models_in(folder: Path) -> list[Path]:
    """Return the model files of a folder, float32 first; the wheel holds only max's int8 file."""
    return [folder / name for name in (FLOAT32_NAME, INT8_NAME) if os.path.isfile(folder / name)]


def read_model(path: Path) -> ModelFile:
    """Read a model file whole, and verify it against the manifest beside it, if there is one.

    Raises:
        ModelError: It is missing, empty, larger than ``MAX_BYTES``, or not the manifest's file.
    """
    try:
        with open(path, "rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read model {path}: {error.strerror}") from error
    except ValueError as error:  # a null character in the name
        raise ModelError(f"cannot read model {path}: {error}") from error
    if not content:
        raise ModelError(f"the model {path} is empty")
    if len(content) > MAX_BYTES:
        raise ModelError(f"the model {path} is larger than {MAX_BYTES:,} bytes")
    file = ModelFile(path, content)
    _verify_manifest(file)
    return file


def _verify_manifest(file: ModelFile) -> None:
    """Compare a file with its hash in the manifest, which an export writes last.

    Raises:
        ModelError: They differ: the file was altered, or the export was interrupted.
    """
    path = file.path.parent / MANIFEST_NAME
    if not path.is_file():
        return
    try:
        expected = json.loads(path.read_bytes())["files"][file.path.name]["sha256"]
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}, which verifies the model: {error}") from error
    except (KeyError, TypeError):
        return  # not written by export, or it does not list this file
    if expected != file.sha256:
        raise ModelError(
            f"{file.path} is not the file of {MANIFEST_NAME} beside it: it was altered, or the "
            "export was interrupted; export again"
        )


def check_contract(model: ModelFile) -> ModelInfo:
    """Check a file's inputs, outputs and metadata against the contract, without running it.

    Returns:
        The file's metadata.

    Raises:
        ModelError: It is no ONNX file, keeps data elsewhere, or breaks the contract.
    """
    try:
        return _check_contract(model.content)
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error
    except (KeyError, ValueError, TypeError, StopIteration) as error:
        raise ModelError(f"{model.path}: the model breaks the contract: {error}") from error


def name_model(info: ModelInfo) -> str:
    """Return a name after the model's recipe: ``edge-mnist-default``, ``edge-mnist-nano-int8``."""
    recipe = json.loads(info.metadata.get("recipe", "{}")).get("name") or "model"
    name = f"edge-mnist-{recipe}" + "-int8" * (info.quantization != "none")
    return re.sub(r"[^\w.-]", "-", name)


def _check_contract(content: bytes) -> ModelInfo:
    graphs = list(read_bytes(content, MODEL_GRAPH))
    if len(graphs) != 1:
        raise ModelError("not an ONNX file")
    metadata = _read_metadata(content)
    if metadata.get("contract") != CONTRACT_VERSION:
        found = metadata.get("contract", "none")
        raise _breach(f"expected contract version {CONTRACT_VERSION}, got {found}")
    class_names = tuple(str(name) for name in json.loads(metadata["class_names"]))
    inputs = [_describe(value) for value in read_bytes(graphs[0], GRAPH_INPUT)]
    if inputs != [INPUT]:
        raise _breach(f"expected inputs [{INPUT}], got {inputs}")
    outputs = [_describe(value) for value in read_bytes(graphs[0], GRAPH_OUTPUT)]
    expected = [(name, FLOAT, ("batch", len(class_names))) for name in OUTPUTS]
    if outputs != expected:
        raise _breach(f"expected outputs {expected}, got {outputs}")
    _refuse_external_data(content, graphs[0])
    if metadata.get("graph_sha256", hash_graph(content)) != hash_graph(content):
        raise ModelError("the graph was altered: its SHA-256 is not that of the metadata")
    accuracy, threshold = (
        float(metadata.get(name, "0")) for name in ("accuracy", "rejection_threshold")
    )
    n_images = int(metadata.get("n_test_images", "1"))
    if not (0 <= accuracy <= 1 and 0 <= threshold <= 1 and n_images > 0):
        raise _breach(
            "expected accuracy and rejection_threshold in 0..1 and n_test_images above 0, got "
            f"{accuracy}, {threshold} and {n_images}"
        )
    framing = metadata.get("framing", "digit")
    if framing not in FRAMINGS:
        raise _breach(f"expected framing {' or '.join(FRAMINGS)}, got {framing!r}")
    return ModelInfo(class_names, metadata["quantization"], threshold, framing, metadata)


def hash_graph(content: bytes) -> str:
    """Return the SHA-256 of a model's graph, weights included, hexadecimal.

    The metadata holds it, so that a file without its manifest is verified too.
    """
    return hashlib.sha256(b"".join(read_bytes(content, MODEL_GRAPH))).hexdigest()


def _read_metadata(content: bytes) -> dict[str, str]:
    entries = [dict(read_fields(entry)) for entry in read_bytes(content, MODEL_METADATA)]
    texts = [(entry.get(1, b""), entry.get(2, b"")) for entry in entries]
    return {
        key.decode(): value.decode()
        for key, value in texts
        if isinstance(key, bytes) and isinstance(value, bytes)
    }


def _describe(value: bytes) -> tuple[str, int, tuple[str | int, ...]]:
    """Return name, element type and shape of a ValueInfoProto; a free dimension by its name."""
    name = next(read_bytes(value, 1)).decode()
    tensor_type = next(read_bytes(next(read_bytes(value, 2)), 1))
    kind = next(number for field, number in read_fields(tensor_type) if field == 1)
    dims = []
    for dim in read_bytes(next(read_bytes(tensor_type, 2)), 1):
        _, size = next(read_fields(dim))
        dims.append(size.decode() if isinstance(size, bytes) else size)
    return name, int(kind), tuple(dims)


def _refuse_external_data(content: bytes, graph: bytes) -> None:
    """Refuse weights in other files, and functions and subgraphs, which could hold such."""
    tensors = list(read_bytes(graph, GRAPH_INITIALIZER))
    for node in read_bytes(graph, GRAPH_NODE):
        for attribute in read_bytes(node, NODE_ATTRIBUTE):
            tensors += read_bytes(attribute, ATTRIBUTE_TENSOR)
            if any(field in ATTRIBUTE_GRAPHS for field, _ in read_fields(attribute)):
                raise _breach("subgraphs are not allowed")
    if any(True for _ in read_bytes(content, MODEL_FUNCTIONS)):
        raise _breach("functions are not allowed")
    if any(field in TENSOR_EXTERNAL for tensor in tensors for field, _ in read_fields(tensor)):
        raise _breach("weights in another file are not allowed")


def _breach(reason: str) -> ModelError:
    return ModelError(f"the model breaks the contract: {reason}")


def read_fields(message: bytes) -> Iterator[Field]:
    """Yield the fields of a protobuf message: number, and its integer or its bytes.

    Raises:
        ModelError: The message is truncated, or not protobuf.

    Source: protobuf's encoding guide; field numbers from onnx.proto.
    """
    place = 0
    while place < len(message):
        tag, place = read_varint(message, place)
        number, kind = tag >> 3, tag & 7
        if number == 0:  # not allowed; a file of zeros would be read for a minute
            raise ModelError("not an ONNX file")
        if kind == VARINT:
            value, place = read_varint(message, place)
            yield number, value
            continue
        if kind == BYTES:
            length, place = read_varint(message, place)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ModelError("not an ONNX file")
        if place + length > len(message):
            raise ModelError("the ONNX file is truncated")
        yield number, message[place : place + length]
        place += length


def read_bytes(message: bytes, number: int) -> Iterator[bytes]:
    """Yield the values of one field of a message, where they are bytes or messages."""
    for found, value in read_fields(message):
        if found == number and isinstance(value, bytes):
            yield value


def read_varint(message: bytes, place: int) -> tuple[int, int]:
    """Read an integer of protobuf, seven bits in each byte.

    Returns:
        The integer, and the place after it.

    Raises:
        ModelError: The message ends before it does, or it is longer than any.
    """
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ModelError("the ONNX file is truncated")
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ModelError("not an ONNX file")
