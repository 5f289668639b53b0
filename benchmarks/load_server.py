"""Load a server, beside the library on the same cores: ``python benchmarks/load_server.py``.

Starts ``edge-mnist serve`` on a free port. For each kind of picture, several times in turn: what
``Predictor.predict_many`` reads in this process, then what the server answers to wrk, which
sends one picture in each request, and how long a health check takes meanwhile. Prints medians, and
the ratio of the medians. Needs wrk (Debian's package) and MNIST.

With ``--bare`` the same load goes to the two servers of ``bare_server.py`` as well, for kinds of
one tiny picture in a request: what uvicorn alone answers, and what it answers when the picture is
read and classified. The latter is the most that any app on uvicorn can reach on these cores.
"""

import argparse
import io
import itertools
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.machine import count_cores, processor_name
from edge_mnist.training.datasets import load_dataset

HEALTH_EVERY_S = 0.02
BARE = {"uvicorn": [], "uvicorn and reading": ["--reads"]}  # options of bare_server.py
BOUNDARY = "edge-mnist-load"
# wrk's own thread sends the bodies of a folder in turn.
SCRIPT = """
local bodies = {}
for name in io.popen("ls '%s'"):lines() do
  local file = io.open("%s/" .. name, "rb")
  table.insert(bodies, file:read("*all"))
  file:close()
end
local n = 0
function request()
  n = n %% #bodies + 1
  return wrk.format("POST", "/predict", {["Content-Type"] = "%s"}, bodies[n])
end
"""


@dataclass
class Kind:
    """Pictures of one kind, and what was measured with them.

    Attributes:
        name: For the table.
        pictures: Contents of files.
        together: Pictures in a request.
        is_tiny: Whether they are of 28 x 28 pixels, one in a request.
        library_per_s: Pictures per second of ``predict_many``, one for each round.
        server_per_s: Pictures per second that the server answered.
        bare_per_s: Answers per second of the bare servers, by their name.
        processor_us: Processor time of a server's processes for a picture, by the server's name.
        errors: What wrk tells of answers that were no 2xx, or none.
        health_ms: Durations of health checks under load.
    """

    name: str
    pictures: list[bytes]
    together: int = 1
    is_tiny: bool = False
    library_per_s: list[float] = field(default_factory=list)
    server_per_s: list[float] = field(default_factory=list)
    bare_per_s: dict[str, list[float]] = field(default_factory=dict)
    processor_us: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)

    def describe(self) -> str:
        """Return a row of the table."""
        library, server = map(statistics.median, (self.library_per_s, self.server_per_s))
        p50, p99 = np.percentile(self.health_ms, (50, 99))
        return (
            f"| {self.name} | {library:,.1f} | {server:,.1f} | {server / library:.2f} | "
            f"{p50:.1f}, {p99:.1f} ms | {', '.join(self.errors) or 'none'} |"
        )

    def describe_bare(self) -> str:
        """Return a row of the second table: rates, their ratio to predict_many, processor time."""
        library, server = map(statistics.median, (self.library_per_s, self.server_per_s))
        bare = {name: statistics.median(self.bare_per_s[name]) for name in BARE}
        cells = [
            f"{rate:,.0f} ({rate / library:.2f}), {statistics.median(self.processor_us[name]):.0f}"
            for name, rate in (*bare.items(), ("server", server))
        ]
        share = server / bare["uvicorn and reading"]
        return f"| {self.name} | {library:,.0f} | {' | '.join(cells)} | {share:.2f} |"


def make_kinds(images: NDArray[np.uint8]) -> list[Kind]:
    """Return the kinds, made from test images of MNIST, shape (N, 28, 28)."""
    generator = np.random.default_rng(0)
    mnist = [encode(image) for image in images[:512]]

    def photograph(image: NDArray[np.uint8], width: int, height: int, kind: str) -> bytes:
        """Lay a digit as dark ink on light, noisy paper."""
        side = height * 3 // 5
        ink = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
        paper = Image.new("L", (width, height), 225)
        place = ((width - side) // 2, (height - side) // 2)
        paper.paste(Image.new("L", (side, side), 30), place, ink)
        noise = generator.integers(-5, 6, (height, width), dtype=np.int16)
        grey = np.clip(np.asarray(paper, np.int16) + noise, 0, 255).astype(np.uint8)
        return encode(grey, kind)

    shifted = [encode(np.roll(image, (3, 3), (0, 1))) for image in images[:512]]
    return [
        Kind("MNIST's form, 28 x 28 PNG", mnist, is_tiny=True),
        Kind("the same, 32 in a request", mnist, together=32),
        Kind("uncentred, 28 x 28 PNG", shifted, is_tiny=True),
        Kind("400 x 400 PNG", [photograph(image, 400, 400, "PNG") for image in images[:32]]),
        Kind("4000 x 3000 JPEG", [photograph(one, 4000, 3000, "JPEG") for one in images[:4]]),
    ]


def encode(grey: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Return an array as the content of a file; a JPEG in colour, as cameras write them."""
    file = io.BytesIO()
    picture = Image.fromarray(grey)
    (picture.convert("RGB") if kind == "JPEG" else picture).save(file, kind)
    return file.getvalue()


def make_bodies(kind: Kind) -> list[bytes]:
    """Return the bodies of requests: one picture as it is, several as a form."""
    if kind.together == 1:
        return kind.pictures
    disposition = 'content-disposition: form-data; name="p"; filename="p"'
    start = f"--{BOUNDARY}\r\n{disposition}\r\n\r\n"
    end = f"--{BOUNDARY}--\r\n".encode()
    return [
        b"".join(start.encode() + one + b"\r\n" for one in kind.pictures[i : i + kind.together])
        + end
        for i in range(0, len(kind.pictures), kind.together)
    ]


def measure_library(predictor: Predictor, kind: Kind, seconds: float) -> None:
    """Read pictures with ``predict_many`` for a while."""
    start = time.perf_counter()
    pictures = itertools.takewhile(
        lambda _: time.perf_counter() - start < seconds, itertools.cycle(kind.pictures)
    )
    n_read = sum(1 for _ in predictor.predict_many(pictures))
    kind.library_per_s.append(n_read / (time.perf_counter() - start))


def measure_server(
    port: int, kind: Kind, seconds: float, connections: int, *, health: bool = True
) -> float:
    """Have wrk send pictures for a while, and ask for health meanwhile; return pictures per s."""
    type_ = "image/png" if kind.together == 1 else f"multipart/form-data; boundary={BOUNDARY}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bodies").mkdir()
        for place, body in enumerate(make_bodies(kind)):
            (folder / "bodies" / f"{place:04}").write_bytes(body)
        script = folder / "post.lua"
        script.write_text(SCRIPT % (folder / "bodies", folder / "bodies", type_))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s"]
        command += ["-s", str(script), f"http://127.0.0.1:{port}/predict"]
        wrk = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        durations_ms = kind.health_ms if health else []
        measure_health(port, durations_ms, lambda: wrk.poll() is None)
        told = wrk.communicate()[0]
    kind.errors += re.findall(r"Non-2xx.*|Socket errors.*", told)
    return float(re.findall(r"Requests/sec: +([\d.]+)", told)[0]) * kind.together


def measure_health(port: int, durations_ms: list[float], is_loaded: Callable[[], bool]) -> None:
    """Ask for health, each time over a connection of its own: so every worker is asked."""
    while is_loaded():
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            )
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200"), answer
        durations_ms.append((time.perf_counter() - start) * 1000)
        time.sleep(HEALTH_EVERY_S)


def start_server(command: list[str]) -> tuple[subprocess.Popen[str], int]:
    """Start a server on a free port; its access log goes nowhere."""
    command = [sys.executable, *command]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    return server, int(server.stdout.readline().rsplit(":", 1)[1])


def measure_round(
    predictor: Predictor,
    running: dict[str, tuple[subprocess.Popen[str], int]],
    kind: Kind,
    seconds: float,
    connections: int,
) -> None:
    """Measure the library and then each server that runs with pictures of one kind."""
    measure_library(predictor, kind, seconds)
    for name, (process, port) in running.items():
        before_s = read_processor_s(process.pid)
        if name == "server":
            rate = measure_server(port, kind, seconds, connections)
            kind.server_per_s.append(rate)
        elif kind.is_tiny:
            rate = measure_server(port, kind, seconds, connections, health=False)
            kind.bare_per_s.setdefault(name, []).append(rate)
        else:
            continue
        spent_us = (read_processor_s(process.pid) - before_s) * 1e6
        kind.processor_us.setdefault(name, []).append(spent_us / (rate * seconds))


def read_processor_s(pid: int) -> float:
    """Return the processor time of a process and its children until now, in seconds."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    stats = [Path(f"/proc/{one}/stat").read_text() for one in (pid, *children)]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    ticks = sum(int(user) + int(system) for user, system in (one[11:13] for one in fields))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST [env: EDGE_MNIST_DATA]")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, help="of the server; its default if not given")
    parser.add_argument("--bare", action="store_true", help="load bare_server.py as well")
    parser.add_argument("--tiny", action="store_true", help="only one tiny picture in a request")
    given = parser.parse_args()
    kinds = make_kinds(load_dataset("mnist", data_dir=given.data_dir).test_images)
    tiny = [kind for kind in kinds if kind.is_tiny]
    kinds = tiny if given.tiny else kinds
    predictor = Predictor()
    workers = [f"--workers={given.workers}"] if given.workers else []
    commands = {"server": ["-m", "edge_mnist", "serve", "--port=0"]}
    if given.bare:
        bare_server = str(Path(__file__).with_name("bare_server.py"))
        commands |= {name: [bare_server, *options] for name, options in BARE.items()}
    running = {name: start_server([*command, *workers]) for name, command in commands.items()}
    try:
        for _ in range(given.rounds):
            for kind in kinds:
                measure_round(predictor, running, kind, given.seconds, given.connections)
    finally:
        for server, _ in running.values():
            server.send_signal(signal.SIGTERM)
            print(f"exit code {server.wait(60)}")
    load = os.getloadavg()[0]
    print(f"{processor_name()}, {count_cores()} cores, load average at the end {load:.1f}")
    print("| pictures | predict_many /s | server /s | ratio | health p50, p99 | errors |")
    print("|---|---|---|---|---|---|")
    for kind in kinds:
        print(kind.describe())
    if given.bare:
        print(
            "In brackets the ratio to predict_many, then the workers' processor time, us a picture"
        )
        print(f"| pictures | predict_many /s | {' /s | '.join(BARE)} /s | server /s | share |")
        print("|---|---|---|---|---|---|")
        for kind in tiny:
            print(kind.describe_bare())


if __name__ == "__main__":
    main()
