"""What several tests share: real data, one real training, one real export."""

import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from page_driver import export_page
from PIL import Image

from edge_mnist.machine import passive_waiting

with passive_waiting():  # as in the command, and not for the programs that tests start
    import torch

from edge_mnist.exporting.golden import draw_digit
from edge_mnist.exporting.onnx import export
from edge_mnist.model_file import CHECKPOINT_NAME
from edge_mnist.training.datasets import Dataset, load_dataset
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.run import train
from edge_mnist.validation.validate import Limits

Command = Callable[..., subprocess.CompletedProcess[str]]
# Small batches gain nothing from a second thread, and lose a lot to it where the cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# On 360 test images one of them is 0.28 points.
LIMITS = Limits(accuracy_lost=0.02)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no setting of the user's reach a test, except where the data is."""
    for name in ("MODEL", "PROVIDER", "THREADS", "OFFLINE"):
        monkeypatch.delenv(f"EDGE_MNIST_{name}", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def edge_mnist(tmp_path: Path) -> Command:
    """Run the command in an empty folder, as a user would, in a process of its own."""

    def run(
        *args: object, cwd: Path = tmp_path, env: dict[str, str] | None = None, **options: object
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edge_mnist", *map(str, args)]
        environment = os.environ | (env or {})
        return subprocess.run(  # type: ignore[call-overload]
            command, cwd=cwd, env=environment, capture_output=True, text=True, **options
        )

    return run


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def mnist() -> Dataset:
    if not os.environ.get("EDGE_MNIST_DATA"):
        pytest.skip("EDGE_MNIST_DATA does not name a folder with MNIST")
    return load_dataset("mnist")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    """A short training on the digits."""
    folder = tmp_path_factory.mktemp("run")
    train(find_recipe(dataset="digits", epochs=8), digits, out=folder)
    return folder


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, digits: Dataset) -> Path:
    """That training, exported and quantised."""
    folder = tmp_path_factory.mktemp("exports")
    checkpoint = run_folder / CHECKPOINT_NAME
    export(checkpoint, digits, folder=folder, quantize=True, limits=LIMITS)
    return folder


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten PNG files, black ink on white, one for each digit, in order."""
    folder = tmp_path_factory.mktemp("drawings")
    generator = np.random.default_rng(1)
    paths = [folder / f"{digit}.png" for digit in range(10)]
    for digit, path in enumerate(paths):
        sheet: Image.Image = draw_digit(digit, generator)
        sheet.save(path)
    return paths


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with the shipped model, in a folder of a site."""
    return export_page(tmp_path_factory.mktemp("site"))


@contextlib.contextmanager
def serve(folder: Path, kind: type[SimpleHTTPRequestHandler] | None = None) -> Iterator[str]:
    """Serve a folder over HTTP on this machine, as a mirror of a data set would."""
    handler = functools.partial(kind or SilentHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class SilentHandler(SimpleHTTPRequestHandler):
    """Says nothing on stderr: what a test reads there is the client's."""

    def log_message(self, *args: object) -> None:
        pass

    def copyfile(self, source: object, outputfile: object) -> None:
        with contextlib.suppress(ConnectionError):  # a client may leave before the end
            super().copyfile(source, outputfile)  # type: ignore[misc, call-overload]


class SlowHandler(SilentHandler):
    """Sends a byte now and then, so that no socket ever times out."""

    def copyfile(self, source: object, outputfile: object) -> None:
        with contextlib.suppress(OSError):
            for _ in range(30):
                self.wfile.write(b"x")
                time.sleep(0.1)
