"""ONNX files of other people: run as they are, and brought to a graph that export can build on.

Needs onnx and onnxruntime, not PyTorch.
"""

import contextlib
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from edge_mnist.errors import ModelError, UsageError, one_line
from edge_mnist.exporting.convention import run_batches
from edge_mnist.exporting.graph import (
    BODY_INPUT,
    BODY_OUTPUT,
    OPSET,
    quiet,
    strip,
    use_global_average_pool,
)
from edge_mnist.model_file import MAX_BYTES
from edge_mnist.session import import_onnxruntime, open_session

OLDEST_OPSET = 7  # what onnxruntime runs
NEWEST_OPSET = 21  # what an onnxruntime of two years ago still opens
INPUT_TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.UINT8: np.uint8,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}
MAX_ERROR = 1e-3  # of the spread of outputs, between a network and its graph
CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")
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
        _drop_initializers_from_inputs(self.model)
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

    @property
    def is_quantized(self) -> bool:
        """Whether it computes in 8 bits already."""
        return any(node.op_type in QUANTIZED for node in self.model.graph.node)

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

    def compare_statistics(self, inputs: NDArray[Any]) -> float | None:  # noqa: ARG002
        """Return None: most files have their batch normalisation folded into convolutions."""
        return None

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


def to_body(
    model: onnx.ModelProto,
    network: Any,
    example: NDArray[Any],
    *,
    traced: int | None = None,
) -> onnx.ModelProto:
    """Bring a graph to the form that ``graph.attach_contract`` takes.

    Its input and output get the names that export uses, a fixed batch size is lifted, and
    onnxruntime folds constants and batch normalisation; what comes out is compared with the
    network.

    Args:
        model: A graph with one input and one output, of opset 13 or newer.
        network: What the graph was made from; see ``convention.Network``.
        example: Inputs, shape (N, ...), N at least 3.
        traced: The batch size that PyTorch's exporter ran the network with, if it did. Its graph
            is optimised already.

    Raises:
        ModelError: The graph does not compute what the network does at any batch size.
    """
    _drop_initializers_from_inputs(model)
    _rename(model.graph, model.graph.input[0].name, BODY_INPUT)
    _rename(model.graph, model.graph.output[0].name, BODY_OUTPUT)
    fixed = _fixed_batch(model.graph)
    expected = run_batches(network, example)
    reason = ""
    # A graph may be fixed to the batch that it was traced with although its input does not say so.
    for lifted in [fixed] if fixed else [None, traced] if traced else [None]:
        try:
            free = free_batch(model, lifted)
            is_optimised = traced and not lifted
            body = strip(use_global_average_pool(free)) if is_optimised else optimise(free)
            reason = _compare(body, example, expected)
        except Exception as failure:  # onnxruntime's exceptions share no base class of their own
            reason = one_line(failure)
        if not reason:
            return body
    what = f"computes something else than its graph: {reason}"
    if fixed or traced:
        what = f"is fixed to a batch of {fixed or traced}, which cannot be lifted: {reason}"
        what += "; export it with a dynamic batch"
    raise ModelError(f"the network {network.name} {what}")


def _compare(body: onnx.ModelProto, example: NDArray[Any], expected: NDArray[np.float32]) -> str:
    """Return how a body differs from its network at some batch size, or an empty string."""
    session = open_session(body.SerializeToString(), provider="cpu")
    found = [_run(session, example, n) for n in (1, 3, len(example))]
    if any(one.shape != expected.shape for one in found):
        return f"outputs of shape {found[0].shape}, expected {expected.shape}"
    spread = float(np.ptp(expected)) or 1.0
    error = max(float(np.abs(one - expected).max()) for one in found) / spread
    return "" if error <= MAX_ERROR else f"outputs differ by {error:.2%} of their spread"


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


def free_batch(model: onnx.ModelProto, fixed: int | None) -> onnx.ModelProto:
    """Return a copy of a graph whose batch is free.

    Where a constant shape begins with the batch, or a multiple of it, its first entry becomes free.

    Args:
        model: Any graph with one input and one output.
        fixed: The batch size that it was written for; None if it is free already.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if fixed:
        copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = fixed
        copy = _free_shapes(copy, fixed)
    for value in (copy.graph.input[0], copy.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_param = "batch"
    return copy


def _free_shapes(model: onnx.ModelProto, fixed: int) -> onnx.ModelProto:
    with contextlib.suppress(Exception):  # without shapes fewer constants are recognised
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = model.graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    depends = {graph.input[0].name}
    for place, node in enumerate(graph.node):
        if not depends.intersection(node.input):
            continue
        depends.update(node.output)
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = [int(size) for size in constants[node.input[1]]]
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        target = _resolve(target, before, after)
        if target and target[0] > 0 and target[0] % fixed == 0 and -1 not in target:
            name = f"free_shape_{place}"
            shape = np.array([-1, *target[1:]], np.int64)
            graph.initializer.append(numpy_helper.from_array(shape, name))
            node.input[1] = name
    del graph.value_info[:]
    return model


def _resolve(target: list[int], before: list[int], after: list[int]) -> list[int]:
    """Replace the -1 and 0 of a Reshape's target by sizes, where they are known."""
    if -1 in target and all(after) and len(after) == len(target):
        return after
    if 0 in target and all(before) and len(before) >= len(target):
        return [size or before[axis] for axis, size in enumerate(target)]
    return target


def optimise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let onnxruntime fold constants and batch normalisation; only standard operators come out."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        optimised = onnx.load(path)
    _flatten_biases(optimised.graph)
    return strip(optimised)


def _flatten_biases(graph: onnx.GraphProto) -> None:
    """Take the 1 off the shape (1, n) of a Gemm's bias, which the quantizer cannot do with."""
    biases = {
        node.input[2] for node in graph.node if node.op_type == "Gemm" and len(node.input) > 2
    }
    for tensor in graph.initializer:
        if tensor.name in biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]


def _run(session: Any, inputs: NDArray[Any], n: int) -> NDArray[np.float32]:
    """Run a body on batches of n."""
    batches = [inputs[row : row + n] for row in range(0, len(inputs), n)]
    rows = [session.run(None, {BODY_INPUT: batch})[0] for batch in batches]
    return np.asarray(np.concatenate(rows), np.float32)


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


def _fixed_batch(graph: onnx.GraphProto) -> int | None:
    size = int(graph.input[0].type.tensor_type.shape.dim[0].dim_value)
    return size if size > 0 else None


def _drop_initializers_from_inputs(model: onnx.ModelProto) -> None:
    """Remove weights from the inputs, where files of IR version 3 have to list them too."""
    graph = model.graph
    model.ir_version = max(model.ir_version, 4)
    weights = {one.name for one in graph.initializer}
    kept = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)


def _add_initializers_to_inputs(graph: onnx.GraphProto) -> None:
    known = {value.name for value in graph.input}
    graph.input.extend(
        helper.make_tensor_value_info(one.name, one.data_type, one.dims)
        for one in graph.initializer
        if one.name not in known
    )


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Rename a tensor wherever it stands; another one of the new name makes way."""
    if name == new:
        return
    taken = {new: f"{new}_", name: new}
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = taken.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, one in enumerate(names):
                names[place] = taken.get(one, one)
