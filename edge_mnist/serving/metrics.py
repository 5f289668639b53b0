"""What is counted, for Prometheus and for the statistics of KServe."""

import os
from collections import defaultdict
from functools import cache, partial
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    Summary,
)
from prometheus_client import generate_latest as generate
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

# Workers put their counts into files of this folder, so that any of them can tell the sum. The
# package reads the variable when it is imported.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BATCHES = (1, 2, 4, 8, 16)
INFER = "edge_mnist_infer_"
STAGES = ("success", "fail", "compute_infer")


class Metrics:
    """The counters of one process; ``render`` adds those of the other workers.

    Attributes:
        requests: Returns the counter of requests by route and status.
        seconds: Returns the times of requests by route.
        pictures: Returns the counter of pictures by status.
        waiting: Pictures that wait or are read.
        batches: Sizes of batches.
        infer: Seconds of KServe inferences, by stage.
        infer_images: Images classified over KServe.
        last_infer: When the last KServe inference ended, in seconds since 1970.
    """

    def __init__(self) -> None:
        """Count from zero."""
        self._registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        about = "Time from the head of a request to its whole answer."
        seconds = histogram("edge_mnist_request_seconds", about, ("route",), buckets=SECONDS)
        requests = counter("edge_mnist_requests", "Requests answered.", ("route", "status"))
        pictures = counter("edge_mnist_pictures", "Pictures answered.", ("status",))
        # Looking a label up costs more than counting, so each is looked up once.
        self.requests, self.seconds = cache(requests.labels), cache(seconds.labels)
        self.pictures = cache(pictures.labels)
        about = "Small pictures that ran as one batch."
        self.batches = histogram("edge_mnist_batch_pictures", about, buckets=BATCHES)
        name, about = "edge_mnist_waiting_pictures", "Pictures that wait or are read."
        self.waiting = gauge(name, about, multiprocess_mode="livesum")
        about = "Time of KServe inferences, by stage."
        self.infer = Summary(f"{INFER}seconds", about, ("stage",), registry=registry)
        self.infer_images = counter(f"{INFER}images", "Images classified over KServe.")
        name, about = f"{INFER}last_seconds", "When the last KServe inference ended."
        self.last_infer = gauge(name, about, multiprocess_mode="max")
        if FOLDER_VARIABLE in os.environ:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=registry)

    def render(self) -> tuple[bytes, str]:
        """Return the counts of all workers in Prometheus' text format, and its content type."""
        return generate(self._registry), CONTENT_TYPE_LATEST

    def read_infer(self) -> dict[str, Any]:
        """Return what was counted of KServe inferences, all workers together, as Triton does."""
        families = self._registry.collect()
        samples: dict[tuple[str, ...], float] = defaultdict(float)
        for sample in (sample for family in families for sample in family.samples):
            samples[sample.name.removeprefix(INFER), *sample.labels.values()] = sample.value
        stages = {
            stage: {
                "count": int(samples["seconds_count", stage]),
                "ns": int(samples["seconds_sum", stage] * 1e9),
            }
            for stage in STAGES
        }
        return {
            "last_inference": int(samples["last_seconds",] * 1000),
            "inference_count": int(samples["images_total",]),
            "execution_count": stages["compute_infer"]["count"],
            "inference_stats": stages,
        }
