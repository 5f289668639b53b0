"""From a network to an ONNX graph that keeps the contract, float32 or int8.

Two steps. First the body: the network alone, from its own input to its own output, as PyTorch's
exporter or its author wrote it; it is what gets quantised. Then the contract around it: ``images``
uint8 in, brought to the network's convention, ``logits`` divided by the temperature and
``probabilities`` out, and the metadata.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_mnist.errors import ModelError, one_line
from edge_mnist.exporting.convention import (
    LAYOUTS,
    MIN_PROBABILITY,
    Layout,
    PixelConvention,
    resize_weights,
    run_batches,
)
from edge_mnist.session import import_onnxruntime, open_session

OPSET, IR_VERSION = 18, 8  # what an onnxruntime of 2023 opens
MAX_ERROR = 1e-3  # of the spread of outputs, between a network and its graph
BODY_INPUT, BODY_OUTPUT, TAIL_INPUT = "pixels", "logits", "tail_input"
# What may follow the last layer of a network; see ``quantize_body``.
QUANTIZED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger")
ACTIVATIONS = ("Softmax", "LogSoftmax", "Sigmoid")
TAIL_OPERATORS = (*ACTIVATIONS, "Log", "Clip", "Flatten", "Reshape", "Squeeze", "Identity")


def to_body(
    model: onnx.ModelProto,
    network: Any,
    example: NDArray[Any],
    *,
    traced: int | None = None,
) -> onnx.ModelProto:
    """Bring a graph to the form that ``attach_contract`` takes.

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
    drop_initializers_from_inputs(model)
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


def _run(session: Any, inputs: NDArray[Any], n: int) -> NDArray[np.float32]:
    """Run a body on batches of n."""
    batches = [inputs[row : row + n] for row in range(0, len(inputs), n)]
    rows = [session.run(None, {BODY_INPUT: batch})[0] for batch in batches]
    return np.asarray(np.concatenate(rows), np.float32)


def drop_initializers_from_inputs(model: onnx.ModelProto) -> None:
    """Remove weights from the inputs, where files of IR version 3 have to list them too."""
    graph = model.graph
    model.ir_version = max(model.ir_version, 4)
    weights = {one.name for one in graph.initializer}
    kept = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(kept)


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


def _fixed_batch(graph: onnx.GraphProto) -> int | None:
    size = int(graph.input[0].type.tensor_type.shape.dim[0].dim_value)
    return size if size > 0 else None


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


def use_global_average_pool(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace means over the whole height and width by GlobalAveragePool, in place.

    PyTorch's exporter writes AdaptiveAvgPool2d(1) as ReduceMean, which onnxruntime has no 8-bit
    kernel for; the quantised model would return to float32 there.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
    }
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = {int(axis) % 4 for axis in numpy_helper.to_array(constants[node.input[1]])}
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if axes == {2, 3} and ranks.get(node.input[0]) == 4 and attributes.get("keepdims", 1):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    _drop_unused(graph)
    return model


def fold_temperature(body: onnx.ModelProto, temperature: float) -> float:
    """Divide the weights of a body's last layer by the temperature, where they give the logits.

    A node for the division would cost 1 us of the 20 us of one image. What is changed is the
    graph's copy of the weights, in place; the network keeps its own.

    Returns:
        The temperature that is left to divide by: 1 if it was folded.
    """
    graph = body.graph
    (last,) = (node for node in graph.node if BODY_OUTPUT in node.output)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers = [name for node in graph.node for name in node.input]
    names = list(last.input[1:])
    is_own = all(name in weights and readers.count(name) == 1 for name in names)
    if last.op_type not in ("Gemm", "MatMul") or not is_own:
        return temperature
    for name in names:
        scaled = numpy_helper.to_array(weights[name]) / np.float32(temperature)
        weights[name].CopyFrom(numpy_helper.from_array(scaled, name))
    return 1.0


def attach_contract(
    body: onnx.ModelProto,
    metadata: Mapping[str, str],
    *,
    convention: PixelConvention,
    n_classes: int = 10,
    output: str = "logits",
    temperature: float = 1.0,
) -> onnx.ModelProto:
    """Put the contract around a body, float32 or quantised.

    Args:
        body: Takes ``pixels`` in the form of ``convention``, returns ``logits`` or whatever
            ``output`` says, each with a free batch.
        metadata: The file's ``metadata_props``.
        convention: What the body takes.
        n_classes: Numbers that it returns for each image.
        output: What it returns, one of ``convention.OUTPUTS``.
        temperature: Divides the logits.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    graph = model.graph
    head = _Nodes("image")
    element_type = graph.input[0].type.tensor_type.elem_type
    _add_convention(head, convention, element_type)
    # An image whose values only have to be scaled already is a quantised tensor: one node makes
    # pixels of it, and replaces a quantised body's own QuantizeLinear and DequantizeLinear.
    is_scaled_only = head.nodes[-1].op_type == "DequantizeLinear"
    factor = convention.scale / convention.stds[0]
    pixels = _cut_input_quantizer(graph, factor) if is_scaled_only else BODY_INPUT
    head.nodes[-1].output[0] = pixels
    tail = _Nodes("score")
    scores = BODY_OUTPUT
    if output == "probabilities" or temperature != 1:
        _rename_output(graph, BODY_OUTPUT, "scores")
        scores = "scores"
    if output == "probabilities":
        scores = tail.add("Max", scores, tail.constant(MIN_PROBABILITY))
        scores = tail.add("Log", scores)
    if temperature != 1:
        scores = tail.add("Div", scores, tail.constant(temperature))
    if tail.nodes:
        tail.nodes[-1].output[0] = "logits"
    tail.nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    nodes = [*head.nodes, *graph.node, *tail.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*head.constants, *tail.constants])
    _declare(graph.input, {"images": (onnx.TensorProto.UINT8, ["batch", 28, 28])})
    shape: list[str | int] = ["batch", n_classes]
    declared = (onnx.TensorProto.FLOAT, shape)
    _declare(graph.output, {"logits": declared, "probabilities": declared})
    helper.set_model_props(model, dict(metadata))
    return strip(model)


class _Nodes:
    """Nodes in a row and their constants, under names of their own."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: Any = np.float32) -> str:
        """Add a constant; return its name."""
        name = f"{self.prefix}_constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = f"{self.prefix}_value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name


def _add_convention(head: _Nodes, convention: PixelConvention, element_type: int) -> None:
    """Add what ``PixelConvention.to_inputs`` computes; the last node gives the network's input."""
    layout = LAYOUTS[convention.layout]
    values = "images"
    if layout.fit == "padded":
        values = _pad(head, values, (1, 2), np.uint8)
    is_flat_last = layout.fit == "resized" or (layout.fit == "zero-padded" and layout.channels == 1)
    if not is_flat_last:
        values = _shape(head, values, layout)
    means = np.asarray(convention.means, np.float64)
    stds = np.asarray(convention.stds, np.float64)
    factors, offsets = convention.scale / stds, -means / stds  # value * factor + offset
    is_one_factor = layout.channels == 1 and layout.fit != "resized"
    head_factor = factors[0] if is_one_factor else 1.0
    zero = head.constant(0, np.uint8)
    values = head.add("DequantizeLinear", values, head.constant(head_factor), zero)
    if layout.fit == "resized":
        values = _resize(head, values)
        values = _shape(head, values, layout)
    if convention.inverted:
        factors, offsets = -factors, offsets + 255 * factors
    values = _scale(head, values, factors / head_factor, offsets, layout)
    if layout.fit == "zero-padded":
        axes = (1, 2) if layout.channels == 1 or layout.is_channels_last else (2, 3)
        values = _pad(head, values, axes, np.float32)
        if is_flat_last:
            values = _shape(head, values, layout)
    if element_type not in (0, onnx.TensorProto.FLOAT):
        head.add("Cast", values, to=element_type)


def _shape(head: _Nodes, values: str, layout: Layout) -> str:
    """Give images (N, side, side) the shape of a layout; of three channels there is one so far."""
    if len(layout.shape) == 2 and 1 not in layout.shape:
        return values
    if layout.channels == 3 or (layout.shape[0] == 1 and len(layout.shape) == 3):
        axis = 3 if layout.is_channels_last else 1
        return head.add("Unsqueeze", values, head.constant([axis], np.int64))
    return head.add("Reshape", values, head.constant([-1, *layout.shape], np.int64))


def _scale(
    head: _Nodes,
    values: str,
    factors: NDArray[np.float64],
    offsets: NDArray[np.float64],
    layout: Layout,
) -> str:
    """Add ``values * factors + offsets``, one node for each that is needed."""
    if layout.channels == 1:
        factor, offset = float(factors[0]), float(offsets[0])
        if factor == -1:
            return head.add("Sub", head.constant(offset), values)
        if factor != 1:
            values = head.add("Mul", values, head.constant(factor))
        return head.add("Add", values, head.constant(offset)) if offset else values
    shape = (3,) if layout.is_channels_last else (3, 1, 1)
    planes = [np.broadcast_to(one, 3).reshape(shape) for one in (factors, offsets)]
    values = head.add("Mul", values, head.constant(planes[0]))  # three planes of one
    return head.add("Add", values, head.constant(planes[1])) if planes[1].any() else values


def _pad(head: _Nodes, values: str, axes: tuple[int, int], dtype: Any) -> str:
    """Add two pixels of 0 on each side."""
    pads, places = head.constant([2, 2, 2, 2], np.int64), head.constant(axes, np.int64)
    return head.add("Pad", values, pads, head.constant(0, dtype), places)


def _resize(head: _Nodes, values: str) -> str:
    """Add what ``convention.resize`` computes."""
    weights, half = resize_weights(), head.constant(0.5)
    values = head.add("MatMul", values, head.constant(weights.T))
    values = head.add("Floor", head.add("Add", values, half))
    values = head.add("MatMul", head.constant(weights), values)
    return head.add("Floor", head.add("Add", values, half))


@dataclass(frozen=True)
class Quantization:
    """How a model is quantised.

    Attributes:
        weights: Signed 8 bit, symmetric, a scale for each output channel.
        activations: Unsigned 8 bit, a scale for each tensor.
        reduce_range: Weights use 7 of their 8 bits, because x86 processors without VNNI add two
            products of unsigned and signed bytes in 16 bits, which saturate at 8 bits.
        method: How ranges are found in the calibration images.
        n_images: Calibration images.
        seed: Of the choice of those images among the training images.
    """

    weights: str = "int8 per channel"
    activations: str = "uint8 per tensor"
    reduce_range: bool = True
    method: str = "minmax"
    n_images: int = 1000
    seed: int = 0

    def to_dict(self) -> dict[str, str | int | bool]:
        """Return all settings, for the metadata."""
        return asdict(self)


def choose_calibration(images: NDArray[np.uint8], settings: Quantization) -> NDArray[np.uint8]:
    """Draw the calibration images from those that a network was trained on.

    Args:
        images: Training images, shape (N, 28, 28), uint8.
        settings: Number of images and seed.
    """
    rows = np.random.default_rng(settings.seed).permutation(len(images))[: settings.n_images]
    return images[np.sort(rows)]


def is_quantized(body: onnx.ModelProto) -> bool:
    """Return whether a body computes in 8 bits already."""
    return any(node.op_type in QUANTIZED for node in body.graph.node)


def quantize_body(
    body: onnx.ModelProto, calibration: NDArray[Any], settings: Quantization
) -> onnx.ModelProto:
    """Quantise a float32 body: statically, in QDQ form, per channel.

    What follows the last layer, such as a softmax, stays float32: on 256 levels it would lose the
    difference between two likely classes.

    Args:
        body: Takes ``pixels``, returns ``logits``.
        calibration: Inputs that fix the scales, shape (N, ...).
        settings: How to quantise.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    scratch = onnx.ModelProto()  # quantize_static moves the weights of its input to a file
    scratch.CopyFrom(body)
    tail = _cut_tail(scratch.graph)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            scratch,
            path,
            _make_reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=settings.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantized = onnx.load(path)
    _cut_output_quantizer(quantized.graph)
    if tail.nodes:
        _rename_output(quantized.graph, BODY_OUTPUT, TAIL_INPUT)
        tail.nodes[-1].output[0] = BODY_OUTPUT
        quantized.graph.node.extend(tail.nodes)
        quantized.graph.initializer.extend(tail.constants)
    return strip(quantized)


def _cut_tail(graph: onnx.GraphProto) -> _Nodes:
    """Cut off what follows the last layer; the layer then returns ``logits``."""
    writers = {name: node for node in graph.node for name in node.output}
    constants = {one.name: one for one in graph.initializer}
    tail, name = _Nodes("tail"), BODY_OUTPUT
    found: list[onnx.NodeProto] = []
    while name in writers and writers[name].op_type in TAIL_OPERATORS:
        if not constants.keys() >= set(writers[name].input[1:]):
            break
        found.insert(0, writers[name])
        name = found[0].input[0]
    if not any(node.op_type in ACTIVATIONS for node in found):
        return tail
    for node in found:
        graph.node.remove(node)
        arrays = [numpy_helper.to_array(constants[one]) for one in node.input[1:]]
        kept = [tail.constant(array, array.dtype) for array in arrays]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend([tail.nodes[-1].output[0] if tail.nodes else TAIL_INPUT, *kept])
        copy.output[0] = f"tail_value{len(tail.nodes)}"
        tail.nodes.append(copy)
    _rename_output(graph, name, BODY_OUTPUT)
    _drop_unused(graph)
    return tail


def _make_reader(inputs: NDArray[Any]) -> "object":
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Yields inputs, a hundred at a time."""

        def __init__(self) -> None:
            self.batches = iter([inputs[row : row + 100] for row in range(0, len(inputs), 100)])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {BODY_INPUT: batch}

    return Reader()


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take away what no runtime needs, in place: doc strings, traces, types of inner values.

    Inner names become short ones; on a network this small they weigh as much as a layer.
    """
    graph = model.graph
    graph.name, graph.doc_string, model.doc_string = "edge-mnist", "", ""
    model.producer_name, model.producer_version = "edge-mnist", ""
    model.ir_version = IR_VERSION
    del graph.value_info[:], graph.metadata_props[:], model.functions[:]
    used_domains = {node.domain for node in graph.node}
    opsets = [entry for entry in model.opset_import if entry.domain in used_domains]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    for tensor in graph.initializer:  # said of weights that were read from another file
        tensor.ClearField("data_location")
    for node in graph.node:
        _drop_defaults(node)
    _drop_bias_zeros(graph)
    _shorten_names(graph)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporter's and the quantizer's advice.

    The quantizer writes to the root logger; only its own records are filtered there.
    """

    def is_foreign(record: logging.LogRecord) -> bool:
        return "quantization" not in Path(record.pathname).parts

    logging.root.addFilter(is_foreign)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.removeFilter(is_foreign)


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Remove attributes of a convolution that are defaults or follow from its weights' shape."""
    if node.op_type != "Conv":
        return
    unsaid = {"group": 1, "auto_pad": b"NOTSET"}
    kept = [
        attribute
        for attribute in node.attribute
        if attribute.name not in ("kernel_shape", "dilations", "pads", "strides")
        or (attribute.name == "pads" and any(attribute.ints))
        or (attribute.name in ("strides", "dilations") and set(attribute.ints) != {1})
    ]
    kept = [one for one in kept if helper.get_attribute_value(one) != unsaid.get(one.name)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_bias_zeros(graph: onnx.GraphProto) -> None:
    """Remove the zero points of 32-bit biases: they are 0, which is the default.

    Those of the 8-bit weights are 0 as well, but without them onnxruntime no longer runs the last
    layer in 8 bits.
    """
    biases = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.INT32}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in biases:
            del node.input[2:]
    _drop_unused(graph)


def _cut_input_quantizer(graph: onnx.GraphProto, factor: float) -> str:
    """Remove the quantizer of a body's input where it changes nothing; return the pixels' name.

    Args:
        graph: Of a body whose pixels are the image's values times ``factor``.
        factor: As above.
    """
    readers = [node for node in graph.node if BODY_INPUT in node.input]
    if [node.op_type for node in readers] != ["QuantizeLinear"]:
        return BODY_INPUT
    quantize = readers[0]
    others = [node for node in graph.node if quantize.output[0] in node.input]
    if [node.op_type for node in others] != ["DequantizeLinear"]:  # an operator on 8 bits reads it
        return BODY_INPUT
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    values = np.arange(256, dtype=np.float64) * factor
    if not np.allclose(_round_trip(values, quantize, constants), values, atol=1e-4 * factor):
        return BODY_INPUT
    for node in (quantize, others[0]):
        graph.node.remove(node)
    _drop_unused(graph)
    return str(others[0].output[0])


def _round_trip(
    values: NDArray[np.float64], quantize: onnx.NodeProto, constants: Mapping[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """Return values after quantisation by a node, and back."""
    scale = constants.get(quantize.input[1], np.array(np.nan)).astype(np.float64)
    zero = np.array(0, np.uint8)  # of a node that has none
    if len(quantize.input) > 2:
        zero = constants.get(quantize.input[2], zero)
    limits = np.iinfo(zero.dtype)
    quantized = np.clip(np.rint(values / scale) + zero, limits.min, limits.max)
    return np.asarray((quantized - zero) * scale, np.float64)


def _cut_output_quantizer(graph: onnx.GraphProto) -> None:
    """Let a quantised body's last layer return float32 logits, not ones rounded to 8 bits."""
    last = graph.node[-1]
    if last.op_type != "DequantizeLinear":
        return
    quantize = graph.node[-2]
    (layer,) = (node for node in graph.node if quantize.input[0] in node.output)
    layer.output[0] = last.output[0]
    graph.node.remove(last)
    graph.node.remove(quantize)
    _drop_unused(graph)


def _rename_output(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Rename a tensor wherever nodes write or read it."""
    for node in graph.node:
        for names in (node.input, node.output):
            for place, one in enumerate(names):
                if one == name:
                    names[place] = new


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _declare(values: "object", wanted: Mapping[str, tuple[int, list[str | int]]]) -> None:
    del values[:]  # type: ignore[attr-defined]
    for name, (kind, shape) in wanted.items():
        values.append(helper.make_tensor_value_info(name, kind, shape))  # type: ignore[attr-defined]


def _shorten_names(graph: onnx.GraphProto) -> None:
    outside = {value.name for value in (*graph.input, *graph.output)}
    short = {name: name for name in outside} | {"": ""}
    for tensor in graph.initializer:
        tensor.name = short.setdefault(tensor.name, f"w{len(short)}")
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = short.setdefault(name, f"v{len(short)}")
