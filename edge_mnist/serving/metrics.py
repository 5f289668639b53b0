"""What is counted, for Prometheus."""

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

# Workers put their counts into files of this folder, so that any of them can tell the sum. The
# package reads the variable when it is imported.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BATCHES = (1, 2, 4, 8, 16)


class Metrics:
    """Counts requests, pictures and time.

    Looking a label up costs more than counting, so each combination is looked up once.
    """

    def __init__(self) -> None:
        """Count from zero."""
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "edge_mnist_requests",
            "Requests answered.",
            ("route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "edge_mnist_request_seconds",
            "Time from the head of a request to its whole answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._pictures = Counter(
            "edge_mnist_pictures", "Pictures answered.", ("status",), registry=self.registry
        )
        self._batches = Histogram(
            "edge_mnist_batch_pictures",
            "Small pictures that ran as one batch.",
            buckets=BATCHES,
            registry=self.registry,
        )
        self._waiting = Gauge(
            "edge_mnist_waiting_pictures",
            "Pictures that wait to be read.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._request_counts: dict[tuple[str, int], Counter] = {}
        self._request_seconds: dict[str, Histogram] = {}
        self._picture_counts: dict[str, Counter] = {}
        self.watch_batch = self._batches.observe
        self.watch_waiting = self._waiting.set  # as it changes: any worker may be asked for the sum
        if FOLDER_VARIABLE not in os.environ:
            ProcessCollector(registry=self.registry)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = (route, status)
        counter = self._request_counts.get(key)
        if counter is None:
            counter = self._request_counts[key] = self._requests.labels(route, str(status))
        counter.inc()
        histogram = self._request_seconds.get(route)
        if histogram is None:
            histogram = self._request_seconds[route] = self._seconds.labels(route)
        histogram.observe(seconds)

    def count_picture(self, status: str) -> None:
        """Count a picture that was answered."""
        counter = self._picture_counts.get(status)
        if counter is None:
            counter = self._picture_counts[status] = self._pictures.labels(status)
        counter.inc()

    def render(self) -> tuple[bytes, str]:
        """Return the counts of all workers in Prometheus' text format, and its content type."""
        registry = self.registry
        if FOLDER_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST
