"""Writing files so that whoever looks, at any moment, sees a whole file or none."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_mnist.errors import OutputError


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing what is there in one step.

    Where the file system allows it (Linux), the bytes are written to a file that has no name
    yet, so that a process killed half-way leaves nothing behind, not even a temporary file.

    Raises:
        OutputError: The file cannot be written: no permission, disk full.
    """
    with output_errors(path):
        if not _write_unnamed(path, data):
            _write_named(path, data)


def write_exclusively(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all, where nothing is there yet.

    Raises:
        FileExistsError: Something is there, perhaps since a moment ago.
        OutputError: The file cannot be written.
    """
    with output_errors(path):
        descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "wb") as file:
                _write_and_sync(file.fileno(), data)
            os.chmod(partial, 0o644)  # mkstemp lets nobody else read it
            os.link(partial, path)  # unlike rename, it never replaces
        finally:
            os.unlink(partial)


def make_folder(path: Path) -> Path:
    """Create a folder, and its parents, where it is missing.

    Raises:
        OutputError: It cannot be created, or cannot be written into.
    """
    with output_errors(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(20, "it is a file, not a folder")
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    return path


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into an OutputError.

    That something is there already is not a refusal: FileExistsError passes.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _write_unnamed(path: Path, data: bytes) -> bool:
    """Write through a nameless file; False where the system has none."""
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, IsADirectoryError, NotImplementedError):
        return False  # not Linux
    except OSError as error:
        if error.errno == 95:  # EOPNOTSUPP: a file system without nameless files
            return False
        raise
    with open(descriptor, "wb") as file:
        _write_and_sync(file.fileno(), data)
        whole = path.with_name(f".{path.name}.{os.getpid()}")
        # Naming a directory makes Python call linkat, which alone can follow this link.
        os.link(f"/proc/self/fd/{file.fileno()}", whole, src_dir_fd=file.fileno())
    os.replace(whole, path)
    return True


def _write_named(path: Path, data: bytes) -> None:
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            _write_and_sync(file.fileno(), data)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _write_and_sync(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)
