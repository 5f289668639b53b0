"""The arithmetic of the C code in NumPy, on integers: the same steps, for many images at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_mnist.exporting.c.layers import IMAGE, Layer, Network, Tensor

Array = NDArray[Any]
SIGNIFICANT_BITS = 24  # of a float32


MAX_CASE = 400_000  # accumulators that find_rounding_cases tries for each channel
CHUNK = 250  # images at a time, which bounds the memory


def compute_layers(network: Network, images: NDArray[np.uint8]) -> list[Array]:
    """Compute a few images, and keep what each layer writes.

    Args:
        network: The layers.
        images: Shape (N, 28, 28), uint8.

    Returns:
        For each layer an array with channels last: uint8, (N, height, width, channels); of the last
        layer the scores, int32, (N, 1, 1, classes).
    """
    return _simulate(network, images)


def compute_scores(network: Network, images: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Compute the scores of images, shape (N, 28, 28), uint8: int32, (N, classes)."""
    parts = [
        _simulate(network, images[start : start + CHUNK])[-1]
        for start in range(0, len(images), CHUNK)
    ]
    return np.asarray(np.concatenate(parts)[:, 0, 0])


def dequantize(network: Network, scores: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the logits of scores, float32, as onnxruntime computes them."""
    return scores.astype(np.float32) * network.layers[-1].scales / network.divisor


def find_rounding_cases(layer: Layer, zero_point: int) -> list[tuple[int, int, int]]:
    """Find accumulators whose result notices a wrong rounding; images hardly ever meet one.

    Args:
        layer: One whose accumulators are requantised.
        zero_point: Of its output.

    Returns:
        Channel, accumulator and right result, at most one for each of three errors: halves rounded
        up and not to even, the product rounded only once, the product cut and not rounded.
    """
    cases: list[tuple[int, int, int]] = []
    missing = {0, 1, 2}
    for channel in range(len(layer.scales)):
        scale = layer.scales[channel : channel + 1]
        largest = int(min(256 / scale[0], MAX_CASE))
        sums = np.arange(1, largest, dtype=np.int64)
        right = requantize(sums, scale, zero_point)
        product, shift = _multiply(sums, scale)
        wrong = (
            (round_to_24_bits(product) >> (shift - 1)) + 1 >> 1,
            shift_right(product, shift),
            shift_right(_cut_to_24_bits(product), shift),
        )
        for error in sorted(missing):
            places = np.flatnonzero(np.clip(wrong[error] + zero_point, 0, 255) != right)
            if len(places):
                place = int(places[0])
                cases.append((channel, int(sums[place]), int(right[place])))
                missing.remove(error)
        if not missing:
            break
    return cases


def _simulate(network: Network, images: NDArray[np.uint8]) -> list[Array]:
    """Return what each layer writes."""
    values: dict[int, Array] = {IMAGE: images[..., np.newaxis]}
    outputs = []
    for layer in network.layers:
        given = [values[one] for one in layer.inputs]
        if layer.kind in ACCUMULATE:
            accumulators = ACCUMULATE[layer.kind](network, layer, given)
            result = _requantize_layer(network, layer, accumulators)
        else:
            result = COMPUTE[layer.kind](network, layer, given)
        if layer.output is not None:
            values[layer.output] = result
        outputs.append(result)
    return outputs


def split_float(value: np.float32) -> tuple[int, int]:
    """Return a positive float32 as integers: ``mantissa * 2**-shift``, a mantissa of 24 bits."""
    mantissa, exponent = np.frexp(np.float64(value))
    return int(mantissa * 2**SIGNIFICANT_BITS), SIGNIFICANT_BITS - int(exponent)


def round_to_24_bits(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Round integers half to even to 24 significant bits, as the result of a float32 operation."""
    sizes = np.abs(values)
    _, lengths = np.frexp(sizes.astype(np.float64))  # may be one too long above 2**53: no matter
    dropped = np.maximum(lengths.astype(np.int64) - SIGNIFICANT_BITS, 0)
    return np.asarray(np.sign(values) * (shift_right(sizes, dropped) << dropped))


def _cut_to_24_bits(values: NDArray[np.int64]) -> NDArray[np.int64]:
    _, lengths = np.frexp(np.abs(values).astype(np.float64))
    dropped = np.maximum(lengths.astype(np.int64) - SIGNIFICANT_BITS, 0)
    return np.asarray(np.sign(values) * (np.abs(values) >> dropped << dropped))


def shift_right(values: NDArray[np.int64], bits: Array | int) -> NDArray[np.int64]:
    """Divide by ``2**bits``, rounded half to even; for values of either sign."""
    bits = np.asarray(bits, np.int64)
    floor = values >> bits
    doubled = (values - (floor << bits)) * 2
    unit = np.int64(1) << bits
    return np.asarray(floor + ((doubled > unit) | ((doubled == unit) & (floor & 1 == 1))))


def requantize(
    accumulators: NDArray[np.int64], scales: NDArray[np.float32], zero_point: int
) -> NDArray[np.uint8]:
    """Scale accumulators to 8 bits: ``round(float32(accumulator) * scale) + zero_point``, clamped.

    Args:
        accumulators: Shape (..., channels).
        scales: One for each channel, or one for all.
        zero_point: Of the output.
    """
    product, shifts = _multiply(accumulators, scales)
    rounded = shift_right(round_to_24_bits(product), shifts)
    return np.clip(rounded + zero_point, 0, 255).astype(np.uint8)


def _multiply(
    accumulators: NDArray[np.int64], scales: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the exact products of float32(accumulator) and scale, as ``product * 2**-shift``."""
    mantissas, shifts = np.array([split_float(scale) for scale in scales], np.int64).T
    # Beyond 62 bits any product is far below one half.
    return round_to_24_bits(accumulators) * mantissas, np.minimum(shifts, 62)


def add_parameters(one: Tensor, other: Tensor, output: Tensor) -> tuple[int, int, int, int]:
    """Return what Add multiplies by, on one grid of ``2**-shift``: first, second, constant, shift.

    onnxruntime computes ``fma(first, ratio, fma(second, ratio, constant))`` in float32, where the
    constant holds the three zero points.
    """
    first, second = one.scale / output.scale, other.scale / output.scale
    zeros = np.float32(one.zero_point), np.float32(other.zero_point)
    constant = np.float32(output.zero_point) - np.float32(
        np.float64(first) * np.float64(zeros[0]) + np.float64(second * zeros[1])
    )
    parts = [split_float(value) for value in (first, second, np.abs(constant)) if value]
    shift = max(bits for _, bits in parts)

    def align(value: np.float32) -> int:
        if not value:
            return 0
        mantissa, bits = split_float(np.abs(value))
        return int(np.sign(value)) * (mantissa << (shift - bits))

    return align(first), align(second), align(constant), shift


def _gather(layer: Layer, value: Array, shape: tuple[int, int, int], fill: int) -> Array:
    """Return the windows of a layer: (N, height, width, channels, kernel height, kernel width)."""
    _, height, width = shape
    missing = [
        max(0, (count - 1) * stride + kernel - pad - length)
        for count, stride, kernel, pad, length in zip(
            (height, width), layer.strides, layer.kernel, layer.pads, value.shape[1:3], strict=True
        )
    ]
    pads = [(0, 0), (layer.pads[0], missing[0]), (layer.pads[1], missing[1]), (0, 0)]
    padded = np.pad(value, pads, constant_values=fill)
    windows = sliding_window_view(padded, layer.kernel, axis=(1, 2))
    return windows[:, :: layer.strides[0], :: layer.strides[1]][:, :height, :width]


def _requantize_layer(network: Network, layer: Layer, accumulators: NDArray[np.int64]) -> Array:
    if layer.output is None:
        return accumulators.astype(np.int32)
    return requantize(accumulators, layer.scales, network.tensors[layer.output].zero_point)


def _conv(network: Network, layer: Layer, given: list[Array]) -> Array:
    source, value = network.tensors[layer.inputs[0]], given[0]
    windows = _gather(layer, value, network.out_shape(layer), source.zero_point)
    # A sum of products below 2**24 is exact in float32, and BLAS is much faster than integers.
    largest = 255 * np.abs(layer.weights.astype(np.int64)).sum(axis=(1, 2, 3)).max()
    dtype = np.dtype(np.float32 if largest < 2**SIGNIFICANT_BITS else np.float64)
    rows: Array = windows.astype(dtype) - np.array(source.zero_point, dtype)
    n_images, height, width = rows.shape[:3]
    if layer.kind == "depthwise":
        weights: Array = layer.weights.astype(dtype)[:, 0]
        repeated = np.repeat(rows, len(weights) // rows.shape[3], axis=3)
        sums = np.einsum("nhwcij,cij->nhwc", repeated, weights)
    else:
        matrix = layer.weights.reshape(len(layer.weights), -1).astype(dtype)
        sums = rows.reshape(n_images * height * width, -1) @ matrix.T
    return np.asarray(sums.astype(np.int64).reshape(n_images, height, width, -1) + layer.bias)


def _maxpool(network: Network, layer: Layer, given: list[Array]) -> Array:
    return np.asarray(_gather(layer, given[0], network.out_shape(layer), 0).max(axis=(4, 5)))


def _globalaveragepool(network: Network, layer: Layer, given: list[Array]) -> Array:
    sums = given[0].astype(np.int64).sum(axis=(1, 2), keepdims=True)
    source = network.tensors[layer.inputs[0]]
    return np.asarray(sums - source.height * source.width * source.zero_point)


def _averagepool(network: Network, layer: Layer, given: list[Array]) -> Array:
    """Average as onnxruntime does: dequantised values, in float32, in the order of the pixels."""
    source, value = network.tensors[layer.inputs[0]], given[0]
    assert layer.output is not None
    target = network.tensors[layer.output]
    shape = network.out_shape(layer)
    windows = _gather(layer, value, shape, source.zero_point)
    inside = _gather(layer, np.ones_like(value[:1]), shape, 0).astype(np.int64).sum(axis=(4, 5))
    counts = np.full_like(inside, layer.kernel[0] * layer.kernel[1])
    counts = counts if layer.padding_counted else inside
    sums = np.zeros(windows.shape[:4], np.float32)
    for y in range(layer.kernel[0]):
        for x in range(layer.kernel[1]):
            pixels = windows[..., y, x].astype(np.int32) - source.zero_point
            sums += source.scale * pixels.astype(np.float32)  # a padded pixel adds 0
    values = sums / counts.astype(np.float32) / target.scale + np.float32(target.zero_point)
    return np.asarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _add(network: Network, layer: Layer, given: list[Array]) -> Array:
    assert layer.output is not None
    tensors = [network.tensors[one] for one in (*layer.inputs, layer.output)]
    first, second, constant, shift = add_parameters(*tensors)
    one, other = (value.astype(np.int64) for value in given)
    sums = round_to_24_bits(other * second + constant)
    sums = round_to_24_bits(one * first + sums)
    return np.asarray(np.clip(shift_right(sums, shift), 0, 255).astype(np.uint8))


Kind = Callable[[Network, Layer, list[Array]], Array]
ACCUMULATE: dict[str, Kind] = {
    "conv": _conv,
    "depthwise": _conv,
    "globalaveragepool": _globalaveragepool,
}
COMPUTE: dict[str, Kind] = {
    "maxpool": _maxpool,
    "averagepool": _averagepool,
    "add": _add,
    "lookup": lambda _, layer, given: layer.table[given[0]],
}
