"""What is counted, for Prometheus and for the statistics of KServe.

Workers put their counts into files of a folder, so that any of them can tell the sum.
"""

import os
from collections import defaultdict
from functools import cache
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when imported
INFER = "edge_mnist_infer_"
registry = REGISTRY
if FOLDER_VARIABLE in os.environ:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]

# Looking a label up costs more than counting, so each is looked up once.
requests = cache(Counter("edge_mnist_requests", "Requests answered.", ("route", "status")).labels)
seconds = cache(
    Histogram(
        "edge_mnist_request_seconds",
        "Time from the head of a request to its whole answer.",
        ("route",),
        buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
    ).labels
)
pictures = cache(Counter("edge_mnist_pictures", "Pictures answered.", ("status",)).labels)
waiting = Gauge(
    "edge_mnist_waiting_pictures", "Pictures that wait or are read.", multiprocess_mode="livesum"
)
batches = Histogram(
    "edge_mnist_batch_pictures", "Small pictures that ran as one batch.", buckets=(1, 2, 4, 8, 16)
)
infer = Summary(f"{INFER}seconds", "Time of KServe inferences, by stage.", ("stage",))
infer_images = Counter(f"{INFER}images", "Images classified over KServe.")
last_infer = Gauge(
    f"{INFER}last_seconds", "When the last KServe inference ended.", multiprocess_mode="max"
)


def read_infer() -> dict[str, Any]:
    """Return what was counted of KServe inferences, all workers together, as Triton does."""
    samples: dict[tuple[str, ...], float] = defaultdict(float)
    for family in registry.collect():
        for sample in family.samples:
            samples[sample.name.removeprefix(INFER), *sample.labels.values()] = sample.value
    stages = {
        stage: {
            "count": int(samples["seconds_count", stage]),
            "ns": int(samples["seconds_sum", stage] * 1e9),
        }
        for stage in ("success", "fail", "compute_infer")
    }
    return {
        "last_inference": int(samples["last_seconds",] * 1000),
        "inference_count": int(samples["images_total",]),
        "execution_count": stages["compute_infer"]["count"],
        "inference_stats": stages,
    }
