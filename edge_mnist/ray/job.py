"""A job: many pictures, predicted by workers that Ray Data runs; each is in the output once."""

import contextlib
import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mnist import errors
from edge_mnist.errors import ClusterError, OutputError, ProviderError, UsageError
from edge_mnist.files import make_folder, write_atomically
from edge_mnist.machine import count_cores
from edge_mnist.model_file import ModelFile, find_model, read_model
from edge_mnist.predictor import Predictor
from edge_mnist.ray.plan import JOB_FOLDER, Part, extend_plan, list_inputs
from edge_mnist.ray.worker import MAX_TRIES, MODEL_NAME, Settings, Worker, forget_tries, read_footer

SCHEMA_VERSION = 1
SETTINGS_NAME = "settings.json"
STATUSES = ("ok", "rejected", "error")
OBJECT_STORE_BYTES = 128 * 2**20  # it carries paths, never pictures
CONNECT_TIMEOUT_S = 10
# What a client of gRPC sends first; the answer's type, its fourth byte, is that of settings, too.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
HTTP2_SETTINGS = b"\x04"

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class JobReport:
    """What the output folder of a job holds at its end, and how long that took.

    ``job_s`` is the sum of ``startup_s``, ``shutdown_s`` and the seconds that ``pictures_per_s``
    counts.

    Attributes:
        folder: The output folder.
        model: Path of the model file.
        model_sha256: Its hash.
        n_pictures: How many pictures are in the output.
        n_new: How many of them this run predicted.
        statuses: How many are ok, rejected, or cannot be read (``error``).
        job_s: Seconds of the whole run.
        startup_s: Seconds until the first worker began to read: pictures are listed, Ray and its
            workers are started, the model is opened.
        shutdown_s: Seconds from the last part on: Ray is stopped, the output is counted.
        pictures_per_s: Pace in between; None if this run had nothing to predict.
        left_out: What is named like a picture and cannot be one, such as a FIFO, and folders that
            cannot be read, each with the reason. They are not in the output.
    """

    folder: str
    model: str
    model_sha256: str
    n_pictures: int
    n_new: int
    statuses: dict[str, int]
    job_s: float
    startup_s: float
    shutdown_s: float
    pictures_per_s: float | None
    left_out: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def all_ok(self) -> bool:
        """Whether no picture was rejected, left out, or could not be read."""
        return self.statuses["ok"] == self.n_pictures and not self.left_out


def run_job(
    pictures: Iterable[str],
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str] | ModelFile | None = None,
    *,
    provider: str | None = None,
    threads: int | None = None,
    accept_all: bool = False,
    address: str | None = None,
    report: Report = lambda n_done, n_pictures: None,
) -> JobReport:
    """Read the digit in each of many pictures; do only what an earlier run has left to do.

    A Ray that this process has initialized is used, and left running.

    Args:
        pictures: Folders, pictures, and Parquet files with the columns ``path`` and ``bytes``.
        folder: The output, Parquet files; every picture is one row in one of them.
        model: As for ``Predictor``; a folder keeps to one model.
        provider: ``cpu``, also for ``auto`` and None, for a worker for each core; ``cuda`` for a
            worker for each GPU.
        threads: Threads within one operator; see ``Predictor``.
        accept_all: Answer with a digit whatever a picture shows.
        address: A running Ray cluster, HOST:PORT or ``auto``; None starts Ray on this machine.
        report: Called with the number of pictures predicted by this run, and of those to predict.

    Raises:
        UsageError: The folder holds predictions of another model or lies in an input, or there is
            no such provider.
        DataError: There are no pictures, or a Parquet file cannot be used.
        ModelError: The model cannot be used.
        ProviderError: CUDA was asked for and the cluster has no GPU.
        OutputError: The folder cannot be written, or holds other files.
        ClusterError: Ray cannot be started or reached, or pictures ended their workers again and
            again.
    """
    clock = _Clock()
    settings = Settings(provider, threads, accept_all)
    _ = settings.device  # a usage error comes before anything is written
    folder, file = Path(folder), _read_model(model)
    inputs = list_inputs(pictures, folder)
    _claim_folder(folder, file, settings)
    parts = extend_plan(folder, inputs)
    missing = [part for part in parts if read_footer(folder, part) is None]
    if missing:
        _predict_parts(missing, folder, settings, clock, address=address, report=report)
    statuses = _count_statuses(folder, parts)
    n_new = sum(part.n_pictures for part in missing)
    return JobReport(
        folder=str(folder),
        model=str(file.path),
        model_sha256=file.sha256,
        n_pictures=sum(statuses.values()),
        n_new=n_new,
        statuses=statuses,
        left_out=inputs.left_out,
        **clock.stop(n_new),
    )


class _Clock:
    """Measures the phases of a job."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first = self._last = 0.0  # when the first part was begun, and the last one written

    def add_part(self, part_s: float) -> None:
        """Note that a part was just written, which a worker took ``part_s`` seconds for."""
        self._last = time.perf_counter()
        self._first = min(self._first or self._last, self._last - part_s)

    def stop(self, n_new: int) -> dict[str, Any]:
        """Return the figures of ``JobReport``."""
        stop = time.perf_counter()
        first, last = self._first or stop, self._last or stop
        return {
            "job_s": stop - self._start,
            "startup_s": first - self._start,
            "shutdown_s": stop - last,
            "pictures_per_s": n_new / (last - first) if last > first else None,
        }


def _read_model(model: str | os.PathLike[str] | ModelFile | None) -> ModelFile:
    """Read the model and open it once, so that its errors are raised here and not by workers."""
    file = model if isinstance(model, ModelFile) else read_model(find_model(model))
    Predictor(file, "cpu").close()
    return file


def _claim_folder(folder: Path, model: ModelFile, settings: Settings) -> None:
    """Make a folder the output of this job, or check that it is already.

    Raises:
        UsageError: It holds predictions of another model.
        OutputError: It holds other files, or cannot be written.
    """
    path = folder / JOB_FOLDER / SETTINGS_NAME
    expected = {"model_sha256": model.sha256, "accept_all": settings.accept_all}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if json.loads(path.read_bytes()) != expected:
            raise UsageError(
                f"{folder} holds predictions of another model, or with another --accept-all; "
                "choose another --output"
            )
        return
    if folder.is_dir() and any(one.name != JOB_FOLDER for one in folder.iterdir()):
        raise OutputError(f"{folder} holds other files; choose another --output")
    make_folder(folder / JOB_FOLDER)
    write_atomically(folder / JOB_FOLDER / MODEL_NAME, model.content)
    write_atomically(path, json.dumps(expected).encode())


def _count_statuses(folder: Path, parts: Sequence[Part]) -> dict[str, int]:
    """Count the pictures by status, from the files in the folder.

    Raises:
        ClusterError: Some are missing.
    """
    counts = Counter(dict.fromkeys(STATUSES, 0))
    missing = []
    for part in parts:
        footer = read_footer(folder, part)
        if footer is None:
            missing.append(part)
        else:
            counts.update(footer.statuses)
    if missing:
        raise ClusterError(
            f"{sum(part.n_pictures for part in missing):,} pictures have no prediction, their "
            f"workers were lost {MAX_TRIES} times; {missing[0].name} is the first that is missing. "
            "The same command tries again what is missing"
        )
    return dict(counts)


def _predict_parts(
    parts: Sequence[Part],
    folder: Path,
    settings: Settings,
    clock: _Clock,
    *,
    address: str | None,
    report: Report,
) -> None:
    """Have workers predict parts, in any order; a lost worker is replaced, its part repeated."""
    for part in parts:
        forget_tries(folder, part)
    n_done, n_pictures = 0, sum(part.n_pictures for part in parts)
    with _quiet_ray() as ray, _open_ray(ray, address):
        n_workers = min(_count_workers(ray, settings), len(parts))
        rows = _map_parts(ray, parts, folder, settings, n_workers=n_workers).iter_rows()
        try:
            for row in rows:
                if row["error"]:
                    raise getattr(errors, row["error"])(row["message"])
                clock.add_part(row["part_s"])
                n_done += row["n_pictures"]
                report(n_done, n_pictures)
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray gave up: {_last_line(error)}") from error


def _map_parts(
    ray: Any, parts: Sequence[Part], folder: Path, settings: Settings, *, n_workers: int
) -> Any:
    """Return a data set with one row for each part; to read it is to run the workers."""
    items = [{"part": part.to_json()} for part in parts]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Worker,
        fn_constructor_args=(os.path.abspath(folder), settings),
        batch_size=1,
        concurrency=n_workers,
        num_cpus=1,
        num_gpus=int(settings.device == "cuda"),
    )


def _count_workers(ray: Any, settings: Settings) -> int:
    """Return how many workers the cluster has room for: one for each core, or GPU."""
    resource = "GPU" if settings.device == "cuda" else "CPU"
    n_workers = int(ray.cluster_resources().get(resource, 0))
    if resource == "GPU" and not n_workers:
        raise ProviderError("--provider cuda: no machine of this Ray cluster has a GPU")
    return max(n_workers, 1)


@contextlib.contextmanager
def _quiet_ray() -> Iterator[Any]:
    """Import Ray without usage statistics, log lines and progress bars; restore all at the end.

    Ray reads the variable whenever it has something to send, and its processes inherit it.
    """
    name = "RAY_USAGE_STATS_ENABLED"
    variable = os.environ.get(name)
    os.environ[name] = "0"
    try:
        import ray
        import ray.data

        logger, context = logging.getLogger("ray.data"), ray.data.DataContext.get_current()
        level, has_bars = logger.level, context.enable_progress_bars
        logger.setLevel(logging.CRITICAL)
        context.enable_progress_bars = False
        try:
            yield ray
        finally:
            logger.setLevel(level)
            context.enable_progress_bars = has_bars
    finally:
        if variable is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = variable


@contextlib.contextmanager
def _open_ray(ray: Any, address: str | None) -> Iterator[None]:
    """Start Ray on this machine, or join a cluster; a Ray that this process has open is used.

    Raises:
        ClusterError: That fails.
    """
    if ray.is_initialized():
        yield
        return
    local = {
        "num_cpus": count_cores(),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    try:
        if address == "auto":  # may stand for a cluster that ended long ago
            address = ray._private.services.canonicalize_bootstrap_address(address)
        _check_address(address or "")
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **({} if address else local),
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        action = f"reach Ray at {address}" if address else "start Ray"
        raise ClusterError(f"cannot {action}: {_last_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Find out in seconds that no gRPC server listens at an address; Ray itself tries for minutes.

    Raises:
        OSError: None does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    server = (host.strip("[]"), int(port))
    with socket.create_connection(server, timeout=CONNECT_TIMEOUT_S) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # then the server says nothing before a certificate is exchanged
        connection.sendall(HTTP2_PREFACE)
        answer = connection.recv(4)
    if answer[3:] != HTTP2_SETTINGS:
        raise ConnectionError("what listens there is not a Ray cluster")


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
