"""The C source of a network: its tables, and the files around them."""

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist import picture
from edge_mnist.errors import ModelError
from edge_mnist.exporting.c.layers import Layer, Network
from edge_mnist.exporting.c.plan import Plan
from edge_mnist.exporting.c.simulation import (
    ACCUMULATE,
    add_parameters,
    compute_layers,
    find_rounding_cases,
    split_float,
)
from edge_mnist.model_file import FRAMINGS, ModelFile, ModelInfo

TEMPLATES = Path(__file__).parent / "templates"
LANES = {"size": 1, "speed": 4}  # output channels that a convolution computes at once
ENTRY_BYTES = {"layer": 20, "buffer": 12, "channel": 8, "wide": 8}  # on a machine of 32 bits
Array = NDArray[Any]


class Tables:
    """The constants of a network, in the order in which the C code reads them.

    Attributes:
        lanes: Output channels that a convolution computes at once.
        weights: int8, of all layers one after another.
        channels: Bias and packed multiplier, of all layers one after another.
        wide: 64-bit constants of Add.
        places: For each layer, where its entries begin in the three.
        sizes: For each layer, how many entries it has in the three.
    """

    def __init__(self, network: Network, *, lanes: int) -> None:
        """Collect the constants of all layers; see ``order_weights`` for ``lanes``."""
        self.lanes = lanes
        self.weights: list[Array] = []
        self.channels: list[tuple[int, int]] = []
        self.wide: list[int] = []
        self.places: list[tuple[int, int, int]] = []
        self.sizes: list[tuple[int, int, int]] = []
        n_weights = 0
        for layer in network.layers:
            weights = order_weights(layer, lanes)
            channels = list_channels(network, layer)
            wide: Sequence[int] = ()
            if layer.kind == "add":
                one, other = (network.tensors[one] for one in layer.inputs)
                assert layer.output is not None
                wide = add_parameters(one, other, network.tensors[layer.output])
            self.places.append((n_weights, len(self.channels), len(self.wide)))
            self.sizes.append((len(weights), len(channels), len(wide)))
            self.weights.append(weights)
            self.channels += channels
            self.wide += wide
            n_weights += len(weights)

    def count_bytes(self, number: int) -> int:
        """Return the bytes of flash that the constants of a layer take."""
        n_weights, n_channels, n_wide = self.sizes[number]
        bytes_of = ENTRY_BYTES
        return (
            n_weights
            + n_channels * bytes_of["channel"]
            + n_wide * bytes_of["wide"]
            + bytes_of["layer"]
            + bytes_of["buffer"]
        )

    def hash_layer(self, number: int) -> int:
        """Return the CRC that ``edge_mnist_constants_crc`` computes."""
        (_, channel, wide), (_, n_channels, n_wide) = self.places[number], self.sizes[number]
        content = self.weights[number].astype(np.int8).tobytes()
        content += np.array(
            [[bias & 0xFFFFFFFF, packed] for bias, packed in self.channels[channel:][:n_channels]],
            "<u4",
        ).tobytes()
        content += np.array(self.wide[wide:][:n_wide], "<i8").tobytes()
        return zlib.crc32(content)


def order_weights(layer: Layer, lanes: int) -> NDArray[np.int8]:
    """Return a layer's weights in the order in which the C code reads them.

    A convolution: output channel, kernel row, kernel column, input channel; of ``lanes`` output
    channels the weights are interleaved. Depthwise: kernel row, kernel column, channel.
    """
    if layer.kind == "lookup":
        return layer.table.view(np.int8)
    if layer.kind == "depthwise":
        return layer.weights[:, 0].transpose(1, 2, 0).ravel()
    if not layer.weights.size:
        return np.zeros(0, np.int8)
    rows = layer.weights.transpose(0, 2, 3, 1).reshape(len(layer.weights), -1)
    whole = len(rows) - len(rows) % lanes
    blocks = rows[:whole].reshape(whole // lanes, lanes, -1).transpose(0, 2, 1)
    return np.concatenate([blocks.ravel(), rows[whole:].ravel()]).astype(np.int8)


def list_channels(network: Network, layer: Layer) -> list[tuple[int, int]]:
    """Return a layer's entries in the table channels: bias, packed multiplier."""
    scales, biases = layer.scales, layer.bias
    if layer.kind == "averagepool":
        assert layer.output is not None
        ends = network.tensors[layer.inputs[0]], network.tensors[layer.output]
        scales = np.array([tensor.scale for tensor in ends])
    if layer.output is None:
        scales = scales / network.divisor
    if not len(biases):
        biases = np.zeros(len(scales), np.int32)
    return [(int(bias), pack_float(scale)) for bias, scale in zip(biases, scales, strict=True)]


def pack_float(value: np.float32) -> int:
    """Return a positive float32 as the C code takes it: shift << 24 | mantissa."""
    mantissa, shift = split_float(value)
    if not 0 < shift < 256:
        raise ModelError(f"expected a scale between 2**-231 and 2**23, got {value}")
    return shift << 24 | mantissa


def write_model(network: Network, plan: Plan, tables: Tables) -> str:
    """Return edge_mnist_model.h: the tables of a network."""
    kinds = {layer.kind for layer in network.layers}
    lines = [
        "/* The constants of the network; included by edge_mnist.c alone. */",
        f"#define EDGE_MNIST_LANES {tables.lanes} /* output channels that CONV computes at once */",
        f"#define EDGE_MNIST_STEPS {len(plan.steps)}",
        f"#define EDGE_MNIST_SCORES {len(network.tensors)} /* the buffer that stands for them */",
    ]
    optional = ("depthwise", "maxpool", "averagepool", "globalaveragepool", "add", "lookup")
    lines += [f"#define EDGE_MNIST_USES_{kind.upper()} {int(kind in kinds)}" for kind in optional]
    lines += ["", *_write_buffers(network, plan), "", *_write_layers(network, tables), ""]
    lines += ["/* layer and row, in the order of computation */"]
    lines += _write_array(
        "static FLASH const uint8_t steps[EDGE_MNIST_STEPS][2]",
        [f"{{{layer}, {row}}}" for layer, row in plan.steps],
    )
    names = [f'"{layer.name}"' for layer in network.layers]
    lines += _write_array("static const char *const layer_names[EDGE_MNIST_LAYERS]", names)
    lines += ["/* of each layer: weights, channels, 64-bit constants */"]
    sizes = [f"{{{', '.join(map(str, size))}}}" for size in tables.sizes]
    lines += _write_array("static FLASH const uint32_t sizes[EDGE_MNIST_LAYERS][3]", sizes)
    lines += ["", *_write_constants(network, tables)]
    return "\n".join(lines) + "\n"


def list_buffers(network: Network, plan: Plan) -> list[tuple[int, ...]]:
    """Return height, width, rows kept, zero point, channels and offset of each buffer.

    The last one stands for the scores.
    """
    rows = [
        (one.height, one.width, plan.rows[n], one.zero_point, one.channels, plan.offsets[n])
        for n, one in enumerate(network.tensors)
    ]
    return [*rows, (1, 1, 1, 0, network.n_classes, 0)]


def list_layers(network: Network, tables: Tables) -> list[tuple[int, ...]]:
    """Return the fields of each layer after its kind, in the order of the C structure."""
    rows: list[tuple[int, ...]] = []
    for layer, (weight, channel, wide) in zip(network.layers, tables.places, strict=True):
        output = len(network.tensors) if layer.output is None else layer.output
        other = layer.inputs[-1]
        if layer.kind == "depthwise":
            other = len(layer.weights) // network.tensors[layer.inputs[0]].channels
        window = (*layer.kernel, *layer.strides, *layer.pads, int(layer.padding_counted))
        place = wide if layer.kind == "add" else weight
        rows.append((layer.inputs[0], output, other, *window, channel, place))
    return rows


def _write_buffers(network: Network, plan: Plan) -> list[str]:
    buffers = list_buffers(network, plan)
    return [
        f"static FLASH const buffer buffers[{len(buffers)}] = {{",
        "    /* height, width, rows kept, zero point, channels, offset */",
        *[f"    {{{', '.join(map(str, row))}}}," for row in buffers],
        "};",
    ]


def _write_layers(network: Network, tables: Tables) -> list[str]:
    rows = ["    /* kind, input, output, other, kernel, strides, padding, channel, weight */"]
    for layer, fields in zip(network.layers, list_layers(network, tables), strict=True):
        cells = ", ".join(map(str, (layer.kind.upper(), *fields)))
        rows.append(f"    {{{cells}}}, /* {layer.name} */")
    return ["static FLASH const layer layers[EDGE_MNIST_LAYERS] = {", *rows, "};"]


def _write_constants(network: Network, tables: Tables) -> list[str]:
    lines = [f"static FLASH const channel channels[{max(len(tables.channels), 1)}] = {{"]
    weights = [f"static FLASH const int8_t weights[{sum(map(len, tables.weights))}] = {{"]
    for number, layer in enumerate(network.layers):
        (_, start, _), (n_weights, n_channels, _) = tables.places[number], tables.sizes[number]
        if n_channels:
            lines.append(f"    /* {layer.name} */")
            entries = tables.channels[start : start + n_channels]
            cells = [f"{{{bias}, 0x{packed:08x}}}" for bias, packed in entries]
            lines += _wrap(cells)
        if n_weights:
            weights.append(f"    /* {layer.name} */")
            weights += _wrap(map(str, tables.weights[number].tolist()))
    lines += ["};", "", *weights, "};"]
    if tables.wide:
        cells = [f"INT64_C({value})" for value in tables.wide]
        lines += ["", *_write_array(f"static FLASH const int64_t wide[{len(cells)}]", cells)]
    return lines


def write_golden(network: Network, plan: Plan, tables: Tables, images: NDArray[np.uint8]) -> str:
    """Return edge_mnist_golden.h: images, and the CRC of what each layer makes of them."""
    outputs = [
        values[:, : plan.count_rows(number)]
        for number, values in enumerate(compute_layers(network, images))
    ]
    lines = [
        "/* Golden images and what every layer makes of them; included by the self-test alone. */",
        f"#define GOLDEN_IMAGES {len(images)}",
        "",
    ]
    constants = [f"0x{tables.hash_layer(number):08x}" for number in range(len(network.layers))]
    lines += _write_array(
        "static FLASH const uint32_t golden_constants[EDGE_MNIST_LAYERS]", constants
    )
    rows = []
    for number, layer in enumerate(network.layers):
        if layer.kind in ACCUMULATE and layer.output is not None:
            zero_point = network.tensors[layer.output].zero_point
            cases = find_rounding_cases(layer, zero_point)
            rows += [
                f"{{{number + 1}, {channel}, {total}, {right}}}" for channel, total, right in cases
            ]
    lines += [
        "/* layer, channel, accumulator, result: sums that a wrong rounding takes elsewhere */",
        f"#define GOLDEN_SUMS {len(rows)}",
        *_write_array("static FLASH const int32_t golden_sums[GOLDEN_SUMS + 1][4]", [*rows, "{0}"]),
    ]
    rows = []
    for image in range(len(images)):
        values = [_hash_values(output[image]) for output in outputs]
        rows.append("{" + ", ".join(f"0x{value:08x}" for value in values) + "}")
    lines += _write_array(
        "static FLASH const uint32_t golden_crcs[GOLDEN_IMAGES][EDGE_MNIST_LAYERS]", rows
    )
    lines.append("static FLASH const uint8_t golden_images[GOLDEN_IMAGES][EDGE_MNIST_PIXELS] = {")
    for image in images:
        lines += ["    {", *_wrap(map(str, image.ravel().tolist())), "    },"]
    return "\n".join([*lines, "};"]) + "\n"


def fill_template(name: str, values: dict[str, str]) -> str:
    """Return a template with its ``@name@`` replaced."""
    text = (TEMPLATES / name).read_text()
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], text)


def read_picture_path() -> dict[str, str]:
    """Return the C source of the picture path under the names that it has beside a network."""
    folder = Path(picture.__file__).parent
    return {
        f"edge_mnist_{name}": (folder / name).read_text().replace("reader.h", "edge_mnist_reader.h")
        for name in ("reader.c", "reader.h")
    }


def describe(
    model: ModelFile, info: ModelInfo, network: Network, plan: Plan, *, optimize: str
) -> dict[str, str]:
    """Return what the templates are filled with."""
    for name in info.class_names:
        if not name.isprintable():
            raise ModelError(f"the class name {name!r} cannot be written as a string of C")
    # In UTF-8: JSON's escapes of what is beyond 16 bits are none of C. Two ? may begin a trigraph.
    names = ", ".join(json.dumps(name, ensure_ascii=False) for name in info.class_names)
    accuracy = info.metadata.get("accuracy")
    return {
        "model": str(model.path.name),
        "sha256": model.sha256,
        "accuracy": f"{float(accuracy):.2%} of {info.metadata.get('n_test_images')} test images"
        if accuracy
        else "unknown",
        "version": version("edge-mnist"),
        "c_version": ".".join(re.findall(r"\d+", version("edge-mnist"))[:3]),
        "optimize": optimize,
        "n_classes": str(network.n_classes),
        "class_names": f"{{{names}}}".replace("?", "\\?"),
        "n_layers": str(len(network.layers)),
        "scratch_bytes": str(plan.scratch_bytes),
        "logit_scales": f"{{{', '.join(_c_float(one) for one in network.layers[-1].scales)}}}",
        "logit_divisor": _c_float(network.divisor),
        "threshold": str(round(info.rejection_threshold * 65536)),
        "framing": str(FRAMINGS.index(info.framing)),
        "rejected_reason": "not a digit" if info.framing == "digit" else "none of the classes",
        "threshold_share": f"{info.rejection_threshold:.4f}",
    }


def _c_float(value: np.float32) -> str:
    return f"{np.format_float_scientific(value, unique=True, trim='0')}f"


def _hash_values(values: Array) -> int:
    dtype = "<i4" if values.dtype == np.int32 else np.uint8
    return zlib.crc32(np.ascontiguousarray(values.astype(dtype)).tobytes())


def _write_array(head: str, cells: Sequence[str]) -> list[str]:
    return [f"{head} = {{", *_wrap(cells), "};"]


def _wrap(cells: Iterable[str], width: int = 96) -> list[str]:
    """Return cells with commas, in lines."""
    lines, line = [], "   "
    for cell in cells:
        if len(line) + len(cell) + 2 > width:
            lines.append(line)
            line = "   "
        line += f" {cell},"
    return [*lines, line] if line.strip() else lines
