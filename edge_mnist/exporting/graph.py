"""From a network to an ONNX graph that keeps the contract, float32 or int8.

Two steps. First the body, pixels (N, 1, 28, 28) float32 to logits, as PyTorch's exporter writes
it; it is what gets quantised. Then the contract around it: ``images`` uint8 in, ``logits`` divided
by the temperature and ``probabilities`` out, and the metadata.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from edge_mnist.session import import_onnxruntime
from edge_mnist.training.networks import Normalise, PixelConvention, evaluation_mode

OPSET, IR_VERSION = 18, 8  # what an onnxruntime of 2023 opens
BODY_INPUT, BODY_OUTPUT = "pixels", "logits"


def export_body(network: nn.Module, convention: PixelConvention) -> onnx.ModelProto:
    """Export a network in evaluation mode; batch normalisation is folded into the convolutions.

    Args:
        network: Takes pixels (N, 1, 28, 28), float32, returns logits (N, classes).
        convention: Its mean and standard deviation become part of the body; its scale does not.
    """
    import_onnxruntime()  # before PyTorch's exporter does, which would start its telemetry
    whole = network
    if convention.is_normalised:
        whole = nn.Sequential(Normalise(convention.mean, convention.std), network)
    pixels = torch.zeros(2, 1, 28, 28)  # the exporter takes a batch of 1 for a fixed one
    batch = torch.export.Dim("batch", min=1)
    with evaluation_mode(whole), quiet():
        program = torch.onnx.export(
            whole,
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[BODY_INPUT],
            output_names=[BODY_OUTPUT],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    assert program is not None
    return strip(_use_global_average_pool(program.model_proto))


def _use_global_average_pool(model: onnx.ModelProto) -> onnx.ModelProto:
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
    scale: float,
    temperature: float = 1.0,
) -> onnx.ModelProto:
    """Put the contract around a body, float32 or quantised.

    An image needs no arithmetic of its own: with zero point 0 it already is a quantised tensor, so
    one DequantizeLinear makes pixels of it. In a quantised body that node replaces the body's own
    pair of QuantizeLinear and DequantizeLinear.

    Args:
        body: Takes ``pixels``, returns ``logits``.
        metadata: The file's ``metadata_props``.
        scale: Factor from an image's values to pixels.
        temperature: Divides the body's logits.
    """
    model = onnx.ModelProto()
    model.CopyFrom(body)
    graph = model.graph
    pixels = _cut_input_quantizer(graph)
    _cut_output_quantizer(graph)
    head = [
        helper.make_node("Unsqueeze", ["images", "axis"], ["image_planes"]),
        helper.make_node("DequantizeLinear", ["image_planes", "scale", "zero"], [pixels]),
    ]
    tail = [helper.make_node("Softmax", [BODY_OUTPUT], ["probabilities"], axis=1)]
    constants = [
        helper.make_tensor("axis", onnx.TensorProto.INT64, [1], [1]),
        helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("zero", onnx.TensorProto.UINT8, [], [0]),
    ]
    if temperature != 1:
        _rename_output(graph, BODY_OUTPUT, "scores")
        tail.insert(0, helper.make_node("Div", ["scores", "temperature"], [BODY_OUTPUT]))
        constants.append(
            helper.make_tensor("temperature", onnx.TensorProto.FLOAT, [], [temperature])
        )
    nodes = [*head, *graph.node, *tail]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    n_classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    _declare(graph.input, {"images": (onnx.TensorProto.UINT8, ["batch", 28, 28])})
    scores = (onnx.TensorProto.FLOAT, ["batch", n_classes])
    _declare(graph.output, {"logits": scores, "probabilities": scores})
    helper.set_model_props(model, dict(metadata))
    return strip(model)


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


def quantize_body(
    body: onnx.ModelProto, calibration: NDArray[np.uint8], settings: Quantization, *, scale: float
) -> onnx.ModelProto:
    """Quantise a float32 body: statically, in QDQ form, per channel.

    Args:
        body: Takes ``pixels`` (N, 1, 28, 28) float32.
        calibration: Images that fix the scales, shape (N, 28, 28), uint8.
        settings: How to quantise.
        scale: Factor from an image's values to pixels.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    scratch = onnx.ModelProto()  # quantize_static moves the weights of its input to a file
    scratch.CopyFrom(body)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            scratch,
            path,
            _make_reader(calibration, scale),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=settings.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return strip(onnx.load(path))


def _make_reader(images: NDArray[np.uint8], scale: float) -> "object":
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Yields pixels, a hundred images at a time."""

        def __init__(self) -> None:
            self.batches = self.draw()

        def draw(self) -> Iterator[dict[str, NDArray[np.float32]]]:
            for start in range(0, len(images), 100):
                pixels = images[start : start + 100, np.newaxis].astype(np.float32)
                yield {BODY_INPUT: pixels * np.float32(scale)}

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.batches, None)

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


def _cut_input_quantizer(graph: onnx.GraphProto) -> str:
    """Remove the quantizer of the body's input, if any; return the name that pixels then have."""
    readers = [node for node in graph.node if BODY_INPUT in node.input]
    if [node.op_type for node in readers] != ["QuantizeLinear"]:
        return BODY_INPUT
    quantize = readers[0]
    (dequantize,) = (node for node in graph.node if quantize.output[0] in node.input)
    graph.node.remove(quantize)
    graph.node.remove(dequantize)
    _drop_unused(graph)
    return str(dequantize.output[0])


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
