"""When each row of each layer is computed, and which rows are kept."""

from dataclasses import dataclass

from edge_mnist.exporting.c.layers import IMAGE, Layer, Network

WHOLE = ("globalaveragepool",)  # kinds that read all rows at once


@dataclass(frozen=True)
class Plan:
    """The order of the rows, and the memory that it needs.

    Attributes:
        steps: Layer and row, in order.
        rows: For each tensor, how many of its rows are kept, in a ring; 28 for the image.
        offsets: For each tensor, where its ring begins in the scratch memory.
        scratch_bytes: Size of that memory.
    """

    steps: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    offsets: tuple[int, ...]
    scratch_bytes: int

    def count_rows(self, layer: int) -> int:
        """Return how many rows of a layer are computed; nobody may read the last ones."""
        return sum(number == layer for number, _ in self.steps)


def plan_rows(network: Network) -> Plan:
    """Compute each row as late as possible, and keep it as long as a layer will read it."""
    heights = [tensor.height for tensor in network.tensors]
    writers = {layer.output: number for number, layer in enumerate(network.layers)}
    done = [0] * len(network.layers)
    kept = [1] * len(network.tensors)
    steps = []
    last = len(network.layers) - 1
    while done[last] == 0:
        number = last
        while (missing := _missing_input(network, number, done, writers)) is not None:
            number = missing
        steps.append((number, done[number]))
        done[number] += 1
        for tensor in range(1, len(heights)):
            kept[tensor] = max(kept[tensor], _count_needed(network, tensor, done, writers[tensor]))
    kept[IMAGE] = heights[IMAGE]
    offsets, end = [], 0
    for number, tensor_ in enumerate(network.tensors):
        offsets.append(0 if number == IMAGE else end)
        end += 0 if number == IMAGE else kept[number] * tensor_.width * tensor_.channels
    return Plan(tuple(steps), tuple(kept), tuple(offsets), end)


def _rows_read(network: Network, layer: Layer, tensor: int, row: int) -> range:
    """Return the rows of a tensor that a layer reads for one row of its output."""
    height = network.tensors[tensor].height
    if layer.kind in WHOLE:
        return range(height)
    first = row * layer.strides[0] - layer.pads[0]
    return range(max(first, 0), min(first + layer.kernel[0], height))


def _missing_input(
    network: Network, number: int, done: list[int], writers: dict[int | None, int]
) -> int | None:
    """Return the layer that has to go on before the next row of a layer, or None."""
    layer = network.layers[number]
    for tensor in layer.inputs:
        if tensor == IMAGE:
            continue
        if _rows_read(network, layer, tensor, done[number]).stop > done[writers[tensor]]:
            return writers[tensor]
    return None


def _count_needed(network: Network, tensor: int, done: list[int], writer: int) -> int:
    """Return how many of the computed rows of a tensor some layer has still to read."""
    oldest = done[writer]
    for number, layer in enumerate(network.layers):
        unfinished = done[number] < network.out_shape(layer)[1]
        if tensor in layer.inputs and unfinished:
            oldest = min(oldest, _rows_read(network, layer, tensor, done[number]).start)
    return done[writer] - oldest
