"""Writing files whole or not at all, and errors of the file system."""

import contextlib
import io
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mnist.errors import OutputError

if TYPE_CHECKING:
    from PIL import Image


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing in one step what is there.

    A reader sees the former file or the new one, never a part. A process that is killed may leave
    a hidden file ``.NAME.*.tmp`` behind, which never hinders a later write.

    Raises:
        OutputError: The file cannot be written: no permission, disk full.
    """
    with output_errors(path):
        _refuse_folder(path)
        with _temporary_file(path, data) as written:
            os.replace(written, path)


def write_png(path: Path, image: "Image.Image") -> None:
    """Write an image as a PNG file; see ``write_atomically``.

    Raises:
        OutputError: The file cannot be written.
    """
    encoded = io.BytesIO()
    image.save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue())


def check_writable(path: Path) -> None:
    """Check that ``write_atomically`` can write a file, before the work that it is to hold.

    Raises:
        OutputError: It cannot: the path is a folder, its folder is missing or read-only.
    """
    with output_errors(path):
        _refuse_folder(path)
        with _temporary_file(path, b""):
            pass


def check_folder(path: Path) -> None:
    """Check that ``make_folder`` can create a folder, or use it, before the work that it is for.

    Raises:
        OutputError: It cannot: the path, or one above it, is a file or may not be written into.
    """
    with output_errors(path):
        found = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
        if not os.path.isdir(found):
            raise NotADirectoryError(20, f"{found} is not a folder")
        with _temporary_file(found / "checked", b""):  # unlike os.access, it names the real reason
            pass


def write_exclusively(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all, if nothing is there yet.

    Raises:
        FileExistsError: Something is there, perhaps since a moment ago.
        OutputError: The file cannot be written.
    """
    with output_errors(path), _temporary_file(path, data) as written:
        os.link(written, path)  # unlike rename, it never replaces


def refuse_foreign(path: Path, mark: bytes) -> None:
    """Refuse to replace a file that was not written by this package.

    Args:
        path: The file, which need not exist.
        mark: What every one that was written holds.

    Raises:
        OutputError: It exists and does not hold the mark, or cannot be read.
    """
    with output_errors(path):
        if path.exists() and mark not in path.read_bytes():
            raise OutputError(
                f"{path} exists and is not from edge-mnist; "
                "choose another folder with -o, or add --overwrite"
            )


def refuse_foreign_files(
    folder: Path, files: Mapping[str, bytes], *, marked: str, mark: bytes
) -> None:
    """Refuse to replace files of a folder that an earlier export did not write.

    Args:
        folder: Where they are to be written; it need not exist.
        files: Their names and content.
        marked: The name of the one that tells an export's folder.
        mark: What every such file holds.

    Raises:
        OutputError: The marked file is somebody else's; or it does not exist, and another one does
            with other content.
    """
    refuse_foreign(folder / marked, mark)
    if not (folder / marked).exists():
        for name, content in files.items():
            refuse_foreign(folder / name, content)


def make_folder(path: Path) -> Path:
    """Create a folder, and its parents, unless it exists.

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
    """Translate an OSError while writing ``path`` into an OutputError; FileExistsError passes."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _refuse_folder(path: Path) -> None:
    if os.path.isdir(path):  # also ".", which has no name to put a file beside
        raise IsADirectoryError(21, "it is a folder, not a file")


@contextlib.contextmanager
def _temporary_file(path: Path, data: bytes) -> Iterator[Path]:
    """Write ``data`` to a new file beside ``path``; delete it at the end if it still exists.

    Opened by ``open`` and not by ``tempfile``, whose files only their owner may read: a web server
    has to read an exported page.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
