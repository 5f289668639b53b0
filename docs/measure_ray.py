"""Measure ``predict --engine ray`` on many small PNG files, and kill a worker midway.

MNIST's test images, over and over, become files; a worker gets SIGKILL when half of the answers are
there; then every picture must stand in the answers exactly once, with the answer that ``predict``
gives in one process, which is timed on a sample.

    python docs/measure_ray.py --data-dir FOLDER --pictures 100000
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.training.data import load_dataset

SAMPLE = 10_000


def write_pictures(folder: Path, n_pictures: int, data_dir: Path | None) -> list[str]:
    """Write PNG files, a thousand to a folder, and return their paths."""
    images = load_dataset("mnist", data_dir=data_dir).test_images
    paths = []
    for number in range(n_pictures):
        below = folder / f"{number // 1000:04d}"
        below.mkdir(parents=True, exist_ok=True)
        paths.append(str(below / f"{number:07d}.png"))
        Image.fromarray(images[number % len(images)]).save(paths[-1])
    return paths


def read_workers(output: Path) -> Counter[int]:
    """Return how many parts each process has written, from what the parts say of themselves."""
    footers = (pq.read_metadata(path).metadata for path in output.glob("part-*.parquet"))
    workers = (json.loads(footer[b"edge-mnist"])["worker"] for footer in footers)
    return Counter(int(worker.rpartition(":")[2]) for worker in workers)


def run_and_kill(pictures: Path, output: Path, n_parts: int) -> int:
    """Run the command, kill the process that wrote the last part midway, and return which."""
    options = ["--engine", "ray", str(pictures), "--output", str(output), "--json"]
    command = [sys.executable, "-m", "edge_mnist", "predict", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while len(done := list(output.glob("part-*.parquet"))) < n_parts:
            time.sleep(0.05)
        newest = max(done, key=lambda path: path.stat().st_mtime_ns)
        footer = json.loads(pq.read_metadata(newest).metadata[b"edge-mnist"])
        worker = int(footer["worker"].rpartition(":")[2])
        os.kill(worker, signal.SIGKILL)
        print(f"killed worker {worker} after {len(done)} parts", file=sys.stderr)
        answer, _ = process.communicate()
    print(answer)
    return worker


def check_answers(output: Path, paths: list[str], sample: int) -> tuple[float, int]:
    """Return pictures/s of ``predict_many`` on a sample, and how many answers differ from its."""
    table: pa.Table = pq.read_table(output)
    found = Counter(table["path"].to_pylist())
    assert found == Counter(paths), "some picture is missing, or there twice"
    rows = {row["path"]: row for row in table.to_pylist()}
    with Predictor(provider="cpu") as predictor:
        start = time.perf_counter()
        predictions = list(predictor.predict_many(paths[:sample]))
        rate = len(predictions) / (time.perf_counter() - start)
    keys = ("status", "digit", "confidence", "reason", "error")
    differ = sum(
        any(rows[path][key] != getattr(prediction, key) for key in keys)
        for path, prediction in zip(paths, predictions, strict=False)
    )
    return rate, differ


def main() -> None:
    """Write the pictures, run, kill, check, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--pictures", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        pictures, output = Path(name) / "pictures", Path(name) / "answers"
        paths = write_pictures(pictures, args.pictures, args.data_dir)
        start = time.perf_counter()
        killed = run_and_kill(pictures, output, n_parts=args.pictures // 2048)
        job_s = time.perf_counter() - start
        rate, differ = check_answers(output, paths, SAMPLE)
        workers = read_workers(output)
    print(
        f"{len(paths):,} pictures, each exactly once, in {job_s:.1f} s: {len(paths) / job_s:,.0f}/s"
    )
    print(f"one process, a sample of {SAMPLE:,}: {rate:,.0f}/s; {differ} answers differ")
    print(f"parts by worker: {dict(workers)}, {killed} was killed")


if __name__ == "__main__":
    main()
