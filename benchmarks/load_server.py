"""Load a server, beside the Predictor in one process: ``python benchmarks/load_server.py``.

Starts ``edge-mnist serve`` on a free port, has this process ask it as fast as it answers and then
at half that pace, and prints both beside what the Predictor reads here without any server.
"""

import argparse
import gzip
import io
import itertools
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.machine import count_cores, processor_name

BOUNDARY = b"edge-mnist-load"


@dataclass(frozen=True)
class Load:
    """What came of asking for a while."""

    answers: Counter[str]
    seconds: float
    latencies_ms: list[float]
    memory_mb: list[float]

    @property
    def per_s(self) -> float:
        """Requests answered per second."""
        return sum(self.answers.values()) / self.seconds

    def percentile(self, share: float) -> float:
        """Return the time within which a share of the answers came."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def read_pictures(folder: Path, n_pictures: int) -> list[bytes]:
    """Return MNIST's first test images as PNG files of 28 x 28."""
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    images = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)
    files = []
    for image in images[:n_pictures]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return files


def make_requests(pictures: list[bytes], n_together: int) -> list[bytes]:
    """Return whole requests, each with some pictures."""
    bodies = [make_body(pictures[i : i + n_together]) for i in range(0, len(pictures), n_together)]
    kind = b"image/png" if n_together == 1 else b"multipart/form-data; boundary=" + BOUNDARY
    head = b"POST /predict HTTP/1.1\r\nhost: load\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
    return [head % (kind, len(body)) + body for body in bodies]


def make_body(pictures: list[bytes]) -> bytes:
    """Return one picture as it is, several as a form."""
    if len(pictures) == 1:
        return pictures[0]
    start = b'--%s\r\ncontent-disposition: form-data; name="picture"; filename="%d.png"\r\n\r\n'
    parts = [start % (BOUNDARY, place) + one + b"\r\n" for place, one in enumerate(pictures)]
    return b"".join(parts) + b"--%s--\r\n" % BOUNDARY


def time_predictor(pictures: list[bytes]) -> tuple[float, float]:
    """Return pictures per second one by one and through predict_many; the median of five."""
    with Predictor() as predictor:
        single, many = [], []
        for _ in range(5):
            start = time.perf_counter()
            for picture in pictures:
                predictor.predict(picture)
            single.append(len(pictures) / (time.perf_counter() - start))
            start = time.perf_counter()
            n_read = sum(1 for _ in predictor.predict_many(pictures))
            many.append(n_read / (time.perf_counter() - start))
    return statistics.median(single), statistics.median(many)


class Client:
    """Some connections that ask one after another, all in this thread."""

    def __init__(self, port: int, requests: list[bytes], n_connections: int) -> None:
        """Open the connections."""
        self._port = port
        self._requests = itertools.cycle(requests)
        self._selector = selectors.DefaultSelector()
        self._idle = [self._connect(port) for _ in range(n_connections)]
        self._asked: dict[socket.socket, float] = {}
        self._received: dict[socket.socket, bytes] = {}
        self.answers: Counter[str] = Counter()
        self.latencies_ms: list[float] = []

    def _connect(self, port: int) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(connection, selectors.EVENT_READ)
        return connection

    def ask(self, due: float) -> bool:
        """Send one request; what it waits for a free connection counts from when it was due."""
        if not self._idle:
            return False
        connection = self._idle.pop()
        self._asked[connection] = due
        self._received[connection] = b""
        connection.sendall(next(self._requests))
        return True

    def collect(self, wait_s: float) -> None:
        """Take the answers that come within a time."""
        for key, _ in self._selector.select(wait_s):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            self._take(connection, connection.recv(1 << 20))

    def _take(self, connection: socket.socket, data: bytes) -> None:
        if not data:  # it may, on a connection that was idle
            if connection not in self._idle:
                raise SystemExit("the server hung up")
            self._selector.unregister(connection)
            self._idle[self._idle.index(connection)] = self._connect(self._port)
            return
        received = self._received[connection] = self._received[connection] + data
        head_end = received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        start = received.index(b"content-length: ") + 16
        length = int(received[start : received.index(b"\r", start)])
        if len(received) < head_end + 4 + length:
            return
        self.latencies_ms.append((time.perf_counter() - self._asked[connection]) * 1000)
        self.answers[received[9:12].decode()] += 1
        self._idle.append(connection)


def run_load(
    server: subprocess.Popen[str],
    client: Client,
    *,
    seconds: float,
    per_s: float | None = None,
) -> Load:
    """Ask for a while, at a pace of so many requests per second, or as fast as answers come.

    At a pace, a request that has to wait for a free connection counts from when it was due.
    """
    memory: list[float] = []
    n_asked, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        due = now if per_s is None else start + n_asked / per_s
        while due <= now and client.ask(due):
            n_asked += 1
            due = now if per_s is None else start + n_asked / per_s
        is_early = per_s is not None and due > now
        client.collect(min(due - now, 0.05) if is_early else 0.05)  # else until an answer comes
        if now - start > len(memory):
            memory.append(read_memory_mb(server.pid))
    return Load(client.answers, time.perf_counter() - start, client.latencies_ms, memory)


def read_memory_mb(process: int) -> float:
    """Return the resident memory of a process and of those it started, in megabytes."""
    folder = Path(f"/proc/{process}")
    pages = int((folder / "statm").read_text().split()[1])
    children = (folder / f"task/{process}/children").read_text().split()
    return pages * os.sysconf("SC_PAGESIZE") / 1e6 + sum(map(read_memory_mb, map(int, children)))


def start_server(workers: int) -> tuple[subprocess.Popen[str], int]:
    """Start the command on a free port; its access log goes nowhere."""
    command = [sys.executable, "-m", "edge_mnist", "serve", "--port=0", f"--workers={workers}"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline().rsplit(":", 1)[1])
    while True:  # workers take a moment to listen
        with socket.create_connection(("127.0.0.1", port)) as probe:
            probe.sendall(b"GET /healthz HTTP/1.1\r\nhost: load\r\n\r\n")
            if probe.recv(64).startswith(b"HTTP/1.1 200"):
                return server, port


def print_load(name: str, load: Load, n_together: int) -> None:
    """Print what came of a load."""
    p50, p99, worst = (load.percentile(share) for share in (0.5, 0.99, 1))
    memory = load.memory_mb
    tenth = max(1, len(memory) // 10)
    print(
        f"{name}: {load.per_s:,.0f} requests/s, {load.per_s * n_together:,.0f} pictures/s, "
        f"p50 {p50:.2f} p99 {p99:.2f} worst {worst:.0f} ms, answers {dict(load.answers)}, "
        f"memory {statistics.median(memory[:tenth]):.0f} to "
        f"{statistics.median(memory[-tenth:]):.0f} MB"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("EDGE_MNIST_DATA"))
    parser.add_argument("--seconds", type=float, default=30, help="of each of the two loads")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--together", type=int, default=1, help="pictures in a request")
    parser.add_argument("--workers", type=int, default=1)
    wanted = parser.parse_args()
    pictures = read_pictures(wanted.data_dir, 512)
    requests = make_requests(pictures, wanted.together)
    print(f"{processor_name()}, {count_cores()} cores, load average {os.getloadavg()[0]:.1f}")
    single, many = time_predictor(pictures)
    print(f"Predictor in one process: predict {single:,.0f}, predict_many {many:,.0f} pictures/s")
    server, port = start_server(wanted.workers)
    try:
        client = Client(port, requests, wanted.connections)
        full = run_load(server, client, seconds=wanted.seconds)
        print_load("full load", full, wanted.together)
        share = full.per_s * wanted.together / single
        print(f"  {share:.0%} of predict, {share * single / many:.0%} of predict_many")
        time.sleep(1)
        client = Client(port, requests, wanted.connections)
        half = run_load(server, client, seconds=wanted.seconds, per_s=full.per_s / 2)
        print_load("half load", half, wanted.together)
    finally:
        server.send_signal(signal.SIGTERM)
        print(f"exit code {server.wait(30)}")
    again, many_again = time_predictor(pictures)
    print(f"Predictor again: predict {again:,.0f}, predict_many {many_again:,.0f} pictures/s")


if __name__ == "__main__":
    main()
