"""Many pictures by Ray; each test that starts it takes seconds, so there are few."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command, serve
from PIL import Image

from edge_mnist.errors import DataError, OutputError
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.predictor import Predictor

pytest.importorskip("ray", reason="ray is not installed: pip install 'edge-mnist[ray]'")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from edge_mnist.ray import plan  # noqa: E402
from edge_mnist.ray.plan import (  # noqa: E402
    JOB_FOLDER,
    Part,
    Rows,
    extend_plan,
    list_inputs,
    read_plan,
    slice_table,
)
from edge_mnist.ray.worker import (  # noqa: E402
    MAX_TRIES,
    MODEL_NAME,
    Settings,
    Worker,
    count_try,
    make_row,
    read_footer,
    read_rows,
    write_part,
)

KEYS = ("status", "digit", "name", "confidence", "reason", "error")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures in folders within folders, among them a blank and damaged ones."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(3)
    for number in range(36):
        below = folder / str(number % 3) / "below"
        below.mkdir(parents=True, exist_ok=True)
        draw_digit(number % 10, generator).save(below / f"{number}.png")
    whole = (folder / "0" / "below" / "0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("only text")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    Image.new("L", (60, 60), 255).save(folder / "blank.png")
    return folder


def read_output(output: Path) -> list[dict[str, Any]]:
    """Read the output the way a user would: the folder as one data set."""
    rows: list[dict[str, Any]] = pq.read_table(output).to_pylist()
    return rows


def expect(pictures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a Predictor says of pictures by name, sorted by name."""
    with Predictor(provider="cpu") as predictor:
        predictions = predictor.predict_many(pictures.values())
        rows = zip(pictures, predictions, strict=True)
        return sorted(
            ({"path": path} | {key: getattr(one, key) for key in KEYS} for path, one in rows),
            key=lambda row: row["path"],
        )


def make_table(path: Path, pictures: dict[str, bytes | None], row_group_size: int) -> Path:
    table = pa.table({"path": list(pictures), "bytes": list(pictures.values())})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def ray_command(*args: object) -> list[str]:
    return [sys.executable, "-m", "edge_mnist", "predict", "--engine", "ray", *map(str, args)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Address of a Ray cluster of one node with one core; its workers send no telemetry."""
    from ray.cluster_utils import Cluster

    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    yield cluster.address
    cluster.shutdown()
    assert [*home.rglob("*onnxruntime*")] == []


RUN_JOB = """
import dataclasses, json, logging, os, sys
import ray.data
from edge_mnist.ray.job import run_job

def read_state():
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    variable = os.environ.get("RAY_USAGE_STATS_ENABLED")
    return variable, context.enable_progress_bars, logger.level

*inputs, folder, address = sys.argv[1:]
before, during = read_state(), set()
report = run_job(inputs, folder, address=address, report=lambda *_: during.add(read_state()))
assert during == {("0", False, logging.CRITICAL)}, during
assert read_state() == before, (before, read_state())
assert not ray.is_initialized()
print(json.dumps(dataclasses.asdict(report)))
"""


def test_a_folder_and_what_is_missing(
    edge_mnist: Command, folder: Path, tmp_path: Path, cluster: str
) -> None:
    done = edge_mnist(*ray_command(folder, "-o", "out")[3:])
    assert done.returncode == 1, done.stderr  # some were rejected
    assert done.stdout == "out: 40 pictures: 36 ok, 1 rejected, 3 error\n"
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["model", "40"]
    assert " s to start, " in done.stderr
    paths = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]
    rows = sorted(read_output(tmp_path / "out"), key=lambda row: row["path"])
    assert rows == expect({str(path): path for path in paths})

    # One part is lost, one damaged, and pictures in a Parquet file are new: only these are done,
    # from Python and on a cluster that runs.
    parts = sorted((tmp_path / "out").glob("part-*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in parts}
    n_lost = sum(pq.read_metadata(path).num_rows for path in parts[:2])
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-20])
    new: dict[str, bytes | None] = {f"row {path.stem}": path.read_bytes() for path in paths[:30]}
    new["null"] = None
    (tmp_path / "tables").mkdir()
    make_table(tmp_path / "tables" / "new.parquet", new, row_group_size=20)
    names = (str(folder), str(tmp_path / "tables"), str(tmp_path / "out"))
    script = [sys.executable, "-c", RUN_JOB, *names, cluster]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["n_new"] == n_lost + len(new)
    assert report["n_pictures"] == 40 + len(new)
    assert min(report["startup_s"], report["shutdown_s"]) > 0
    pace_s = report["n_new"] / report["pictures_per_s"]
    assert report["startup_s"] + pace_s + report["shutdown_s"] == pytest.approx(report["job_s"])
    assert all(path.stat().st_mtime_ns == before[path] for path in parts[2:])
    rows = sorted(read_output(tmp_path / "out"), key=lambda row: row["path"])
    inputs = {str(path): path for path in paths}
    assert rows == expect(inputs | {name: data or b"" for name, data in new.items()})

    done = edge_mnist(*ray_command(*names[:2], "-o", "out", "--json")[3:])  # without Ray
    report = json.loads(done.stdout)
    assert (report["n_new"], report["pictures_per_s"]) == (0, None)


def test_a_killed_worker_and_a_killed_driver(folder: Path, tmp_path: Path) -> None:
    """The last picture is a pipe, which keeps its worker reading until this test writes it."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    sheets = [path.read_bytes() for path in sorted(folder.rglob("below/*.png"))]
    for number in range(100):
        (pictures / f"{number}.png").write_bytes(sheets[number % len(sheets)])
    pipe, output = tmp_path / "pipe.png", tmp_path / "out"
    os.mkfifo(pipe)
    command = ray_command(pictures, pipe, "-o", output, "--json")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as driver:
        writer, worker = wait_for_reader(pipe, driver)
        wait_until(lambda: len(list(output.glob("part-*.parquet"))) == 6, driver)
        driver.kill()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    os.close(writer)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        writer, killed = wait_for_reader(pipe, driver)
        assert len(list((output / JOB_FOLDER).glob("*.tries"))) == 1
        os.kill(killed, signal.SIGKILL)
        os.close(writer)
        writer, worker = wait_for_reader(pipe, driver, killed)
        os.write(writer, sheets[0])
        os.close(writer)
        stdout, stderr = driver.communicate()
    assert len({worker, killed}) == 2
    report = json.loads(stdout)  # what Ray tells of the lost worker goes to stderr
    assert "Traceback" not in stderr
    assert (report["n_pictures"], report["n_new"]) == (101, 5)
    assert report["statuses"]["ok"] == 101
    paths = Counter(row["path"] for row in read_output(output))
    assert paths == Counter(map(str, [*pictures.iterdir(), pipe]))
    assert list((output / JOB_FOLDER).glob("*.tries")) == []


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen[Any] | None = None
) -> None:
    """Wait for a condition, however slow the machine; a process that ended will not meet it."""
    deadline = time.monotonic() + 1800
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_reader(pipe: Path, process: subprocess.Popen[Any], killed: int = 0) -> tuple[int, int]:
    """Wait until a worker opens a pipe; return a descriptor to write to, and the worker's id."""
    writers: list[int] = []
    readers: list[int] = []

    def is_open() -> bool:
        with contextlib.suppress(OSError):  # ENXIO: nobody reads
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    def is_known() -> bool:
        readers[:] = [pid for pid in list_openers(pipe) if pid not in (os.getpid(), killed)]
        return bool(readers)

    wait_until(is_open, process)
    wait_until(is_known, process)
    return writers[0], readers[0]


def list_openers(path: Path) -> Iterator[int]:
    """Yield the processes that have a file open."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) == str(path):
                yield int(descriptor.parts[2])


def test_rows_are_cut_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: dict[str, bytes | None] = {str(number): b"%d" % number for number in range(1000)}
    table = make_table(tmp_path / "t.parquet", pictures, row_group_size=400)
    slices = list(slice_table(str(table), 150))
    assert [(one.group, one.start, one.stop) for one in slices[:3]] == [
        (0, 0, 150),
        (0, 150, 300),
        (0, 300, 400),
    ]
    read = [row for one in slices for row in read_rows(one)]
    assert read == list(pictures.items())
    monkeypatch.setattr(plan, "MAX_SLICES", 4)
    assert len(list(slice_table(str(table), 1))) == 12


def test_the_plan_is_kept(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / JOB_FOLDER).mkdir(parents=True)
    inputs = list_inputs([str(folder), str(folder / "0")], output)
    assert len(inputs.paths) == 40  # each once, though one folder is in the other
    first = extend_plan(output, inputs)
    assert sum(part.n_pictures for part in first) == 40
    assert read_plan(output) == first
    table = make_table(tmp_path / "t.parquet", {"a": b"1", "b": b"2"}, row_group_size=9)
    odd = tmp_path / os.fsdecode(b"odd-\xff.png")
    odd.write_bytes(b"")
    second = extend_plan(output, list_inputs([str(folder), str(table), str(odd)], output))
    assert second[: len(first)] == first
    assert {part.paths for part in second[len(first) :]} == {(), (str(odd),)}
    assert second[-1].rows == Rows(str(table), 0, 0, 2)
    assert read_plan(output) == second

    make_table(table, {"a": b"1"}, row_group_size=9)
    with pytest.raises(DataError, match="changed"):
        extend_plan(output, list_inputs([str(table)], output))
    (output / JOB_FOLDER / "plan-000000.parquet").unlink()
    with pytest.raises(DataError, match="incomplete"):
        read_plan(output)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.png").write_bytes(b"")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    inputs = list_inputs([str(tmp_path / "in")], tmp_path / "out")
    assert inputs.paths == (str(tmp_path / "in" / "one.png"),)
    assert inputs.left_out == (f"{tmp_path / 'in' / 'pipe.png'}: left out: not a regular file",)
    (tmp_path / "in" / "one.png").unlink()
    with pytest.raises(DataError, match=r"no pictures in .*; .*pipe.png: left out"):
        list_inputs([str(tmp_path / "in")], tmp_path / "out")
    with pytest.raises(DataError, match="no folder, picture or Parquet file"):
        list_inputs(["a" * 300], tmp_path / "out")


def test_a_plan_is_never_replaced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    (output / JOB_FOLDER).mkdir(parents=True)
    inputs = list_inputs([str(folder)], output)
    extend_plan(output, inputs)
    # As a second job does that looked before the first one wrote.
    monkeypatch.setattr("edge_mnist.ray.plan.read_plan", lambda folder: [])
    with pytest.raises(OutputError, match="another job"):
        extend_plan(output, inputs)
    assert len(list((output / JOB_FOLDER).iterdir())) == 1  # and no unfinished file


def test_a_part_that_ends_its_workers_is_left_out(
    drawings: list[Path], tmp_path: Path, predictor: Predictor
) -> None:
    (tmp_path / JOB_FOLDER).mkdir()
    (tmp_path / JOB_FOLDER / MODEL_NAME).write_bytes(predictor.model.content)
    worker = Worker(str(tmp_path), Settings())
    part = Part(7, tuple(map(str, drawings)))
    for _ in range(MAX_TRIES):
        count_try(tmp_path, part)  # and lost each time
    assert worker({"part": [part.to_json()]})["n_pictures"] == [10]
    assert read_footer(tmp_path, part) is None
    other = Part(8, part.paths)
    done = worker({"part": [other.to_json()]})
    assert (done["n_pictures"], done["error"], done["message"]) == ([10], [""], [""])
    footer = read_footer(tmp_path, other)
    assert footer is not None
    assert footer.statuses == {"ok": 10}
    assert read_footer(tmp_path, Part(8, part.paths[:-1])) is None  # another number of pictures


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(provider="cpu")


def test_a_name_that_is_no_text(tmp_path: Path, predictor: Predictor) -> None:
    path = os.fsdecode(b"odd-\xff.png")
    (prediction,) = predictor.predict_many([b""])
    rows = [make_row(path, prediction)]
    part = Part(0, (path,))
    write_part(tmp_path, part, rows, model_sha256="", provider="cpu")
    (row,) = read_output(tmp_path)
    assert row["path"] == "odd-\\udcff.png"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--engine", "ray"], 2),
        (["--output", "out"], 2),
        (["--address", "auto"], 2),
        (["--engine", "ray", "-o", "out", "--show"], 2),
        (["--engine", "ray", "-o", "out", "--jsonl"], 2),
        (["--engine", "ray", "-o", "out", "--top-k", "2"], 2),
        (["--engine", "ray", "-o", "out", "--provider", "tpu"], 2),
        (["--engine", "ray", "-o", "pictures/out"], 2),
        (["--engine", "ray", "-o", "full"], 3),
        (["--engine", "ray", "-o", "out", "missing"], 3),
        (["--engine", "ray", "-o", "out", "empty"], 3),
        (["--engine", "ray", "-o", "out", "wrong.parquet"], 3),
        (["--engine", "ray", "-o", "out", "--address", "127.0.0.1:9"], 3),
    ],
)
def test_wrong_usage(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path, args: list[str], code: int
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "7.png").write_bytes(drawings[7].read_bytes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"path": ["a"], "image": [b""]}), tmp_path / "wrong.parquet")
    done = edge_mnist("predict", "pictures", *args)
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_engines_that_there_are_stand_in_the_message(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("predict", "pictures", "--engine", "spark", "-o", "out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith("'spark' is not one of 'local', 'ray'.")
    assert not (tmp_path / "out").exists()


def test_a_folder_keeps_to_one_model(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out" / JOB_FOLDER).mkdir(parents=True)
    settings = {"model_sha256": "another", "accept_all": False}
    (tmp_path / "out" / JOB_FOLDER / "settings.json").write_text(json.dumps(settings))
    done = edge_mnist(*ray_command(drawings[7], "-o", "out")[3:])
    assert done.returncode == 2
    assert "another model" in done.stderr


def test_another_server_is_no_cluster(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    with serve(tmp_path) as url:
        address = url.removeprefix("http://").rstrip("/")
        done = edge_mnist(*ray_command(drawings[7], "-o", "out", "--address", address)[3:])
    assert (done.returncode, done.stdout) == (3, "")
    assert f"cannot reach Ray at {address}: what listens there is not" in done.stderr


def test_ray_that_cannot_start(edge_mnist: Command, drawings: list[Path]) -> None:
    options = ray_command(drawings[7], "-o", "out")[3:]
    done = edge_mnist(*options, env={"RAY_TMPDIR": str(drawings[0])})  # a file
    assert (done.returncode, done.stdout) == (3, "")
    assert len(done.stderr.splitlines()) == 1
    assert "cannot start Ray: " in done.stderr
