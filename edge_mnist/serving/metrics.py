"""What is counted, for Prometheus and for the statistics of KServe."""

import os
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
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
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from edge_mnist.machine import is_alive

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
        if FOLDER_VARIABLE not in os.environ:
            ProcessCollector(registry=registry)

    def render(self) -> tuple[bytes, str]:
        """Return the counts of all workers in Prometheus' text format, and its content type."""
        return generate(self._all_workers()), CONTENT_TYPE_LATEST

    def read_infer(self) -> dict[str, Any]:
        """Return what was counted of KServe inferences, all workers together, as Triton does."""
        families = self._all_workers().collect()
        samples = {
            (sample.name.removeprefix(INFER), sample.labels.get("stage")): sample.value
            for family in families
            for sample in family.samples
        }
        stages = {
            stage: {
                "count": int(samples.get(("seconds_count", stage), 0)),
                "ns": int(samples.get(("seconds_sum", stage), 0) * 1e9),
            }
            for stage in STAGES
        }
        return {
            "last_inference": int(samples.get(("last_seconds", None), 0) * 1000),
            "inference_count": int(samples.get(("images_total", None), 0)),
            "execution_count": stages["compute_infer"]["count"],
            "inference_stats": stages,
        }

    def _all_workers(self) -> CollectorRegistry:
        folder = os.environ.get(FOLDER_VARIABLE)
        if not folder:
            return self._registry
        for file in Path(folder).glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if not is_alive(pid):  # what it counted as waiting waits no longer
                with suppress(FileNotFoundError):  # another worker removed the same file
                    mark_process_dead(pid)  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry
