"""Names of files and standard streams as they come on a real machine: nothing stops the rest."""

import csv
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Command

from edge_mnist.cli.predict import read_listing

NAMES = (b"caf\xe9.png", "日本.png".encode(), b"red\x1b[31m.png", b"two\nlines.png")
PRINTED = ("caf\\xe9.png", "日本.png", "red\\x1b[31m.png", "two\\nlines.png")
FULL = "No space left on device"


@pytest.fixture
def pictures(tmp_path: Path, drawings: list[Path]) -> Path:
    """Pictures of a four under names that are hard to print."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(drawings[4], os.fsencode(folder) + b"/" + name)
    return folder


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``edge-mnist`` in a shell, which redirects its streams."""
    command = f"{shlex.quote(sys.executable)} -m edge_mnist {line}"
    return subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True)


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "utf-8:strict"},  # as in a locale such as en_US.UTF-8
    ],
)
def test_every_name_is_printed_in_every_locale(
    edge_mnist: Command, pictures: Path, env: dict[str, str]
) -> None:
    done = edge_mnist("predict", "-r", "pictures", env=env)
    assert done.returncode == 0, done.stderr
    names = {line.partition("pictures/")[2] for line in done.stdout.splitlines()}
    japanese = PRINTED[1]
    if "cp1252" in env.values():
        japanese = "\\u65e5\\u672c.png"
    elif "LC_ALL" in env:  # there Python decodes names as ASCII
        japanese = "".join(f"\\x{byte:02x}" for byte in "日本".encode()) + ".png"
    assert names == {PRINTED[0], japanese, *PRINTED[2:]}
    done = edge_mnist("predict", "-r", "pictures", "--jsonl", env=env)
    assert done.returncode == 0
    paths = {os.fsencode(json.loads(line)["path"]) for line in done.stdout.splitlines()}
    assert paths == {b"pictures/" + name for name in NAMES}


def test_errors_are_escaped_too(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("predict", "missing\x1b[2J\n.png", "--model", "model\x1b[2J.onnx")
    assert done.returncode == 3
    assert done.stderr == "edge-mnist: no model file model\\x1b[2J.onnx\n"
    done = edge_mnist("predict", "missing\x1b[2J\n.png")
    assert "missing\\x1b[2J\\n.png: No such file" in done.stderr


@pytest.mark.parametrize(
    ("redirection", "exit_code", "stdout", "stderr"),
    [
        ("2>&-", 0, "4 ", ""),
        ("2>/dev/full", 0, "4 ", ""),
        ("<&-", 0, "4 ", "on cpu"),
        (">&-", 3, "", "cannot write standard output: Bad file descriptor"),
        (">/dev/full", 3, "", f"cannot write standard output: {FULL}"),
        (">&- 2>&-", 3, "", ""),
        ("--json >/dev/full", 3, "", FULL),
        ("--csv | true; exit ${PIPESTATUS[0]}", 0, "", "on cpu"),
        ("- <&-", 1, "4 ", "-: Bad file descriptor"),
    ],
)
def test_closed_and_full_streams(
    drawings: list[Path], tmp_path: Path, redirection: str, exit_code: int, stdout: str, stderr: str
) -> None:
    done = shell(f"predict {drawings[4]} --provider cpu {redirection}", tmp_path)
    assert done.returncode == exit_code, done.stderr
    assert done.stdout.startswith(stdout)
    assert stderr in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize("command", ["--help", "models", "info --json"])
def test_no_command_loses_its_output_silently(tmp_path: Path, command: str) -> None:
    done = shell(f"{command} >/dev/full", tmp_path)
    assert done.returncode == 3
    assert done.stderr == f"edge-mnist: cannot write standard output: {FULL}\n"
    done = shell(f"{command} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_no_picture_stops_nothing(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    deepest = tmp_path / "folder"
    deepest.mkdir()
    descriptor = os.open(deepest, os.O_RDONLY)
    for _ in range(1100):  # deeper than Python calls may be nested
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    target = os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
    os.write(target, drawings[4].read_bytes())
    os.close(target)
    os.close(descriptor)
    shutil.copy(drawings[3], tmp_path / "folder" / "three.png")
    os.mkfifo(tmp_path / "folder" / "fifo.png")
    done = edge_mnist("predict", "-r", "folder", "--jsonl", timeout=120)
    assert done.returncode == 1
    items = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item.get("digit", item.get("error")) for item in items] == [
        4,
        "left out: not a regular file",
        3,
    ]
    remove_deep(tmp_path / "folder")


def remove_deep(folder: Path) -> None:
    """Remove a folder that is too deep for shutil.rmtree."""
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_lists_of_pictures(edge_mnist: Command, pictures: Path, tmp_path: Path) -> None:
    paths = [b"pictures/" + name for name in NAMES]
    plain = [path for path in paths if b"\n" not in path]
    (tmp_path / "list").write_bytes(b"\r\n".join(plain) + b"\n\nmissing.png")
    done = edge_mnist("predict", "--from-file", "list", "--jsonl")
    items = [json.loads(line) for line in done.stdout.splitlines()]
    assert [os.fsencode(item["path"]) for item in items] == [*plain, b"missing.png"]
    assert [item["status"] for item in items] == ["ok"] * len(plain) + ["error"]
    command = [sys.executable, "-m", "edge_mnist", "predict", "--from-file", "-", "-0", "--csv"]
    listed = b"\0".join(paths) + b"\0"
    read = subprocess.run(command, cwd=tmp_path, input=listed, capture_output=True, check=True)
    assert read.stdout.count(b"\r\n") == 1 + len(paths)
    text = read.stdout.decode("utf-8", "surrogateescape").replace("\\udce9", "\udce9")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [os.fsencode(row["path"]) for row in rows] == paths
    assert {row["digit"] for row in rows} == {"4"}
    for wrong in (
        ["--null", "x.png"],
        ["--from-file", "missing"],
        ["--from-file", "-", "-"],
        ["x.png", "--csv", "--json"],
        ["x.png", "--csv", "--show"],
    ):
        assert edge_mnist("predict", *wrong).returncode == 2


def test_a_carriage_return_belongs_to_a_name_between_nulls(tmp_path: Path) -> None:
    listing = tmp_path / "list"
    listing.write_bytes(b"one\r\0two\r")
    with open(listing, "rb") as file:
        assert list(read_listing(file, b"\0")) == ["one\r", "two\r"]
    listing.write_bytes(b"one\r\ntwo\r")
    with open(listing, "rb") as file:
        assert list(read_listing(file, b"\n")) == ["one", "two"]


def test_a_name_that_is_too_long_stops_nothing(edge_mnist: Command, drawings: list[Path]) -> None:
    too_long = f"{'a' * 300}.png"
    done = edge_mnist("predict", too_long, drawings[4], "--jsonl")
    assert done.returncode == 1
    items = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["status"] for item in items] == ["error", "ok"]
    assert items[0]["error"] == "File name too long"
    for command in ("validate", "plot", "info", "bench"):
        done = edge_mnist(command, too_long)
        assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)


def test_a_slow_list_is_answered_as_it_comes(drawings: list[Path]) -> None:
    command = [sys.executable, "-m", "edge_mnist", "predict", "--from-file", "-", "--jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for digit in (3, 5):
            process.stdin.write(os.fsencode(drawings[digit]) + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["digit"] == digit
            time.sleep(0.5)
