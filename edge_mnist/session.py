"""onnxruntime sessions on a provider that really runs, or an error."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import (
    MissingPackageError,
    ModelError,
    ProviderError,
    UsageError,
    check_integer,
    one_line,
)
from edge_mnist.machine import has_driver

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
SILENT = 4  # onnxruntime's severity "fatal": its failures are raised as errors of this package
MAX_THREADS = 256  # a session with ten thousand is granted, and takes the machine down


def open_session(
    model: bytes, *, provider: str = "auto", threads: int | None = None
) -> "onnxruntime.InferenceSession":
    """Open a session on a model's bytes.

    Args:
        model: The content of an .onnx file.
        provider: ``cpu``, ``cuda``, or ``auto``: CUDA where it really runs, else the CPU.
        threads: Threads within one operator, 1 to ``MAX_THREADS``; EDGE_MNIST_THREADS or 1 if None.

    Raises:
        UsageError: There is no such provider, or the number of threads is out of its range.
        ProviderError: CUDA was asked for and does not really run.
        ModelError: onnxruntime cannot open the model.
        MissingPackageError: onnxruntime is not installed.
    """
    if provider not in ("auto", *PROVIDERS):
        raise UsageError(f"no provider named {provider!r}; there are: auto, cpu, cuda")
    n_threads = read_threads(threads) or 1
    if provider == "cpu":
        return _open_cpu(model, n_threads)
    try:
        return _open_cuda(model, n_threads)
    except ProviderError:
        if provider == "cuda":
            raise
        return _open_cpu(model, n_threads)


def provider_of(session: "onnxruntime.InferenceSession") -> str:
    """Return the short name, ``cpu`` or ``cuda``, of the provider that a session really runs on."""
    first: str = session.get_providers()[0]
    names = {long: short for short, long in PROVIDERS.items()}
    return names.get(first, first)


def run_session(
    session: "onnxruntime.InferenceSession",
    output: str,
    images: NDArray[np.uint8],
    provider: str,
) -> NDArray[np.float32]:
    """Run a model on one batch.

    On a GPU through an IO binding: the input goes straight to the device, and only the output
    asked for comes back. On a CPU that would cost more than it brings.

    Args:
        session: An open session on a file that keeps the contract.
        output: ``logits`` or ``probabilities``.
        images: Shape (N, 28, 28), uint8.
        provider: The one that the session runs on; see ``provider_of``.

    Returns:
        Shape (N, classes), float32.
    """
    if provider == "cpu":
        outputs: list[NDArray[np.float32]] = session.run([output], {"images": images})
        return outputs[0]
    return run_bound(session, output, images)


def run_bound(
    session: "onnxruntime.InferenceSession", output: str, images: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Run a model through an IO binding; see ``run_session``."""
    binding = session.io_binding()
    binding.bind_cpu_input("images", np.ascontiguousarray(images))
    binding.bind_output(output, "cpu")
    session.run_with_iobinding(binding)
    return cast("NDArray[np.float32]", binding.copy_outputs_to_cpu()[0])


def import_onnxruntime() -> Any:
    """Import onnxruntime, quiet and without telemetry.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        with _without_telemetry():
            import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            f"onnxruntime cannot be imported ({error}); install 'edge-mnist[cpu]' or "
            "'edge-mnist[gpu]'"
        ) from error
    onnxruntime.set_default_logger_severity(SILENT)
    return onnxruntime


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Set ORT_DISABLE_TELEMETRY while onnxruntime is imported, unless the application has set it.

    Its telemetry starts at the import and writes a device id and a database of events into the
    user's cache folder; ``disable_telemetry_events()`` afterwards is too late.
    """
    name = "ORT_DISABLE_TELEMETRY"
    if "onnxruntime" in sys.modules or name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]


def read_threads(threads: int | None) -> int | None:
    """Return the number of threads that was asked for; None takes EDGE_MNIST_THREADS.

    Raises:
        UsageError: It is no integer, or not within 1 to ``MAX_THREADS``.
    """
    if threads is not None:
        return check_integer("threads", threads, 1, MAX_THREADS)
    text = os.environ.get("EDGE_MNIST_THREADS")
    if not text:
        return None
    # At most as many characters as can be right: Python refuses to convert thousands of digits.
    value = int(text) if text.isdecimal() and len(text) <= len(str(MAX_THREADS)) else text
    return check_integer("EDGE_MNIST_THREADS", value, 1, MAX_THREADS)


def _options(threads: int) -> "onnxruntime.SessionOptions":
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = SILENT
    # Measured (docs/results.md): one thread is as fast as two, two that spin burn a whole core
    # between requests, and the arena gains nothing but keeps the memory of the largest batch.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open_cpu(model: bytes, threads: int) -> "onnxruntime.InferenceSession":
    return _create(model, _options(threads), [PROVIDERS["cpu"]])


def _open_cuda(model: bytes, threads: int) -> "onnxruntime.InferenceSession":
    onnxruntime = import_onnxruntime()
    name = PROVIDERS["cuda"]
    if name not in onnxruntime.get_available_providers():
        raise ProviderError(
            "CUDA does not run here: the installed onnxruntime has no CUDA provider; "
            "install 'edge-mnist[gpu]' instead of 'edge-mnist[cpu]'"
        )
    if not has_driver():  # trying would load 300 MB of libraries first
        raise ProviderError("CUDA does not run here: no NVIDIA driver on this machine")
    onnxruntime.preload_dlls()  # else the libraries that pip installed are not found
    options = _options(threads)
    # With this, a node that CUDA cannot run is an error and not a silent copy to the CPU.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # EXHAUSTIVE, the default, times every algorithm anew for each batch size.
    settings = {"cudnn_conv_algo_search": "HEURISTIC"}
    try:
        session = _create(model, options, [(name, settings)])
    except ModelError as error:
        raise ProviderError(f"CUDA does not run here: {error}") from error
    if session.get_providers()[0] != name:
        raise ProviderError("CUDA does not run here: onnxruntime fell back to the CPU")
    return session


def _create(
    model: bytes, options: "onnxruntime.SessionOptions", providers: list[Any]
) -> "onnxruntime.InferenceSession":
    onnxruntime = import_onnxruntime()
    try:
        # Without enable_fallback=0 a failed provider is replaced, and that printed on stdout.
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        reason = one_line(error, length=300)
        raise ModelError(f"onnxruntime cannot open the model: {reason}") from error
