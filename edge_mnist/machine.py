"""What is known of the machine: processor, cores, driver, installed packages."""

import contextlib
import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from edge_mnist.errors import MissingPackageError, UsageError


def processor_name() -> str:
    """Return the processor's model name, or its architecture if the system does not report it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def count_cores() -> int:
    """Return how many cores this process may use; a container may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def read_cpu_flags() -> set[str]:
    """Return the processor's feature flags, as Linux names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    rows = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return set(rows[0].split(":", 1)[1].split()) if rows else set()


def read_cpu_quota() -> float | None:
    """Return how many cores a container grants (cgroup 2), or None if it does not limit them."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


@contextlib.contextmanager
def passive_waiting() -> Iterator[None]:
    """Let PyTorch's threads sleep while they wait for each other, if it is imported in here.

    OpenMP's threads spin otherwise: beside other busy programs each burns a core while the thread
    that it waits for has none. The settings are read when OpenMP is loaded. This is for commands:
    how an application's PyTorch waits is the application's choice, as is what it has set already.
    """
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    if any(name in os.environ for name in names):
        yield
        return
    settings = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # GNU's; LLVM's and Intel's
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            os.environ.pop(name, None)


def is_offline() -> bool:
    """Return whether EDGE_MNIST_OFFLINE forbids downloads.

    Raises:
        UsageError: Its value means neither yes nor no.
    """
    value = os.environ.get("EDGE_MNIST_OFFLINE", "")
    if value.lower() in ("", "0", "false", "no", "off"):
        return False
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    raise UsageError(f"EDGE_MNIST_OFFLINE: expected 1 or 0, got {value}")


def has_driver() -> bool:
    """Return whether NVIDIA's driver is installed; pip installs all else that CUDA needs."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def require_package(module: str, extra: str) -> None:
    """Check that an optional package is installed.

    Args:
        module: Its importable name.
        extra: The extra of edge-mnist that installs it.

    Raises:
        MissingPackageError: It is not installed; names the way to install it.
    """
    if importlib.util.find_spec(module) is None:
        raise MissingPackageError(f"this needs {module}; install 'edge-mnist[{extra}]'")
