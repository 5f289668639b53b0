"""The pool of workers: Ray, started here or joined, and Ray Data that hands out the parts."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data

from edge_mnist.errors import ClusterError, OutputError, ProviderError
from edge_mnist.machine import count_cores
from edge_mnist.ray.plan import Part
from edge_mnist.ray.worker import Settings, Worker, forget_tries, pack_part

# Both count only before Ray is imported: no word to its makers, and no advice on stderr about how
# Ray Data, not we, calls Ray.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

OBJECT_STORE_BYTES = 128 * 2**20  # paths go through it, never pictures


def answer_parts(
    parts: Sequence[Part],
    folder: Path,
    settings: Settings,
    *,
    address: str | None = None,
    report: Callable[[int, int], None],
) -> None:
    """Have workers answer parts, in any order; a lost worker is replaced, its part done again.

    Args:
        parts: What to answer.
        folder: The job's.
        settings: How to answer.
        address: A Ray cluster that is running; None starts Ray on this machine.
        report: Called with the numbers of pictures answered, and to answer.

    Raises:
        ProviderError: CUDA was asked for and the cluster has no GPU.
        OutputError: A worker cannot write.
        ClusterError: Ray cannot be started, or gave up.
    """
    for part in parts:
        forget_tries(folder, part)
    n_done, n_pictures = 0, sum(part.n_pictures for part in parts)
    with open_ray(address):
        n_workers = min(count_workers(settings), len(parts))
        try:
            for row in _map_parts(parts, folder, settings, n_workers=n_workers).iter_rows():
                if row["failure"]:
                    raise OutputError(row["failure"])
                n_done += row["n_pictures"]
                report(n_done, n_pictures)
        except ray.exceptions.RayError as error:
            raise ClusterError(f"Ray gave up: {_last_line(error)}") from error


@contextlib.contextmanager
def open_ray(address: str | None) -> Iterator[None]:
    """Start Ray on this machine, or join a cluster; a Ray that this process has open is used.

    Raises:
        ClusterError: That fails.
    """
    if ray.is_initialized():
        yield
        return
    here: dict[str, Any] = {
        "num_cpus": count_cores(),
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    options = {} if address else here
    try:
        _knock(address or "")
        with _silence_stderr():
            ray.init(
                address=address or "local",
                logging_level=logging.ERROR,
                log_to_driver=False,
                **options,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"cannot start or reach Ray: {_last_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Find out in seconds that nobody is there; Ray itself takes minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Let nothing reach stderr, also from compiled code; what goes wrong is raised as well."""
    with open(os.devnull, "wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def count_workers(settings: Settings) -> int:
    """Return how many workers the cluster has room for: one to a core, or to a GPU.

    Raises:
        ProviderError: CUDA was asked for and there is no GPU.
    """
    resource = "GPU" if settings.device == "cuda" else "CPU"
    n_workers = int(ray.cluster_resources().get(resource, 0))
    if resource == "GPU" and not n_workers:
        raise ProviderError("--provider cuda: no machine of this Ray cluster has a GPU")
    return max(n_workers, 1)


def _map_parts(parts: Sequence[Part], folder: Path, settings: Settings, *, n_workers: int) -> Any:
    """Return a Ray data set of what became of each part; reading it does the work."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    texts = [{"part": pack_part(part)} for part in parts]
    return ray.data.from_items(texts, override_num_blocks=len(texts)).map_batches(
        Worker,
        fn_constructor_args=(os.path.abspath(folder), settings),
        batch_size=1,
        concurrency=n_workers,
        num_cpus=1,
        num_gpus=int(settings.device == "cuda"),
    )


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()
