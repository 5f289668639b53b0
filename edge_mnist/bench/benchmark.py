"""The benchmark: latency, throughput, cold start, memory and bytes; which file to take, and why."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edge_mnist.bench.subjects import Subject, Variant, open_model, open_other, open_torch
from edge_mnist.bench.timing import Latency, measure_latencies, time_in_turns
from edge_mnist.errors import ModelError
from edge_mnist.machine import processor_name
from edge_mnist.modelfile import FLOAT32_NAME, find_models

SCHEMA_VERSION = 1
BATCH_SIZES = (1, 8, 64, 256)
STARTS = 5  # cold starts of each variant
SAME_SPEED = 1.05  # less of a difference is noise on most machines
SAME_ACCURACY = 0.001

REPORT_MEMORY = """
import sys
try:
    lines = open("/proc/self/status").read().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
except OSError:
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024
    except ImportError:
        peak = 0
print(peak)
"""


@dataclass(frozen=True)
class Measured(Variant):
    """What was measured of one variant.

    Attributes:
        latency: Of one image.
        images_per_s: Throughput by batch size, the median of some runs.
        session_start_ms: Opening the file in a running process, median.
        process_start_ms: From nothing to the first answer in a new process, median.
        peak_memory_mb: Most memory that such a process had resident, in 1e6 bytes, median; 0 where
            the system does not tell.
    """

    latency: Latency
    images_per_s: dict[int, float]
    session_start_ms: float
    process_start_ms: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Recommendation:
    """The file to use on this machine, and a sentence for each of the others."""

    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class BenchReport:
    """One benchmark."""

    processor: str
    threads: int
    models: tuple[Measured, ...]
    recommendation: Recommendation | None
    schema_version: int = SCHEMA_VERSION


def run_benchmark(
    models: Sequence[Path] | None = None,
    *,
    against: Sequence[Path] = (),
    provider: str = "auto",
    threads: int = 1,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    with_torch: bool = True,
) -> BenchReport:
    """Measure model files side by side.

    Args:
        models: Files that keep the contract, or folders of them; None for those that ``predict``
            would use.
        against: Any other image classifiers.
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads within one operator, for onnxruntime and PyTorch.
        batch_sizes: For throughput.
        with_torch: Measure PyTorch on the same weights too, where torch and a checkpoint are.

    Raises:
        ModelError: A file is missing or cannot be opened.
        ProviderError: CUDA was asked for and does not really run.
        UsageError: A file of ``against`` is no image classifier.
    """
    subjects = open_subjects(models, against, provider, threads, with_torch)
    latencies = measure_latencies(
        {one.name: partial(one.run, one.fixed_batch or 1) for one in subjects}
    )
    throughputs = [measure_throughput(subjects, size) for size in batch_sizes]
    opened = time_in_turns(
        {one.name: one.open_anew for one in subjects}, rounds=STARTS, runs_per_round=1
    )
    cold = measure_cold_starts(subjects)
    measured = tuple(
        Measured(
            **one.about,
            latency=latencies[one.name],
            images_per_s={
                size: round(found[one.name])
                for size, found in zip(batch_sizes, throughputs, strict=True)
                if one.name in found
            },
            session_start_ms=round(float(np.median(opened[one.name])) * 1e3, 2),
            process_start_ms=round(cold[one.name][0] * 1e3, 1),
            peak_memory_mb=round(cold[one.name][1] / 1e6, 1),
        )
        for one in subjects
    )
    return BenchReport(processor_name(), threads, measured, recommend(measured))


def open_subjects(
    models: Sequence[Path] | None,
    against: Sequence[Path],
    provider: str,
    threads: int,
    with_torch: bool,
) -> list[Subject]:
    """Open everything that is to be measured; see ``run_benchmark``."""
    paths = find_models(models)
    names = _short_names([*paths, *against])
    subjects = [
        open_model(path, provider=provider, threads=threads, name=name)
        for path, name in zip(paths, names, strict=False)
    ]
    if with_torch:
        for path, name in zip(paths, names, strict=False):
            if path.name == FLOAT32_NAME:
                beside = open_torch(path, threads=threads, name=f"{name} in PyTorch")
                subjects += [beside] if beside else []
    return subjects + [
        open_other(path, provider=provider, threads=threads, name=name)
        for path, name in zip(against, names[len(paths) :], strict=True)
    ]


def measure_throughput(subjects: Sequence[Subject], batch_size: int) -> dict[str, float]:
    """Return images per second at a batch size, of those that take it."""
    runs = {one.name: partial(one.run, batch_size) for one in subjects if one.takes(batch_size)}
    spent_s = time_in_turns(runs, rounds=15, runs_per_round=max(1, 64 // batch_size))
    return {name: batch_size / float(np.median(runs)) for name, runs in spent_s.items()}


def measure_cold_starts(subjects: Sequence[Subject]) -> dict[str, tuple[float, float]]:
    """Return seconds to the first answer and peak resident bytes of a new process, medians."""
    peaks: dict[str, list[int]] = {one.name: [] for one in subjects}

    def start(one: Subject) -> None:
        code = one.cold_code + REPORT_MEMORY
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            raise ModelError(f"{one.path} fails in a new process: {done.stderr.strip()[-200:]}")
        peaks[one.name].append(int(done.stdout.split()[-1]))

    starts = {one.name: partial(start, one) for one in subjects}
    spent_s = time_in_turns(starts, rounds=STARTS, runs_per_round=1)
    return {
        name: (float(np.median(spent_s[name])), float(np.median(peaks[name]))) for name in starts
    }


def recommend(measured: Sequence[Measured]) -> Recommendation | None:
    """Choose among the files that keep the contract: the fastest of the accurate ones.

    Files whose accuracy is within 0.1 points of the best count as accurate; of two that are
    equally fast, the smaller one wins.
    """
    ours = [one for one in measured if one.quantization is not None]
    if not ours:
        return None
    best = max(one.accuracy or 0 for one in ours)
    accurate = [one for one in ours if (one.accuracy or 0) >= best - SAME_ACCURACY]
    fastest = min(one.latency.p50_us for one in accurate)
    fast = [one for one in accurate if one.latency.p50_us <= fastest * SAME_SPEED]
    choice = min(fast, key=lambda one: one.size_bytes)
    reasons = [_compare_with(choice, one) for one in ours if one is not choice]
    return Recommendation(choice.name, tuple(reasons + _list_slow_int8(ours)))


def _compare_with(choice: Measured, other: Measured) -> str:
    """Say why not the other one."""
    ratio = other.latency.p50_us / choice.latency.p50_us
    speed = f"{ratio:.2f} times its latency"
    size = f"{other.size_bytes / choice.size_bytes:.2f} times its bytes"
    text = f"{other.name}: {speed}, {size}"
    if other.accuracy is not None and choice.accuracy is not None:
        text += f", {(other.accuracy - choice.accuracy) * 100:+.2f} points of accuracy"
    return text


def _list_slow_int8(ours: Sequence[Measured]) -> list[str]:
    """Say which int8 files are slower here than the float32 files beside them."""
    float32 = {Path(one.path).parent: one for one in ours if one.quantization == "none"}
    beside = [(one, float32.get(Path(one.path).parent)) for one in ours]
    return [
        f"{one.name} is slower than {other.name} on this machine, "
        f"{one.latency.p50_us / other.latency.p50_us:.2f} times: not recommended for speed"
        for one, other in beside
        if other and one.latency.p50_us > SAME_SPEED * other.latency.p50_us
    ]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Name files by their last parts, as many as it takes to tell them apart."""
    for n_parts in (1, 2, 3):
        names = ["/".join(path.parts[-n_parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
