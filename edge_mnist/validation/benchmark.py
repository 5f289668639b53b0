"""The benchmark: latency, throughput, cold start, memory and bytes of models, side by side.

Measures our model files, any other image classifier's and PyTorch on the same weights, recommends a
file for this machine, and compares a report with an earlier one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError, UsageError, check_integer, one_line
from edge_mnist.machine import processor_name
from edge_mnist.model_file import (
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    check_contract,
    find_models,
    read_model,
)
from edge_mnist.session import open_session, provider_of, read_threads
from edge_mnist.validation.timing import Latency, is_slower, measure_latencies, time_in_turns
from edge_mnist.validation.validate import Limits, check_accuracy_lost

SIDE_PX = 28  # of an input whose height or width is free
NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


@dataclass(frozen=True)
class Variant:
    """What is known of something before it is measured.

    Attributes:
        name: Short, and different from the others' names.
        path: The file.
        runtime: ``onnxruntime`` or ``torch``.
        provider: The provider that really runs.
        size_bytes: Bytes of the file.
        accuracy: On its test set, from its metadata, a fraction; None if unknown.
        n_test_images: Images in that test set; None if unknown.
        quantization: ``none``, or how it was quantised; None if unknown.
    """

    name: str
    path: str
    runtime: str
    provider: str
    size_bytes: int
    accuracy: float | None
    quantization: str | None
    n_test_images: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class OpenVariant(Variant):
    """A variant that is open, ready to be measured.

    Attributes:
        run: Classifies a batch of that many images.
        open_anew: Opens the file once more; for timing.
        cold_code: Python code that opens the file and classifies one image, in a new process.
        fixed_batch: The only batch size it takes; None if any.
    """

    run: Callable[[int], object]
    open_anew: Callable[[], object]
    cold_code: str
    fixed_batch: int | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What is known of it, by name of the attribute of ``Variant``."""
        return {field.name: getattr(self, field.name) for field in fields(Variant)}

    def takes(self, batch_size: int) -> bool:
        """Return whether it can run a batch of this size."""
        return self.fixed_batch in (None, batch_size)


def open_model(path: Path, *, provider: str, threads: int, name: str) -> OpenVariant:
    """Open a model file that keeps the contract.

    Raises:
        ModelError: It is missing, broken or breaks the contract.
        ProviderError: CUDA was asked for and does not really run.
    """
    info = check_contract(read_model(path))
    accuracy, n_images = (info.metadata.get(key) for key in ("accuracy", "n_test_images"))
    return _open_onnx(
        path,
        provider=provider,
        threads=threads,
        name=name,
        accuracy=float(accuracy) if accuracy else None,
        quantization=info.quantization,
        n_test_images=int(n_images) if n_images else None,
    )


def open_other(path: Path, *, provider: str, threads: int, name: str) -> OpenVariant:
    """Open any image classifier; its input follows from the shape and type that it declares.

    Raises:
        ModelError: It cannot be opened.
        UsageError: It has more than one input, or one that is no image.
    """
    return _open_onnx(path, provider=provider, threads=threads, name=name)


def open_torch(path: Path, *, threads: int, name: str) -> OpenVariant | None:
    """Open the checkpoint beside a model file in PyTorch; None without torch or such weights."""
    from importlib.util import find_spec

    checkpoint_path = path.with_name(CHECKPOINT_NAME)
    if find_spec("torch") is None or not checkpoint_path.is_file():
        return None
    from edge_mnist.training.checkpoint import load_checkpoint, load_network
    from edge_mnist.training.networks import compute_logits, limited_threads

    checkpoint = load_checkpoint(checkpoint_path)
    weights = check_contract(read_model(path)).metadata.get("weights_sha256")
    if checkpoint.weights_sha256 != weights:
        return None
    network = load_network(checkpoint)
    images = draw_batch((0, SIDE_PX, SIDE_PX), np.uint8)

    def run(n: int) -> object:
        with limited_threads(threads):
            return compute_logits(network, images(n), batch_size=n)

    return OpenVariant(
        name=name,
        path=str(checkpoint_path),
        runtime="torch",
        provider="cpu",
        size_bytes=checkpoint_path.stat().st_size,
        accuracy=None,
        quantization=None,
        run=run,
        open_anew=lambda: load_network(load_checkpoint(checkpoint_path)),
        cold_code=TORCH_CODE.format(path=str(checkpoint_path), threads=threads),
    )


TORCH_CODE = """
import numpy
from pathlib import Path
from edge_mnist.training.checkpoint import load_checkpoint, load_network
from edge_mnist.training.networks import compute_logits, limited_threads
network = load_network(load_checkpoint(Path({path!r})))
with limited_threads({threads}):
    compute_logits(network, numpy.zeros((1, 28, 28), numpy.uint8))
"""

ONNX_CODE = """
import numpy
from edge_mnist.session import open_session
content = open({path!r}, "rb").read()
session = open_session(content, provider={provider!r}, threads={threads})
session.run(None, {{{input!r}: numpy.zeros({shape!r}, {dtype!r})}})
"""


def _open_onnx(
    path: Path,
    *,
    provider: str,
    threads: int,
    name: str,
    accuracy: float | None = None,
    quantization: str | None = None,
    n_test_images: int | None = None,
) -> OpenVariant:
    content = read_model(path).content
    session = open_session(content, provider=provider, threads=threads)
    inputs = session.get_inputs()
    # Old files list their weights among the inputs; those have values of their own.
    if len(inputs) != 1 or inputs[0].type not in NUMPY_TYPES:
        raise UsageError(f"{path} is no image classifier: expected one input of numbers")
    shape, dtype = _fill_shape(inputs[0].shape), NUMPY_TYPES[inputs[0].type]
    images = draw_batch(shape, dtype)
    ran = provider_of(session)
    example_shape = (shape[0] or 1, *shape[1:])

    def run(n: int) -> object:
        return session.run(None, {inputs[0].name: images(n)})

    try:
        run(example_shape[0])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ModelError(f"{path} does not run: {one_line(error)}") from error
    return OpenVariant(
        name=name,
        path=str(path),
        runtime="onnxruntime",
        provider=ran,
        size_bytes=len(content),
        accuracy=accuracy,
        quantization=quantization,
        n_test_images=n_test_images,
        run=run,
        open_anew=lambda: open_session(content, provider=ran, threads=threads),
        cold_code=ONNX_CODE.format(
            path=str(path), provider=ran, threads=threads, input=inputs[0].name,
            shape=example_shape, dtype=np.dtype(dtype).name,
        ),
        fixed_batch=shape[0] or None,
    )  # fmt: skip


def draw_batch(shape: tuple[int, ...], dtype: Any) -> Callable[[int], NDArray[Any]]:
    """Return a function that gives a batch of n images, the same ones each time.

    Args:
        shape: Of the input; its first number, the batch, is replaced by n.
        dtype: Of the input.
    """
    kept: dict[int, NDArray[Any]] = {}

    def give(n: int) -> NDArray[Any]:
        if n not in kept:
            levels = np.random.default_rng(0).integers(0, 128, (n, *shape[1:]))
            kept[n] = levels.astype(dtype)
        return kept[n]

    return give


def _fill_shape(shape: list[Any]) -> tuple[int, ...]:
    """Give free sides a size; a free batch becomes 0."""
    if len(shape) not in (2, 3, 4):
        raise UsageError(f"an input of shape {shape} is no batch of images")
    batch, *sides = (side if isinstance(side, int) else 0 for side in shape)
    return (batch, *(side or SIDE_PX for side in sides))


SCHEMA_VERSION = 1
BATCH_SIZES = (1, 8, 64, 256)
MAX_BATCH_SIZE = 10_000  # of the released networks, max takes 2.4 GB with that
STARTS = 5  # cold starts of each variant

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
            the system does not report it.
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


def bench(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    against: Sequence[str | os.PathLike[str]] = (),
    provider: str = "auto",
    threads: int | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    with_torch: bool = True,
) -> BenchReport:
    """Measure model files side by side.

    Args:
        models: Files that keep the contract, or folders of them; None for those that ``predict``
            would use.
        against: Any other image classifiers.
        provider: ``auto``, ``cpu`` or ``cuda``.
        threads: Threads within one operator, for onnxruntime and PyTorch; EDGE_MNIST_THREADS or 1
            if None.
        batch_sizes: For throughput, each 1 to ``MAX_BATCH_SIZE``.
        with_torch: Measure PyTorch on the same weights too, where torch and a checkpoint are.

    Raises:
        ModelError: A file is missing or cannot be opened.
        ProviderError: CUDA was asked for and does not really run.
        UsageError: A file of ``against`` is no image classifier, or a number is out of its range.
    """
    n_threads = read_threads(threads) or 1
    for size in batch_sizes:
        check_integer("batch_sizes", size, 1, MAX_BATCH_SIZE)
    variants = open_variants(models, [*map(Path, against)], provider, n_threads, with_torch)
    latencies = measure_latencies(
        {one.name: partial(one.run, one.fixed_batch or 1) for one in variants}
    )
    throughputs = [measure_throughput(variants, size) for size in batch_sizes]
    opened = time_in_turns(
        {one.name: one.open_anew for one in variants}, rounds=STARTS, runs_per_round=1
    )
    cold = measure_cold_starts(variants)
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
        for one in variants
    )
    return BenchReport(processor_name(), n_threads, measured, recommend(measured))


def open_variants(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    against: Sequence[Path],
    provider: str,
    threads: int,
    with_torch: bool,
) -> list[OpenVariant]:
    """Open everything that is to be measured; see ``bench``."""
    paths = find_models(models)
    names = _short_names([*paths, *against])
    variants = [
        open_model(path, provider=provider, threads=threads, name=name)
        for path, name in zip(paths, names, strict=False)
    ]
    if with_torch:
        for path, name in zip(paths, names, strict=False):
            if path.name == FLOAT32_NAME:
                beside = open_torch(path, threads=threads, name=f"{name} in PyTorch")
                variants += [beside] if beside else []
    return variants + [
        open_other(path, provider=provider, threads=threads, name=name)
        for path, name in zip(against, names[len(paths) :], strict=True)
    ]


def measure_throughput(variants: Sequence[OpenVariant], batch_size: int) -> dict[str, float]:
    """Return images per second at a batch size, of those that take it."""
    runs = {one.name: partial(one.run, batch_size) for one in variants if one.takes(batch_size)}
    spent_s = time_in_turns(runs, rounds=15, runs_per_round=max(1, 64 // batch_size))
    return {name: batch_size / float(np.median(runs)) for name, runs in spent_s.items()}


def measure_cold_starts(variants: Sequence[OpenVariant]) -> dict[str, tuple[float, float]]:
    """Return seconds to the first answer and peak resident bytes of a new process, medians."""
    peaks: dict[str, list[int]] = {one.name: [] for one in variants}

    def start(one: OpenVariant) -> None:
        code = one.cold_code + REPORT_MEMORY
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            raise ModelError(f"{one.path} fails in a new process: {done.stderr.strip()[-200:]}")
        peaks[one.name].append(int(done.stdout.split()[-1]))

    starts = {one.name: partial(start, one) for one in variants}
    spent_s = time_in_turns(starts, rounds=STARTS, runs_per_round=1)
    return {
        name: (float(np.median(spent_s[name])), float(np.median(peaks[name]))) for name in starts
    }


def recommend(measured: Sequence[Measured]) -> Recommendation | None:
    """Choose among the files that keep the contract: the fastest of the accurate ones.

    Files count as accurate that lose as little to the best as the gate lets int8 lose by default;
    of two of which neither is slower (``timing.is_slower``), the smaller one wins.
    """
    ours = [one for one in measured if one.quantization is not None]
    if not ours:
        return None
    best = max(one.accuracy or 0 for one in ours)
    accurate = [one for one in ours if _is_accurate(one, best)]
    fastest = min(accurate, key=lambda one: one.latency.p50_us)
    fast = [one for one in accurate if not is_slower(one.latency, fastest.latency)]
    choice = min(fast, key=lambda one: one.size_bytes)
    reasons = [_compare_with(choice, one) for one in ours if one is not choice]
    return Recommendation(choice.name, tuple(reasons + _list_slow_int8(ours)))


def _is_accurate(one: Measured, best: float) -> bool:
    lost = best - (one.accuracy or 0)
    if one.n_test_images is None:
        return lost <= Limits().accuracy_lost
    return check_accuracy_lost(lost, one.n_test_images, Limits()).passed


def _compare_with(choice: Measured, other: Measured) -> str:
    """Return the reason against the other one."""
    ratio = other.latency.p50_us / choice.latency.p50_us
    speed = f"{ratio:.2f} times its latency"
    size = f"{other.size_bytes / choice.size_bytes:.2f} times its bytes"
    text = f"{other.name}: {speed}, {size}"
    if other.accuracy is not None and choice.accuracy is not None:
        text += f", {(other.accuracy - choice.accuracy) * 100:+.2f} points of accuracy"
    return text


def _list_slow_int8(ours: Sequence[Measured]) -> list[str]:
    """List the int8 files that are slower here than the float32 files beside them."""
    float32 = {Path(one.path).parent: one for one in ours if one.quantization == "none"}
    beside = [(one, float32.get(Path(one.path).parent)) for one in ours]
    return [
        f"{one.name} is slower than {other.name} on this machine, "
        f"{one.latency.p50_us / other.latency.p50_us:.2f} times: not recommended for speed"
        for one, other in beside
        if other and is_slower(one.latency, other.latency)
    ]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Name files by their last parts, as many as it takes to tell them apart."""
    for n_parts in (1, 2, 3):
        names = ["/".join(path.parts[-n_parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


@dataclass(frozen=True)
class Regression:
    """A number that got worse than a base report allows; ``ratio`` above 1 is worse."""

    name: str
    measure: str
    base: float
    now: float
    ratio: float


def compare_reports(
    base: dict[str, Any], now: BenchReport, *, max_regression: float
) -> list[Regression]:
    """List what got worse than a base report by more than a share.

    Times are put in proportion to a model outside the contract that both reports measured, if
    there is one: its change is the change of the machine's speed.

    Args:
        base: A report as ``read_report`` returns it.
        now: The new one.
        max_regression: 0.1 lets a number get worse by 10 %.

    Raises:
        UsageError: The base shares no model with the new one.
    """
    old = {one["name"]: one for one in base["models"]}
    shared = [one for one in now.models if one.name in old]
    ours = [one for one in shared if one.quantization is not None]
    if not ours:
        raise UsageError("the base report has none of these models")
    others = [one for one in shared if one.quantization is None]
    baselines = [one for one in others if one.runtime != "torch"]
    slowdown = 1.0
    if baselines:
        slowdown = baselines[0].latency.p50_us / old[baselines[0].name]["latency"]["p50_us"]
    return [
        found
        for one in ours
        for found in _list_changes(old[one.name], one, slowdown)
        if found.ratio > 1 + max_regression
    ]


def _list_changes(old: dict[str, Any], new: Measured, slowdown: float) -> list[Regression]:
    pairs = [
        ("p50_us", old["latency"]["p50_us"] * slowdown, new.latency.p50_us),
        ("size_bytes", old["size_bytes"], new.size_bytes),
    ]
    changes = [Regression(new.name, name, was, is_, is_ / was) for name, was, is_ in pairs]
    for size, rate in new.images_per_s.items():
        was = old["images_per_s"].get(str(size))
        if was:
            expected = was / slowdown
            changes.append(
                Regression(new.name, f"images_per_s at {size}", expected, rate, expected / rate)
            )
    return changes


def read_report(path: Path) -> dict[str, Any]:
    """Read a report that ``bench --json`` printed.

    Raises:
        UsageError: It cannot be read, or is no report of this schema.
    """
    try:
        report: dict[str, Any] = json.loads(path.read_bytes())
        if report["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"expected schema_version {SCHEMA_VERSION}")
        for model in report["models"]:
            numbers = [model["latency"]["p50_us"], model["size_bytes"]]
            numbers += model["images_per_s"].values()
            if not all(number > 0 for number in numbers) or not isinstance(model["name"], str):
                raise ValueError("a figure of it is not positive")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is no report of bench --json ({one_line(error)})") from error
    return report


def to_json(report: BenchReport, regressions: Sequence[Regression] | None = None) -> dict[str, Any]:
    """Return a report, and what a comparison found, for JSON."""
    found = asdict(report)
    if regressions is not None:
        found["regressions"] = [asdict(one) for one in regressions]
    return found


def parse_share(text: str) -> float:
    """Read ``10%`` or ``0.1``.

    Raises:
        UsageError: It is neither, or negative.
    """
    try:
        share = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise UsageError(f"{text!r} is no share; write 10% or 0.1") from error
    if not share >= 0:
        raise UsageError(f"{text!r} is no share; write 10% or 0.1")
    return share
