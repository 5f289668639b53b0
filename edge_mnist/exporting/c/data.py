"""A network as data: the tables of the C code as bytes, for the page's WebAssembly."""

import struct
from collections.abc import Sequence

import numpy as np

from edge_mnist.exporting.c.layers import Network
from edge_mnist.exporting.c.plan import plan_rows
from edge_mnist.exporting.c.source import Tables, list_buffers, list_layers

LANES = 4  # EDGE_MNIST_LANES of edge_mnist/web/wasm/edge_mnist_model.h
# As templates/edge_mnist.c numbers them, and its structures as a 32-bit machine lays them out.
KINDS = ("conv", "depthwise", "maxpool", "averagepool", "globalaveragepool", "add", "lookup")
BUFFER, LAYER, CHANNEL = "<4Bh2xI", "<11Bxh2xI", "<iI"
HEAD = "<5If7I4x"  # counts and scratch bytes, divisor, places of the tables
ALIGNMENT_BYTES = 8


def write_data(network: Network) -> bytes:
    """Return the layers and weights of a network as ``edge_mnist_open_network`` takes them."""
    plan, tables = plan_rows(network), Tables(network, lanes=LANES)
    kinds = [KINDS.index(layer.kind) for layer in network.layers]
    layers = [(kind, *row) for kind, row in zip(kinds, list_layers(network, tables), strict=True)]
    sections = (
        np.array(tables.wide, "<i8").tobytes(),
        _pack(CHANNEL, tables.channels),
        _pack(BUFFER, list_buffers(network, plan)),
        _pack(LAYER, layers),
        network.layers[-1].scales.astype("<f4").tobytes(),
        np.array(plan.steps, np.uint8).tobytes(),
        np.concatenate(tables.weights).astype(np.int8).tobytes(),
    )
    places, content = [], b""
    for section in sections:
        places.append(struct.calcsize(HEAD) + len(content))
        content += section + bytes(-len(section) % ALIGNMENT_BYTES)
    scratch_bytes = 4 * network.n_classes + plan.scratch_bytes  # scores and rows
    counts = network.n_classes, scratch_bytes, len(network.tensors), len(layers), len(plan.steps)
    return struct.pack(HEAD, *counts, float(network.divisor), *places) + content


def _pack(form: str, rows: Sequence[tuple[int, ...]]) -> bytes:
    return b"".join(struct.pack(form, *row) for row in rows)
