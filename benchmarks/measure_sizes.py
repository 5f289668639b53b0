"""Count the sizes of networks and recipes: ``python benchmarks/measure_sizes.py``.

Writes edge_mnist/training/sizes.json, which ``edge-mnist models`` and ``edge-mnist recipes`` show.
"""

import dataclasses
import json

from edge_mnist.training.catalogue import SIZES, count_sizes

if __name__ == "__main__":
    table = {
        kind: {name: dataclasses.asdict(size) for name, size in entries.items()}
        for kind, entries in count_sizes().items()
    }
    SIZES.write_text(json.dumps(table, indent=1) + "\n")
