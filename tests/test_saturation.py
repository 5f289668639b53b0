"""int8 on x86 processors without VNNI: they add two products in 16 bits, which saturate."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_mnist.exporting.convention import PixelConvention
from edge_mnist.exporting.golden import draw_golden_images
from edge_mnist.exporting.graph import Quantization, attach_contract, quantize_body
from edge_mnist.exporting.sources import TorchNetwork
from edge_mnist.model_file import shipped_folder
from edge_mnist.training.checkpoint import load_checkpoint, load_network
from edge_mnist.training.datasets import Dataset

SHIPPED = shipped_folder()
INT8_FILES = sorted(SHIPPED.glob("**/model.int8.onnx"))


def add_exactly(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Multiply (N, K) by (M, K) as VNNI does: products of bytes added in 32 bits."""
    return activations.astype(np.int64) @ weights.astype(np.int64).T


def add_in_16_bits(activations: NDArray[np.uint8], weights: NDArray[np.int8]) -> NDArray[np.int64]:
    """Multiply (N, K) by (M, K) as PMADDUBSW does: each pair of products saturates at 16 bits."""
    if activations.shape[1] % 2:
        activations, weights = (np.pad(part, ((0, 0), (0, 1))) for part in (activations, weights))
    products = activations.astype(np.int32)[:, None, :] * weights.astype(np.int32)[None]
    pairs = products[:, :, 0::2] + products[:, :, 1::2]
    return np.clip(pairs, -32768, 32767).sum(axis=2, dtype=np.int64)


def unfold(levels: NDArray[np.uint8], node: onnx.NodeProto, size: int) -> NDArray[np.uint8]:
    """Return the patches that a convolution multiplies, shape (places, channels * size * size)."""
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    (stride, _), pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0] * 4)
    padded = np.pad(levels, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    patches = windows[:, :, ::stride, ::stride].transpose(0, 2, 3, 1, 4, 5)
    return patches.reshape(-1, levels.shape[1] * size * size)


def layers(
    model: onnx.ModelProto, images: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int8]]]:
    """Yield each layer's 8-bit activations (N, K) and weights (M, K), from a real run."""
    constants = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    multiplying = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    names = [find_levels(makers, node.input[0]) for node in multiplying]
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    inputs = {one.name for one in model.graph.input}
    shown.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in inputs
    )
    session = onnxruntime.InferenceSession(
        shown.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = [one.name for one in session.get_outputs()]
    levels = dict(zip(wanted, session.run(None, {"images": images}), strict=True))
    for node, name in zip(multiplying, names, strict=True):
        weights = constants[makers[node.input[1]].input[0]]
        flat = weights.reshape(len(weights), -1)
        if node.op_type == "Conv":
            yield unfold(levels[name], node, weights.shape[-1]), flat
        else:
            yield levels[name].reshape(len(images), -1), flat


def find_levels(makers: dict[str, onnx.NodeProto], name: str) -> str:
    """Follow a layer's input back to the 8-bit tensor that it is read from."""
    node = makers[name]
    while node.op_type != "DequantizeLinear":
        node = makers[node.input[0]]
    return str(node.input[0])


def count_saturated(model: onnx.ModelProto, images: NDArray[np.uint8]) -> int:
    return sum(
        int((add_exactly(left, right) != add_in_16_bits(left, right)).sum())
        for left, right in layers(model, images)
    )


@pytest.mark.parametrize("path", INT8_FILES, ids=lambda path: path.parent.name)
def test_shipped_files_answer_alike_without_vnni(path: Path) -> None:
    images = draw_golden_images()[0][:20]
    found = list(layers(onnx.load(path), images))
    assert len(found) >= 5
    for activations, weights in found:
        assert activations.dtype == np.uint8
        assert weights.dtype == np.int8
        assert activations.any()
        # Whatever the activations and however a kernel pairs the products, none can saturate.
        assert 2 * 255 * int(np.abs(weights.astype(int)).max()) <= 32767
    assert count_saturated(onnx.load(path), images) == 0


def test_all_eight_bits_would_saturate(run_folder: Path, digits: Dataset) -> None:
    network = load_network(load_checkpoint(run_folder / "checkpoint.safetensors"))
    inputs = PixelConvention().to_inputs(digits.train_images[:200])
    body = TorchNetwork(network, "network").to_body(inputs[:40])
    saturated = {}
    for reduce_range in (True, False):
        settings = Quantization(reduce_range=reduce_range)
        quantized = quantize_body(body, inputs, settings)
        model = attach_contract(quantized, {}, convention=PixelConvention())
        saturated[reduce_range] = count_saturated(model, digits.test_images[:40])
    assert saturated[True] == 0
    assert saturated[False] > 0
