"""Measure ``predict --engine ray`` on this machine: its pace, and a worker that is killed.

    python benchmarks/measure_ray.py pace                     # 1,000 drawings, 1000 x 1000 pixels
    python benchmarks/measure_ray.py crash --data-dir FOLDER  # MNIST as 100,000 PNG files

``pace`` alternates between ``predict_many`` in this process and the command, and prints the
medians, Ray's start-up and shutdown apart. ``crash`` kills a worker with SIGKILL when half of the
parts are written; afterwards every picture must be in the output exactly once, and a sample of the
predictions must be those of one process.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from edge_mnist import Prediction, Predictor, load_dataset
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.machine import count_cores, processor_name

N_SAMPLE = 10_000
SIDE_PX = 1000
KEYS = ("status", "digit", "name", "confidence", "reason", "error")


def draw_pictures(folder: Path, n_pictures: int) -> list[str]:
    """Draw digits on sheets of SIDE_PX x SIDE_PX pixels; return the paths of PNG files."""
    generator = np.random.default_rng(0)
    paths = [str(folder / f"{number:06d}.png") for number in range(n_pictures)]
    for number, path in enumerate(paths):
        draw_digit(number % 10, generator, side_px=SIDE_PX).save(path)
    return paths


def write_images(folder: Path, n_pictures: int, data_dir: Path | None) -> list[str]:
    """Save MNIST's test images, over and over, as PNG files, a thousand to a folder."""
    images = load_dataset("mnist", data_dir=data_dir).test_images
    paths = []
    for number in range(n_pictures):
        below = folder / f"{number // 1000:04d}"
        below.mkdir(exist_ok=True)
        paths.append(str(below / f"{number:07d}.png"))
        Image.fromarray(images[number % len(images)]).save(paths[-1])
    return paths


def predict_in_process(paths: list[str]) -> tuple[float, list[Prediction]]:
    """Return the pictures per second of ``predict_many`` in this process, and the predictions."""
    with Predictor(provider="cpu") as predictor:
        start = time.perf_counter()
        predictions = list(predictor.predict_many(paths))
        return len(predictions) / (time.perf_counter() - start), predictions


def predict_on_ray(pictures: Path, output: Path, *, kill_after: int = 0) -> dict[str, Any]:
    """Run the command and return its report.

    Args:
        pictures: Folder of the pictures.
        output: Folder to write.
        kill_after: After so many parts, kill the worker that wrote the last one; 0 for never.
    """
    options = ["--engine", "ray", str(pictures), "--output", str(output), "--json"]
    command = [sys.executable, "-m", "edge_mnist", "predict", *options]
    killed = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if kill_after:
            while len(done := list(output.glob("part-*.parquet"))) < kill_after:
                time.sleep(0.02)
            killed = read_worker(max(done, key=lambda path: path.stat().st_mtime_ns))
            os.kill(killed, signal.SIGKILL)
        answer, _ = process.communicate()
    report: dict[str, Any] = json.loads(answer)
    return report | {"killed": killed}


def read_worker(part: Path) -> int:
    """Return the process that wrote a part, from the part's footer."""
    footer = json.loads(pq.read_metadata(part).metadata[b"edge-mnist"])
    return int(footer["worker"].rpartition(":")[2])


def count_differences(output: Path, paths: list[str], predictions: list[Prediction]) -> int:
    """Check that every path is in the output once; return how many predictions differ."""
    rows = pq.read_table(output).to_pylist()
    if Counter(row["path"] for row in rows) != Counter(paths):
        raise SystemExit("some picture is missing, or in the output twice")
    by_path = {row["path"]: row for row in rows}
    return sum(
        any(by_path[path][key] != getattr(prediction, key) for key in KEYS)
        for path, prediction in zip(paths, predictions, strict=False)
    )


def measure_pace(folder: Path, n_pictures: int, n_rounds: int) -> None:
    """Alternate between one process and Ray; print every round, and the medians."""
    pictures = folder / "pictures"
    pictures.mkdir()
    paths = draw_pictures(pictures, n_pictures)
    rounds = []
    for number in range(n_rounds):
        local, predictions = predict_in_process(paths)
        output = folder / f"output-{number}"
        report = predict_on_ray(pictures, output)
        differ = count_differences(output, paths, predictions)
        pace, startup_s, shutdown_s = (
            report[key] for key in ("pictures_per_s", "startup_s", "shutdown_s")
        )
        rounds.append((local, pace, pace / local, startup_s, shutdown_s))
        print(
            f"one process {local:,.1f} pictures/s, Ray {pace:,.1f}, ratio {pace / local:.2f}; "
            f"{startup_s:.1f} s to start, {shutdown_s:.1f} s to stop; {differ} differ",
            flush=True,
        )
    local, pace, ratio, startup_s, shutdown_s = map(statistics.median, zip(*rounds, strict=True))
    print(
        f"medians of {n_rounds} rounds of {n_pictures:,} pictures of {SIDE_PX} x {SIDE_PX} pixels: "
        f"one process {local:,.1f} pictures/s, Ray {pace:,.1f}, ratio of medians "
        f"{pace / local:.2f}, median of ratios {ratio:.2f}; {startup_s:.1f} s to start, "
        f"{shutdown_s:.1f} s to stop"
    )


def measure_crash(folder: Path, n_pictures: int, n_rounds: int, data_dir: Path | None) -> None:
    """Kill a worker midway and count what the output holds; print every round."""
    pictures = folder / "pictures"
    pictures.mkdir()
    paths = write_images(pictures, n_pictures, data_dir)
    for number in range(n_rounds):
        before, predictions = predict_in_process(paths[:N_SAMPLE])
        output = folder / f"output-{number}"
        report = predict_on_ray(pictures, output, kill_after=max(1, n_pictures // 2048))
        after, _ = predict_in_process(paths[:N_SAMPLE])
        differ = count_differences(output, paths, predictions)
        pace, local = report["pictures_per_s"], (before + after) / 2
        workers = Counter(map(read_worker, output.glob("part-*.parquet")))
        print(f"{len(paths):,} pictures, each exactly once: {report['statuses']}")
        print(f"  parts by worker {dict(workers)}, killed {report['killed']}")
        print(f"  {differ} of {len(predictions):,} predictions differ from those of one process")
        print(
            f"  {report['job_s']:.1f} s, of which {report['startup_s']:.1f} s to start and "
            f"{report['shutdown_s']:.1f} s to stop; between {pace:,.0f} pictures/s, "
            f"one process {local:,.0f}, ratio {pace / local:.2f}",
            flush=True,
        )


def main() -> None:
    """Write the pictures, measure, and print the figures and what they were measured on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("pace", "crash"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--pictures", type=int, help="default: 1,000 for pace, 100,000 for crash")
    parser.add_argument("--rounds", type=int, help="default: 5 for pace, 1 for crash")
    args = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "pyarrow", "onnxruntime"))
    print(
        f"{processor_name()}, {count_cores()} cores; Python {platform.python_version()}, {packages}"
    )
    with tempfile.TemporaryDirectory() as name:
        if args.what == "pace":
            measure_pace(Path(name), args.pictures or 1000, args.rounds or 5)
        else:
            measure_crash(Path(name), args.pictures or 100_000, args.rounds or 1, args.data_dir)


if __name__ == "__main__":
    main()
