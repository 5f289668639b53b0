import errno
import os
import stat
from pathlib import Path

import pytest

from edge_mnist.errors import OutputError
from edge_mnist.files import (
    check_folder,
    check_writable,
    make_folder,
    write_atomically,
    write_exclusively,
)
from edge_mnist.quickstart import draw_picture


def test_replaces_in_one_step_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new" * 100_000)
    assert path.read_bytes() == b"new" * 100_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=f"cannot write {path}: No space left"):
        write_atomically(path, b"new")
    with pytest.raises(OutputError, match=f"cannot write {path}: No space left"):
        draw_picture(path)  # of quickstart
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_left_by_a_kill_do_not_hinder(tmp_path: Path) -> None:
    """Whatever names they have: an earlier version's held the process id."""
    path = tmp_path / "file"
    for left in (f".file.{os.getpid()}", ".file.tmp"):
        (tmp_path / left).write_bytes(b"half")
    for _ in range(2):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("write", [write_atomically, write_exclusively])
def test_others_may_read_what_is_written(tmp_path: Path, write: object) -> None:
    before = os.umask(0o022)
    try:
        assert callable(write)
        write(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_exclusively_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_exclusively(path, b"first")
    with pytest.raises(FileExistsError):
        write_exclusively(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="it is a file, not a folder"):
        make_folder(tmp_path / "file")


def test_a_file_that_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, Path()):
        with pytest.raises(OutputError, match="it is a folder, not a file"):
            write_atomically(path, b"")


def test_what_cannot_be_written_is_known_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_bytes(b"old")
    folder.mkdir()
    check_writable(file)
    check_writable(folder / "new")
    for path in (folder, Path(), Path("..")):
        check_folder(path)
    check_folder(folder / "new" / "below")
    assert sorted(tmp_path.rglob("*")) == [file, folder]
    assert file.read_bytes() == b"old"
    for path in (folder, tmp_path / "missing" / "new", file / "new"):
        with pytest.raises(OutputError, match=f"cannot write {path}"):
            check_writable(path)
    for path in (file, file / "new"):
        with pytest.raises(OutputError, match=f"{file} is not a folder"):
            check_folder(path)
