"""ONNX files of other people: run as they are, and brought to a graph that export can build on.

Needs onnx and onnxruntime, not PyTorch.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from edge_mnist.errors import ModelError, UsageError, one_line
from edge_mnist.exporting.graph import OPSET, drop_initializers_from_inputs, to_body
from edge_mnist.model_file import MAX_BYTES
from edge_mnist.session import open_session

OLDEST_OPSET = 7  # what onnxruntime runs
NEWEST_OPSET = 21  # what an onnxruntime of two years ago still opens
INPUT_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.UINT8: np.uint8,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
Shape = tuple[int | None, ...]


class OnnxNetwork:
    """A network in an ONNX file; see ``convention.Network``.

    What runs is the file as its author wrote it. Only a file older than any that onnxruntime runs
    is upgraded first, by onnx's own converter.
    """

    kind = "onnx"

    def __init__(self, path: Path) -> None:
        """Read a file and open it.

        Raises:
            ModelError: It is no ONNX file, does not run, or its input and output are not those of
                a classifier of images.
            UsageError: It is a model file of this package.
        """
        self.name = path.name
        self.path: Path | None = path
        self.model = read_onnx(path)
        self.weights_sha256 = hashlib.sha256(self.model.SerializeToString()).hexdigest()
        if find_opset(self.model) < OLDEST_OPSET:
            self.model = convert_opset(self.model, 8, self.name)
        if any(one.key == "contract" for one in self.model.metadata_props):
            raise UsageError(f"{path} is exported already: it keeps the contract of a model file")
        drop_initializers_from_inputs(self.model)
        graph = self.model.graph
        self.input_name, shape, self.input_dtype = _describe_input(graph, self.name)
        if len(graph.output) != 1:
            names = ", ".join(one.name for one in graph.output)
            raise ModelError(
                f"the network {self.name} has {len(graph.output)} outputs ({names}), expected one "
                "with a number for each class; cut the others with onnx.utils.extract_model"
            )
        self.batch_size: int | None = shape[0]
        self.input_shape: Shape | None = shape[1:]
        try:
            self.session = open_session(self.model.SerializeToString(), provider="cpu")
        except ModelError as error:
            raise ModelError(f"the network {self.name} does not run: {error}") from error

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the network returns for a batch; see ``convention.Network``.

        Raises:
            ModelError: It fails.
        """
        try:
            (outputs,) = self.session.run(None, {self.input_name: inputs})
            return np.asarray(outputs, np.float32)
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            shape = "x".join(map(str, inputs.shape))
            message = f"the network {self.name} does not run on {shape}: {one_line(error)}"
            raise ModelError(message) from error

    def compare_statistics(self, inputs: NDArray[Any]) -> float | None:
        """Compare with the range of the quantised input, if it is; see ``convention.Network``.

        Batch normalisation cannot be asked: most files have it folded into convolutions.
        """
        readers = [node for node in self.model.graph.node if self.input_name in node.input]
        if [node.op_type for node in readers] != ["QuantizeLinear"]:
            return None
        constants = {one.name: one for one in self.model.graph.initializer}
        if not constants.keys() >= set(readers[0].input[1:]):
            return None
        scale, *zeros = (numpy_helper.to_array(constants[name]) for name in readers[0].input[1:])
        zero = zeros[0] if zeros else np.array(0, np.uint8)
        limits = np.iinfo(zero.dtype)
        low, high = (float(scale) * (limit - int(zero)) for limit in (limits.min, limits.max))
        least, most = float(inputs.min()), float(inputs.max())
        clipped = max(low - least, 0) + max(most - high, 0)
        ratio = max(abs(least), abs(most)) / max(abs(low), abs(high))
        return clipped / (high - low) + abs(math.log(ratio or math.inf))

    def to_body(self, example: NDArray[Any]) -> onnx.ModelProto:
        """Return the network's graph, as ``graph.attach_contract`` takes it, for any batch size.

        Args:
            example: Inputs, shape (N, ...), to see that the graph computes what the file does.

        Raises:
            ModelError: A fixed batch size cannot be lifted, or the opset cannot be converted.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        opset = find_opset(model)
        if opset < OPSET:
            model = convert_opset(model, OPSET, self.name)
        elif opset > NEWEST_OPSET:
            model = convert_opset(model, NEWEST_OPSET, self.name)
        return to_body(model, self, example)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, with weights that lie in other files.

    Raises:
        ModelError: It is missing, too large, no ONNX file, or holds what no model file may hold.
    """
    try:
        size_bytes = path.stat().st_size
        model = onnx.load(path)
        size_bytes = max(size_bytes, model.ByteSize())
    except FileNotFoundError as error:
        raise ModelError(f"no file {path}: {error.strerror}") from error
    except Exception as error:  # protobuf's errors, and those of missing external data
        raise ModelError(f"{path} is not a readable ONNX file: {one_line(error)}") from error
    if size_bytes > MAX_BYTES:
        raise ModelError(f"{path} holds more than {MAX_BYTES:,} bytes")
    if not model.graph.node:
        raise ModelError(f"{path} is not a readable ONNX file: it has no nodes")
    if model.functions:
        model = inliner.inline_local_functions(model)
    held = sorted({node.op_type for node in model.graph.node} & set(CONTROL_FLOW))
    if held:
        raise ModelError(f"{path} has control flow ({', '.join(held)}), which a model file may not")
    return model


def find_opset(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    own = [one.version for one in model.opset_import if one.domain in ("", "ai.onnx")]
    return max(own, default=1)


def convert_opset(model: onnx.ModelProto, opset: int, name: str) -> onnx.ModelProto:
    """Convert a model to another version of ONNX's operators.

    Raises:
        ModelError: onnx's converter cannot.
    """
    from onnx import version_converter

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if find_opset(copy) < 9:  # there the converter looks for weights among the inputs
        copy.ir_version = 3
        _add_initializers_to_inputs(copy.graph)
    try:
        return version_converter.convert_version(copy, opset)
    except Exception as error:  # the converter raises anything
        raise ModelError(
            f"{name} cannot be converted from opset {find_opset(model)} to {opset}: "
            f"{one_line(error)}"
        ) from error


def _describe_input(graph: onnx.GraphProto, name: str) -> tuple[str, Shape, np.dtype[Any]]:
    """Return name, shape, None for a free dimension, and type of a graph's only input.

    Raises:
        ModelError: There are several, or it is no array of numbers that images can be given in.
    """
    if len(graph.input) != 1:
        names = ", ".join(one.name for one in graph.input)
        n_inputs = len(graph.input)
        raise ModelError(f"the network {name} has {n_inputs} inputs ({names}), expected one")
    tensor = graph.input[0].type.tensor_type
    if tensor.elem_type not in INPUT_TYPES:
        kind = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else "no tensor"
        raise ModelError(f"the network {name} takes {kind}, expected float32 or uint8")
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    if not shape:
        raise ModelError(f"the network {name} takes a single number, expected a batch of images")
    return graph.input[0].name, shape, np.dtype(INPUT_TYPES[tensor.elem_type])


def _add_initializers_to_inputs(graph: onnx.GraphProto) -> None:
    known = {value.name for value in graph.input}
    graph.input.extend(
        helper.make_tensor_value_info(one.name, one.data_type, one.dims)
        for one in graph.initializer
        if one.name not in known
    )
