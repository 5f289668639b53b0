"""Where a data set's files are: a folder the user named, the cache, torchvision's download."""

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mnist.errors import DataError, MissingPackageError
from edge_mnist.files import make_folder, output_errors

SOCKET_TIMEOUT_S = 10


@dataclass(frozen=True)
class Source:
    """What torchvision knows a data set as.

    Attributes:
        loader: The class in torchvision.datasets; also the folder that it makes.
        calls: Options of each call of it that the whole data set takes.
        kept: Which of the files in ``raw`` are kept; the others are of no use here.
        held: What a folder that a user names has to hold, in words.
        timeout_s: Longest time for the download, unless the caller says otherwise.
    """

    loader: str
    calls: tuple[Mapping[str, Any], ...] = ({},)
    kept: str = "*"
    held: str = ""
    timeout_s: float = 300.0

    def not_at_hand(self, reason: str) -> DataError:
        """Return the error that names the reason and the ways out."""
        return DataError(
            f"{self.loader} is not at hand and {reason}. Three ways out: connect to a network and "
            f"run again; name a folder with {self.held} (--data-dir or EDGE_MNIST_DATA); "
            "or use the built-in digits (--dataset digits)"
        )


def named_folder(data_dir: Path | None) -> Path | None:
    """Return the data folder that the user named, by option or by EDGE_MNIST_DATA."""
    named = data_dir or os.environ.get("EDGE_MNIST_DATA")
    return Path(named) if named else None


def cache_folder() -> Path:
    """Return where downloads are kept: XDG_CACHE_HOME/edge-mnist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-mnist"


def find_in_cache(
    source: Source, find_in: Callable[[Path], Path], *, offline: bool, timeout_s: float | None
) -> Path:
    """Return the folder with a data set's files, downloading them if need be.

    Args:
        source: What to download.
        find_in: Returns the folder with the files below a given one, or raises DataError.
        offline: Never download. EDGE_MNIST_OFFLINE=1 does the same.
        timeout_s: Longest time for the download; None for the source's own.

    Raises:
        DataError: They are not in the cache and cannot be downloaded.
    """
    cache = cache_folder()
    with contextlib.suppress(DataError):
        return find_in(cache)
    if offline or os.environ.get("EDGE_MNIST_OFFLINE", "0") not in ("", "0"):
        raise source.not_at_hand("downloads are off (offline)")
    download(source, cache, timeout_s=source.timeout_s if timeout_s is None else timeout_s)
    return find_in(cache)


def download(source: Source, folder: Path, *, timeout_s: float) -> None:
    """Download a data set with torchvision's loader into ``folder``, whole or not at all.

    Raises:
        DataError: The download failed or took longer than ``timeout_s``.
        MissingPackageError: torchvision is not installed.
    """
    make_folder(folder)
    failures: list[Exception] = []
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as partial:
        # A thread, because a slow server keeps a socket alive beyond any socket timeout.
        worker = threading.Thread(
            target=_run_download, args=(source, partial, failures), daemon=True
        )
        worker.start()
        worker.join(timeout_s)
        if worker.is_alive():
            raise source.not_at_hand(f"the download took longer than {timeout_s:.0f} s")
        if failures:
            raise failures[0]
        _move_files(Path(partial) / source.loader / "raw", folder / source.loader / "raw")


def _run_download(source: Source, root: str, failures: list[Exception]) -> None:
    try:
        from torchvision import datasets
    except ImportError:
        failures.append(
            MissingPackageError(
                f"{source.loader} is not at hand, and the download needs torchvision; install "
                "'edge-mnist[train]', or name a folder with --data-dir"
            )
        )
        return
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SOCKET_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints its mirrors' failures
            for options in source.calls:
                getattr(datasets, source.loader)(root, download=True, **options)
        _drop_others(Path(root) / source.loader / "raw", source.kept)
    except Exception as error:  # whatever a download can raise, the user needs one line
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        failures.append(source.not_at_hand(f"the download failed ({reason.rstrip(':')})"))
    finally:
        socket.setdefaulttimeout(before)


def _move_files(source: Path, target: Path) -> None:
    """Move whole files into ``target``; a folder there that lacks some is completed."""
    make_folder(target)
    with output_errors(target):
        for path in source.iterdir():
            os.replace(path, target / path.name)


def _drop_others(folder: Path, kept: str) -> None:
    for path in folder.iterdir():
        if not path.match(kept):
            path.unlink()
