"""Many pictures by Ray; each test that starts it takes seconds, so there are few."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image

from edge_mnist.errors import DataError, OutputError
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.predictor import Predictor

pytest.importorskip("ray", reason="ray is not installed: pip install 'edge-mnist[ray]'")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from edge_mnist.ray.answers import make_answer, read_footer, write_part  # noqa: E402
from edge_mnist.ray.inputs import Rows, list_inputs, read_rows, slice_table  # noqa: E402

from edge_mnist.ray.plan import JOB_FOLDER, Part, extend_plan, read_plan  # noqa: E402
from edge_mnist.ray.worker import (  # noqa: E402
    MAX_TRIES,
    MODEL_NAME,
    Settings,
    Worker,
    count_try,
    pack_part,
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


def read_answers(output: Path) -> list[dict[str, Any]]:
    """Read all answers the way a user would: the folder as one data set."""
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


def test_a_folder_and_what_is_missing(edge_mnist: Command, folder: Path, tmp_path: Path) -> None:
    done = edge_mnist(*ray_command(folder, "-o", "out")[3:])
    assert done.returncode == 1, done.stderr  # some were rejected
    assert done.stdout == "out: 40 pictures: 36 ok, 1 rejected, 3 error\n"
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["model", "40"]
    paths = [path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")]
    answers = sorted(read_answers(tmp_path / "out"), key=lambda row: row["path"])
    assert answers == expect({str(path): path for path in paths})

    # One part is lost, one damaged, and pictures in a Parquet file are new: only these are done.
    parts = sorted((tmp_path / "out").glob("part-*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in parts}
    n_lost = sum(pq.read_metadata(path).num_rows for path in parts[:2])
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-20])
    new: dict[str, bytes | None] = {f"row {path.stem}": path.read_bytes() for path in paths[:30]}
    new["null"] = None
    (tmp_path / "tables").mkdir()
    make_table(tmp_path / "tables" / "new.parquet", new, row_group_size=20)
    done = edge_mnist(*ray_command(folder, "tables", "-o", "out", "--json")[3:])
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["n_new"] == n_lost + len(new)
    assert report["n_pictures"] == 40 + len(new)
    assert all(path.stat().st_mtime_ns == before[path] for path in parts[2:])
    answers = sorted(read_answers(tmp_path / "out"), key=lambda row: row["path"])
    wanted = {str(path): path for path in paths}
    assert answers == expect(wanted | {name: data or b"" for name, data in new.items()})


def test_a_killed_worker_and_a_killed_driver(folder: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    sheets = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
    for number in range(1300):
        (pictures / f"{number}.png").write_bytes(sheets[number % len(sheets)])
    output = tmp_path / "out"
    options = (pictures, "-o", output, "--json")
    with subprocess.Popen(ray_command(*options), stderr=subprocess.DEVNULL) as driver:
        wait_for_parts(output, 3)
        driver.kill()
    wait_until_quiet(output)
    n_before = sum(pq.read_metadata(path).num_rows for path in output.glob("part-*.parquet"))
    with subprocess.Popen(
        ray_command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        wait_for_parts(output, len(list(output.glob("part-*.parquet"))) + 6)
        worker = newest_worker(output)
        os.kill(worker, signal.SIGKILL)
        stdout, stderr = driver.communicate()
    report = json.loads(stdout)  # what Ray tells of the lost worker goes to stderr
    assert "Traceback" not in stderr
    assert report["n_pictures"] == 1300
    assert 0 < report["n_new"] <= 1300 - n_before
    paths = Counter(row["path"] for row in read_answers(output))
    assert paths == Counter(str(path) for path in pictures.iterdir())
    assert newest_worker(output) != worker
    assert list((output / JOB_FOLDER).glob("*.tries")) == []


def wait_for_parts(output: Path, n_parts: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(output.glob("part-*.parquet"))) < n_parts:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_until_quiet(output: Path) -> None:
    """Wait until the workers of a killed driver have noticed."""
    n_parts = -1
    while n_parts != (n_parts := len(list(output.glob("part-*.parquet")))):
        time.sleep(2)


def newest_worker(output: Path) -> int:
    """Return the process that wrote the last part."""
    newest = max(output.glob("part-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    footer = json.loads(pq.read_metadata(newest).metadata[b"edge-mnist"])
    return int(footer["worker"].rpartition(":")[2])


def test_rows_are_cut_and_read_once(tmp_path: Path) -> None:
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
    assert len(list(slice_table(str(table), 1, max_slices=4))) == 12


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
    with pytest.raises(DataError, match="not whole"):
        read_plan(output)


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
    assert worker({"part": [pack_part(part)]}) == {"n_pictures": [10], "failure": [""]}
    assert read_footer(tmp_path, part) is None
    other = Part(8, part.paths)
    assert worker({"part": [pack_part(other)]}) == {"n_pictures": [10], "failure": [""]}
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
    answers = [make_answer(path, prediction)]
    part = Part(0, (path,))
    write_part(tmp_path, part, answers, model_sha256="", provider="cpu")
    (row,) = read_answers(tmp_path)
    assert row["path"] == "odd-\\udcff.png"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--engine", "ray"], 2),
        (["--output", "out"], 2),
        (["--address", "auto"], 2),
        (["--engine", "spark"], 2),
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


def test_a_folder_keeps_to_one_model(
    edge_mnist: Command, drawings: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out" / JOB_FOLDER).mkdir(parents=True)
    settings = {"model_sha256": "another", "accept_all": False}
    (tmp_path / "out" / JOB_FOLDER / "settings.json").write_text(json.dumps(settings))
    done = edge_mnist(*ray_command(drawings[7], "-o", "out")[3:])
    assert done.returncode == 2
    assert "another model" in done.stderr
