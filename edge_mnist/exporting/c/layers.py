"""Read an int8 model file as a list of layers, without onnx: what a chip has to compute.

onnxruntime runs such a file (QDQ form: DequantizeLinear, operator, QuantizeLinear) with integer
kernels where it knows one for the operator. This module accepts those operators and refuses others
by name.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError
from edge_mnist.model_file import (
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    MODEL_GRAPH,
    ModelFile,
    read_bytes,
    read_fields,
    read_varint,
)

Array = NDArray[Any]
IMAGE = 0  # the tensor that the caller hands in
MAX_ACCUMULATOR = 2**31 - 1
# What the tables of the C code can hold; layers are numbered below 100 in the self-test.
MAX_SIDE, MAX_CHANNELS, MAX_LAYERS = 255, 32767, 99
OPERATORS = (
    "Conv, Gemm, MatMul, Add, MaxPool, AveragePool, GlobalAveragePool, Relu, Clip, Flatten, Reshape"
)
# TensorProto.DataType -> NumPy.
DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}


@dataclass(frozen=True)
class Tensor:
    """What one layer writes and others read: uint8, ``scale * (value - zero_point)``.

    A flattened tensor keeps its height and width; Gemm is a convolution over all of it.
    """

    channels: int
    height: int
    width: int
    scale: np.float32
    zero_point: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One step of the arithmetic.

    Attributes:
        kind: conv (also Gemm and MatMul), depthwise, maxpool, averagepool, globalaveragepool, add,
            or lookup.
        name: For people: the operator and its number, ``conv2``.
        inputs: Tensors that it reads; 0 is the image.
        output: The tensor that it writes; None for the scores.
        weights: int8, (out, in, height, width); for depthwise (out, 1, height, width).
        bias: int32, (out,).
        scales: float32: for conv and depthwise what an accumulator is multiplied by, (out,).
        kernel: Height and width.
        strides: Down and right.
        pads: Top and left; what is missing below and on the right follows from the shapes.
        padding_counted: Whether averagepool divides by the whole kernel at the border too.
        table: Of a lookup, uint8, (256,).
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    output: int | None
    weights: NDArray[np.int8] = field(default_factory=lambda: np.zeros((0, 0, 0, 0), np.int8))
    bias: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    scales: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    padding_counted: bool = False
    table: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))


@dataclass(frozen=True, eq=False)
class Network:
    """The layers of a model file, in the order in which they are computed.

    Attributes:
        layers: The last one writes the scores.
        tensors: What they exchange; ``tensors[0]`` is the image.
        divisor: Divides the dequantised scores; 1 where the temperature is in the weights.
    """

    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    divisor: np.float32

    @property
    def n_classes(self) -> int:
        """Scores of one image."""
        return len(self.layers[-1].bias)

    def out_shape(self, layer: Layer) -> tuple[int, int, int]:
        """Return channels, height and width of what a layer writes."""
        if layer.output is None:
            return self.n_classes, 1, 1
        tensor = self.tensors[layer.output]
        return tensor.channels, tensor.height, tensor.width

    def count_multiply_adds(self, layer: Layer) -> int:
        """Return the multiplications of a layer for one image, padding counted as pixels."""
        _, height, width = self.out_shape(layer)
        return int(layer.weights.size) * height * width


@dataclass(frozen=True)
class _Node:
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass
class _Draft:
    """An operator whose output scale the next QuantizeLinear will say."""

    kind: str
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    options: dict[str, Any] = field(default_factory=dict)
    weight_scales: Array | None = None
    low: float = -np.inf
    high: float = np.inf


def read_network(model: ModelFile) -> Network:
    """Read an int8 model file of the contract.

    Raises:
        ModelError: It is not quantised, or has an operator, or a form of one, that onnxruntime does
            not run in integers or this module does not know.
    """
    try:
        return _Reader(model.content).read()
    except ModelError as error:
        raise ModelError(f"{model.path}: {error}") from error
    except (KeyError, IndexError, StopIteration, struct.error) as error:
        raise ModelError(f"{model.path}: no int8 model that C can be written for") from error


class _Reader:
    """Turns the nodes of a graph into layers, from the image to the logits."""

    def __init__(self, content: bytes) -> None:
        graph = next(read_bytes(content, MODEL_GRAPH))
        self.nodes = [_parse_node(node) for node in read_bytes(graph, GRAPH_NODE)]
        self.constants = dict(map(_parse_tensor, read_bytes(graph, GRAPH_INITIALIZER)))
        self.weights: dict[str, tuple[Array, Array]] = {}  # dequantised constants: values, scales
        self.quantised = {"images": IMAGE}  # name -> tensor
        self.floats: dict[str, int] = {}  # name of a dequantised tensor -> tensor
        self.drafts: dict[str, _Draft] = {}
        self.tensors: list[Tensor] = []
        self.layers: list[Layer] = []
        self.divisor = np.float32(1)

    def read(self) -> Network:
        for node in self.nodes:
            handler = getattr(self, f"_read_{node.op.lower()}", None)
            if handler is None:
                raise ModelError(f"the operator {node.op} is not supported; supported: {OPERATORS}")
            handler(node)
        if not self.layers or self.layers[-1].output is not None:
            raise ModelError("expected an int8 model whose last layer computes the logits")
        self._check_sizes()
        return Network(tuple(self.layers), tuple(self.tensors), self.divisor)

    def _check_sizes(self) -> None:
        """Refuse what the tables of the C code cannot hold."""
        for tensor in self.tensors:
            if max(tensor.height, tensor.width) > MAX_SIDE or tensor.channels > MAX_CHANNELS:
                raise ModelError(
                    f"a layer has more than {MAX_SIDE} rows or {MAX_CHANNELS} channels"
                )
        n_channels = sum(len(layer.bias) for layer in self.layers)
        if max(len(self.layers), len(self.tensors)) > MAX_LAYERS or n_channels > MAX_CHANNELS:
            raise ModelError(
                f"expected at most {MAX_LAYERS} layers with {MAX_CHANNELS} channels in all, got "
                f"{len(self.layers)} with {n_channels}"
            )
        for layer in self.layers:
            multiplier = 0
            if layer.kind == "depthwise":
                multiplier = len(layer.weights) // self.tensors[layer.inputs[0]].channels
            if max(*layer.kernel, *layer.strides, *layer.pads, multiplier) > MAX_SIDE:
                raise ModelError(
                    f"{layer.name} has a kernel, stride, padding or number of outputs for each "
                    f"channel above {MAX_SIDE}"
                )

    # Quantisation

    def _read_unsqueeze(self, node: _Node) -> None:
        if node.inputs[0] != "images":
            raise ModelError("the operator Unsqueeze is supported only on the images")
        self.quantised[node.outputs[0]] = IMAGE

    def _read_dequantizelinear(self, node: _Node) -> None:
        name, output = node.inputs[0], node.outputs[0]
        scale = self.constants[node.inputs[1]]
        if name in self.constants:
            zeros = self.constants[node.inputs[2]] if len(node.inputs) > 2 else np.zeros(1)
            if zeros.any():
                raise ModelError("weights with a zero point are not supported")
            self.weights[output] = self.constants[name], np.atleast_1d(scale)
            return
        if not self.tensors:
            zero_point = int(self.constants[node.inputs[2]])
            self.tensors.append(Tensor(1, 28, 28, np.float32(scale), zero_point))
        self.floats[output] = self.quantised[name]

    def _read_quantizelinear(self, node: _Node) -> None:
        scale = np.float32(self.constants[node.inputs[1]])
        zero_point = self.constants[node.inputs[2]]
        if zero_point.dtype != np.uint8 or zero_point.ndim:
            raise ModelError("only uint8 activations with one scale for a tensor are supported")
        self.quantised[node.outputs[0]] = self._finish(node.inputs[0], scale, int(zero_point))

    def _finish(self, name: str, scale: np.float32, zero_point: int) -> int:
        """Complete the layer whose output is quantised; return the tensor that it writes."""
        if name in self.floats:  # only its scale changes
            source = self.tensors[self.floats[name]]
            if (source.scale, source.zero_point) == (scale, zero_point):
                return self.floats[name]
            shape = source.channels, source.height, source.width
            self.drafts[name] = _Draft("lookup", "Quantize", (self.floats[name],), shape)
        draft = self.drafts.pop(name)
        source = self.tensors[draft.inputs[0]]
        target = Tensor(*draft.shape, scale, zero_point)
        options = draft.options
        if draft.kind == "maxpool" and (source.scale, source.zero_point) != (scale, zero_point):
            self.tensors.append(Tensor(*draft.shape, source.scale, source.zero_point))
            self._append(draft, len(self.tensors) - 1)
            pooled = (len(self.tensors) - 1,)
            draft = _Draft(
                "lookup", "Quantize", pooled, draft.shape, low=draft.low, high=draft.high
            )
            options = draft.options
        if draft.kind == "lookup":
            options["table"] = _make_table(source, target, draft.low, draft.high)
        else:
            _refuse_effective_clip(draft, target)
        if draft.weight_scales is not None:
            # In the order in which onnxruntime multiplies and divides float32.
            options["scales"] = source.scale * draft.weight_scales / scale
        if draft.kind == "globalaveragepool":
            pixels = np.float32(source.height * source.width)
            options["scales"] = np.atleast_1d(source.scale / (scale * pixels))
        self.tensors.append(target)
        self._append(draft, len(self.tensors) - 1)
        return len(self.tensors) - 1

    def _append(self, draft: _Draft, output: int | None) -> None:
        number = sum(layer.name.startswith(draft.op.lower()) for layer in self.layers) + 1
        name = f"{draft.op.lower()}{number}"
        self.layers.append(Layer(draft.kind, name, draft.inputs, output, **draft.options))

    def _source(self, node: _Node) -> int:
        """Return the quantised tensor that a node reads."""
        name = node.inputs[0]
        if name not in self.floats:
            raise ModelError(f"{node.op} reads values that are not quantised")
        return self.floats[name]

    # Operators with weights

    def _read_conv(self, node: _Node) -> None:
        source = self._source(node)
        tensor = self.tensors[source]
        weights, weight_scales = self._weights(node)
        group = node.attributes.get("group", 1)
        if set(node.attributes.get("dilations", [1])) != {1}:
            raise ModelError("Conv with dilations is not supported")
        if group not in (1, tensor.channels) or (group > 1 and weights.shape[1] != 1):
            raise ModelError(f"Conv with {group} groups is not supported: expected 1 or depthwise")
        kernel = weights.shape[2], weights.shape[3]
        strides, pads, (height, width) = _read_window(node, tensor, kernel)
        kind = "depthwise" if group > 1 else "conv"
        bias = self._bias(node, len(weights))
        options = {
            "weights": weights,
            "bias": bias,
            "kernel": kernel,
            "strides": strides,
            "pads": pads,
        }
        self._check_bound(node, weights, bias)
        shape = len(weights), height, width
        self.drafts[node.outputs[0]] = _Draft(
            kind, node.op, (source,), shape, options, weight_scales
        )

    def _read_gemm(self, node: _Node) -> None:
        plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        if any(node.attributes.get(name, value) != value for name, value in plain.items()):
            raise ModelError("Gemm with alpha, beta or transA is not supported")
        self._read_dense(node, is_transposed=bool(node.attributes.get("transB", 0)))

    def _read_matmul(self, node: _Node) -> None:
        self._read_dense(node, is_transposed=False)

    def _read_dense(self, node: _Node, *, is_transposed: bool) -> None:
        """Read a matrix product as a convolution over all of its input."""
        source = self._source(node)
        tensor = self.tensors[source]
        matrix, weight_scales = self._weights(node)
        matrix = matrix if is_transposed else matrix.T
        kernel = tensor.height, tensor.width
        if matrix.ndim != 2 or matrix.shape[1] != tensor.channels * kernel[0] * kernel[1]:
            raise ModelError(f"{node.op} is supported only on a flattened tensor")
        weights = matrix.reshape(len(matrix), tensor.channels, *kernel)
        bias = self._bias(node, len(weights))
        self._check_bound(node, weights, bias)
        options = {"weights": weights, "bias": bias, "kernel": kernel}
        draft = _Draft("conv", node.op, (source,), (len(weights), 1, 1), options, weight_scales)
        self.drafts[node.outputs[0]] = draft

    def _weights(self, node: _Node) -> tuple[NDArray[np.int8], Array]:
        """Return int8 weights and a scale for each output."""
        weights, scales = self.weights.get(node.inputs[1], (np.zeros(0), np.zeros(0)))
        if weights.dtype != np.int8:
            raise ModelError(f"{node.op} without int8 weights is not supported")
        n_outputs = weights.shape[0] if node.op != "MatMul" else weights.shape[1]
        if node.op == "Gemm" and not node.attributes.get("transB", 0):
            n_outputs = weights.shape[1]
        return weights, np.broadcast_to(scales, (n_outputs,)).astype(np.float32)

    def _bias(self, node: _Node, n_outputs: int) -> NDArray[np.int32]:
        if len(node.inputs) < 3:
            return np.zeros(n_outputs, np.int32)
        values: Array = self.weights.get(node.inputs[2], (np.zeros(0), np.zeros(0)))[0]
        if values.dtype != np.int32:
            raise ModelError(f"{node.op} with a bias that is not int32 is not supported")
        return values

    def _check_bound(self, node: _Node, weights: Array, bias: Array) -> None:
        bound = 255 * np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3)) + np.abs(bias)
        if bound.max() > MAX_ACCUMULATOR:
            raise ModelError(f"an accumulator of {node.op} does not fit into 32 bits")

    # Operators without weights

    def _read_maxpool(self, node: _Node) -> None:
        self._read_pool(node, "maxpool")

    def _read_averagepool(self, node: _Node) -> None:
        tensor = self.tensors[self._source(node)]
        whole = [tensor.height, tensor.width]
        if node.attributes["kernel_shape"] == whole and not any(node.attributes.get("pads", [])):
            self._read_globalaveragepool(node)  # as onnxruntime does
        else:
            self._read_pool(node, "averagepool")

    def _read_pool(self, node: _Node, kind: str) -> None:
        source = self._source(node)
        tensor = self.tensors[source]
        if set(node.attributes.get("dilations", [1])) != {1}:
            raise ModelError(f"{node.op} with dilations is not supported")
        height, width = node.attributes["kernel_shape"]
        kernel = height, width
        strides, pads, size = _read_window(node, tensor, kernel)
        options = {
            "kernel": kernel,
            "strides": strides,
            "pads": pads,
            "padding_counted": bool(node.attributes.get("count_include_pad", 0)),
        }
        shape = tensor.channels, *size
        self.drafts[node.outputs[0]] = _Draft(kind, node.op, (source,), shape, options)

    def _read_globalaveragepool(self, node: _Node) -> None:
        source = self._source(node)
        tensor = self.tensors[source]
        options = {"kernel": (tensor.height, tensor.width)}
        shape = tensor.channels, 1, 1
        self.drafts[node.outputs[0]] = _Draft(
            "globalaveragepool", node.op, (source,), shape, options
        )

    def _read_add(self, node: _Node) -> None:
        if any(name not in self.floats for name in node.inputs):
            raise ModelError("Add is supported only for two quantised tensors")
        first, second = (self.floats[name] for name in node.inputs)
        one, other = self.tensors[first], self.tensors[second]
        shape = one.channels, one.height, one.width
        if shape != (other.channels, other.height, other.width):
            raise ModelError("Add of tensors of different shapes is not supported")
        self.drafts[node.outputs[0]] = _Draft("add", node.op, (first, second), shape)

    def _read_relu(self, node: _Node) -> None:
        self._clip(node, 0.0, np.inf)

    def _read_clip(self, node: _Node) -> None:
        limits = [-np.inf, np.inf]
        for place, name in enumerate(node.inputs[1:]):
            if name:
                limits[place] = float(self.constants[name])
        self._clip(node, *limits)

    def _clip(self, node: _Node, low: float, high: float) -> None:
        name = node.inputs[0]
        draft = self.drafts.pop(name, None)
        if draft is None:
            tensor = self.tensors[self._source(node)]
            shape = tensor.channels, tensor.height, tensor.width
            draft = _Draft("lookup", node.op, (self.floats[name],), shape)
        draft.low, draft.high = max(low, draft.low), min(high, draft.high)
        self.drafts[node.outputs[0]] = draft

    def _read_flatten(self, node: _Node) -> None:
        if node.attributes.get("axis", 1) != 1:
            raise ModelError("Flatten is supported only with axis 1")
        self._pass_on(node)

    def _read_reshape(self, node: _Node) -> None:
        shape = [int(size) for size in self.constants[node.inputs[1]]]
        if len(shape) != 2 or shape[0] not in (-1, 0):
            raise ModelError(f"Reshape to {shape} is not supported: expected one row for an image")
        self._pass_on(node)

    def _pass_on(self, node: _Node) -> None:
        name, output = node.inputs[0], node.outputs[0]
        if name in self.floats:
            self.floats[output] = self.floats[name]
        elif name in self.drafts:
            self.drafts[output] = self.drafts.pop(name)
        else:
            raise ModelError(f"{node.op} reads values that are not quantised")

    # The end of the graph

    def _read_div(self, node: _Node) -> None:
        divisor = self.constants.get(node.inputs[1])
        if node.outputs[0] != "logits" or divisor is None or divisor.size != 1:
            raise ModelError("the operator Div is supported only for the temperature")
        self.divisor = np.float32(divisor.item())
        self.drafts["logits"] = self.drafts.pop(node.inputs[0])

    def _read_softmax(self, node: _Node) -> None:
        draft = self.drafts.pop(node.inputs[0], None)
        if draft is None or node.inputs[0] != "logits" or draft.op not in ("Gemm", "MatMul"):
            raise ModelError("expected logits that Gemm or MatMul computes")
        assert draft.weight_scales is not None
        source = self.tensors[draft.inputs[0]]
        draft.options["scales"] = source.scale * draft.weight_scales
        self._append(draft, None)


def _read_window(
    node: _Node, tensor: Tensor, kernel: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return strides, padding above and left, and the height and width of the output."""
    if node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ModelError(f"{node.op} with auto_pad is not supported")
    strides = tuple(node.attributes.get("strides", [1, 1]))
    pads = node.attributes.get("pads", [0, 0, 0, 0])
    if len(strides) != 2 or len(pads) != 4:
        raise ModelError(f"{node.op} is supported only with two dimensions")
    if any(pads[side] > kernel[side % 2] for side in range(4)):
        raise ModelError(f"{node.op} with more padding than its kernel is not supported")
    size = []
    for axis, length in enumerate((tensor.height, tensor.width)):
        span = length + pads[axis] + pads[axis + 2] - kernel[axis]
        steps = -(-span // strides[axis]) if node.attributes.get("ceil_mode") else None
        count = (span // strides[axis] if steps is None else steps) + 1
        if steps is not None and steps * strides[axis] >= length + pads[axis]:
            count -= 1  # a window that would begin in the padding does not count
        size.append(count)
    return (strides[0], strides[1]), (pads[0], pads[1]), (size[0], size[1])


def _make_table(source: Tensor, target: Tensor, low: float, high: float) -> NDArray[np.uint8]:
    """Return the output for each of the 256 inputs, in float32 as onnxruntime computes it."""
    values = source.scale * (np.arange(256) - source.zero_point).astype(np.float32)
    values = np.clip(values, np.float32(low), np.float32(high)) / target.scale
    return np.asarray(np.clip(np.rint(values) + target.zero_point, 0, 255).astype(np.uint8))


def _refuse_effective_clip(draft: _Draft, target: Tensor) -> None:
    """Refuse Relu or Clip that cuts more than quantisation does: it would run in float32."""
    lowest = float(target.scale) * (0 - target.zero_point)
    highest = float(target.scale) * (255 - target.zero_point)
    if draft.low > lowest or draft.high < highest:
        raise ModelError(
            f"{draft.op} with a Relu or Clip narrower than its quantised range is not supported"
        )


def _parse_node(message: bytes) -> _Node:
    attributes = dict(map(_parse_attribute, read_bytes(message, 5)))
    names = [tuple(name.decode() for name in read_bytes(message, number)) for number in (1, 2)]
    return _Node(next(read_bytes(message, 4)).decode(), names[0], names[1], attributes)


def _parse_attribute(message: bytes) -> tuple[str, Any]:
    """Return name and value: float, int, bytes or list of int (AttributeProto's f, i, s, ints)."""
    fields = list(read_fields(message))
    name = next(read_bytes(message, 1)).decode()
    found: dict[int, Any] = dict(fields)
    if 2 in found:
        return name, struct.unpack("<f", found[2])[0]
    if 4 in found:
        return name, found[4]
    if 3 in found:
        return name, _signed(found[3])
    return name, list(_read_ints(fields, 8))


def _parse_tensor(message: bytes) -> tuple[str, Array]:
    """Return name and values of a TensorProto: dims, data_type, raw_data or the typed fields."""
    fields = list(read_fields(message))
    found: dict[int, Any] = dict(fields)
    name = found[8].decode()
    dims = list(_read_ints(fields, 1))
    if found[2] not in DTYPES:
        raise ModelError(f"the constant {name} has a type that is not supported")
    dtype = np.dtype(DTYPES[found[2]])
    if 9 in found:
        values = np.frombuffer(found[9], dtype)
    elif 4 in found:
        values = np.frombuffer(
            b"".join(v for n, v in fields if n == 4 and isinstance(v, bytes)), dtype
        )
    else:
        values = np.array(list(_read_ints(fields, 7 if dtype.itemsize == 8 else 5)), dtype)
    return name, values.reshape(dims)


def _read_ints(fields: list[tuple[int, int | bytes]], number: int) -> Iterator[int]:
    """Yield a repeated integer field, packed or not."""
    for found, value in fields:
        if found != number:
            continue
        if isinstance(value, int):
            yield _signed(value)
            continue
        place = 0
        while place < len(value):
            packed, place = read_varint(value, place)
            yield _signed(packed)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
