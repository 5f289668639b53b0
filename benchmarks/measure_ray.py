"""Measure ``predict --engine ray`` on many small PNG files, and kill a worker midway.

MNIST's test images, over and over, become files. They are read twice, the second time a worker
gets SIGKILL when half of the answers are there. Each time every picture must stand in the answers
exactly once, and a sample must get the answers that one process gives; that is timed before and
after.

    python benchmarks/measure_ray.py --data-dir FOLDER --pictures 100000
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from edge_mnist import Prediction, Predictor
from edge_mnist.training.datasets import load_dataset

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


def run_job(pictures: Path, output: Path, *, kill_after: int = 0) -> dict[str, Any]:
    """Run the command and return its report.

    Args:
        pictures: What to read.
        output: Where to write.
        kill_after: After so many parts, kill the process that wrote the last one; 0 for never.
    """
    options = ["--engine", "ray", str(pictures), "--output", str(output), "--json"]
    command = [sys.executable, "-m", "edge_mnist", "predict", *options]
    killed = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if kill_after:
            while len(done := list(output.glob("part-*.parquet"))) < kill_after:
                time.sleep(0.05)
            killed = read_worker(max(done, key=lambda path: path.stat().st_mtime_ns))
            os.kill(killed, signal.SIGKILL)
        answer, _ = process.communicate()
    report: dict[str, Any] = json.loads(answer)
    return report | {"killed": killed}


def read_worker(part: Path) -> int:
    """Return which process wrote a part, from what the part says of itself."""
    footer = json.loads(pq.read_metadata(part).metadata[b"edge-mnist"])
    return int(footer["worker"].rpartition(":")[2])


def predict_plainly(paths: list[str]) -> tuple[float, list[Prediction]]:
    """Return pictures/s of ``predict_many`` in this process, and what it says."""
    with Predictor(provider="cpu") as predictor:
        start = time.perf_counter()
        predictions = list(predictor.predict_many(paths))
        return len(predictions) / (time.perf_counter() - start), predictions


def count_differences(output: Path, paths: list[str], predictions: list[Prediction]) -> int:
    """Check that every path is in the answers once; return how many answers differ."""
    rows = pq.read_table(output).to_pylist()
    if Counter(row["path"] for row in rows) != Counter(paths):
        raise SystemExit("some picture is missing, or there twice")
    by_path = {row["path"]: row for row in rows}
    keys = ("status", "digit", "confidence", "reason", "error")
    return sum(
        any(by_path[path][key] != getattr(prediction, key) for key in keys)
        for path, prediction in zip(paths, predictions, strict=False)
    )


def main() -> None:
    """Write the pictures, run, run and kill, check, and print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--pictures", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        pictures, folder = Path(name) / "pictures", Path(name)
        paths = write_pictures(pictures, args.pictures, args.data_dir)
        for kill_after in (0, args.pictures // 2048):
            before, predictions = predict_plainly(paths[:SAMPLE])
            output = folder / f"answers-{kill_after}"
            report = run_job(pictures, output, kill_after=kill_after)
            after, _ = predict_plainly(paths[:SAMPLE])
            differ = count_differences(output, paths, predictions)
            rate, plain = len(paths) / report["job_s"], (before + after) / 2
            workers = Counter(map(read_worker, output.glob("part-*.parquet")))
            print(f"{len(paths):,} pictures, each exactly once: {report['statuses']}")
            print(f"  {report['job_s']:.1f} s, {rate:,.0f}/s; one process {plain:,.0f}/s")
            print(f"  ratio {rate / plain:.2f}; {differ} answers differ from that process's")
            print(f"  parts by worker {dict(workers)}, killed {report['killed']}")
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"the command itself took at most {peak_mb:.0f} MB")


if __name__ == "__main__":
    main()
