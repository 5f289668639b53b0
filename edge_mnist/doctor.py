"""Diagnosis of the machine: what is installed, what really runs, and the command that fixes it."""

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import numpy as np

from edge_mnist.errors import EdgeMnistError, ProviderError, one_line
from edge_mnist.machine import count_cores, has_driver, is_offline, read_cpu_flags, read_cpu_quota
from edge_mnist.model_file import check_contract, find_model, read_model
from edge_mnist.picture import choose_reader
from edge_mnist.predictor import Predictor
from edge_mnist.session import read_threads

SCHEMA_VERSION = 1
PACKAGE = "edge-mnist"
EXTRAS = ("train", "serve", "ray")  # cpu and gpu are examined by running them
INT8_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
# What reads the value of each variable, and raises an error if it cannot be used.
VARIABLES: dict[str, Callable[[str], object]] = {
    "EDGE_MNIST_DATA": lambda value: os.listdir(value),
    "EDGE_MNIST_MODEL": lambda value: check_contract(read_model(find_model(value))),
    "EDGE_MNIST_OFFLINE": lambda _: is_offline(),
    "EDGE_MNIST_PROVIDER": lambda value: Predictor("default", value, threads=1).close(),
    "EDGE_MNIST_THREADS": lambda _: read_threads(None),
}
REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edge-mnist[{}]'"


@dataclass(frozen=True)
class Finding:
    """The result of one examination.

    Attributes:
        name: What was examined.
        ok: False if something is wrong.
        text: What was found, one line.
        fix: The one command that fixes it; None if nothing is wrong.
    """

    name: str
    ok: bool
    text: str
    fix: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All findings; ``ok`` if nothing is wrong."""

    findings: tuple[Finding, ...]
    ok: bool
    schema_version: int = SCHEMA_VERSION


def examine() -> Diagnosis:
    """Examine this machine; nothing is installed or changed."""
    findings = (
        examine_python(),
        examine_packages(),
        *(examine_extra(name) for name in EXTRAS),
        examine_reader(),
        examine_environment(),
        examine_onnxruntime(),
        examine_cpu_provider(),
        examine_cuda_provider(),
        examine_instructions(),
        examine_cores(),
    )
    return Diagnosis(findings, ok=all(finding.ok for finding in findings))


def examine_python() -> Finding:
    """Examine the interpreter."""
    text = f"{platform.python_version()} at {sys.executable}, {platform.platform()}"
    ok = sys.version_info >= (3, 11)
    return Finding("python", ok, text, None if ok else "install Python 3.11 or newer")


def examine_packages() -> Finding:
    """List the versions of what every command needs."""
    found = {name: find_version(name) for name in (PACKAGE, *list_requirements())}
    missing = not all(found.values())
    listed = ", ".join(f"{name} {number or 'missing'}" for name, number in found.items())
    return Finding("packages", not missing, listed, f"pip install {PACKAGE}" if missing else None)


def examine_extra(extra: str) -> Finding:
    """List the versions of what an extra adds; that some of it is missing is not wrong."""
    found = {name: find_version(name) for name in list_requirements(extra)}
    listed = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    missing = [name for name, number in found.items() if not number]
    if missing or not found:
        text = f"missing {', '.join(missing)}" if listed else "not installed"
        listed = f"{text}; pip install '{PACKAGE}[{extra}]' adds what is missing"
    return Finding(f"extra {extra}", True, listed)


def examine_reader() -> Finding:
    """Find what reads pictures; that it is not the compiled module is slower, but not wrong."""
    reader = choose_reader()
    slow = "" if reader == "compiled" else ": more than ten times as fast where a C compiler is"
    return Finding("picture reader", True, f"{reader}{slow}")


def examine_environment() -> Finding:
    """Check the values of the environment variables that the commands read."""
    given = {name: value for name in VARIABLES if (value := os.environ.get(name))}
    for name, value in given.items():
        try:
            VARIABLES[name](value)
        except (EdgeMnistError, OSError, ValueError) as error:
            text = str(error) if name in str(error) else f"{name}: {error}"
            return Finding("environment", False, text, f"unset {name}")
    listed = ", ".join(f"{name}={value}" for name, value in given.items())
    return Finding("environment", True, listed or "no variable of edge-mnist is set")


def examine_onnxruntime() -> Finding:
    """Find two onnxruntimes installed over each other, or none."""
    found = {name: find_version(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    listed = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    if not listed:
        return Finding("onnxruntime", False, "not installed", "pip install 'edge-mnist[cpu]'")
    if all(found.values()):
        text = f"{listed}: installed over each other, neither can be trusted"
        return Finding("onnxruntime", False, text, REINSTALL.format("gpu"))
    return Finding("onnxruntime", True, listed)


def examine_cpu_provider() -> Finding:
    """Open the shipped model on the CPU and run it."""
    try:
        with _run_shipped("cpu") as predictor:
            return Finding("cpu provider", True, f"runs {predictor.model.path}")
    except EdgeMnistError as error:
        return Finding("cpu provider", False, str(error), REINSTALL.format("cpu"))


def examine_cuda_provider() -> Finding:
    """Run the shipped model on CUDA; a failure is wrong only with onnxruntime-gpu and a driver."""
    try:
        with _run_shipped("cuda") as predictor:
            return Finding("cuda provider", True, f"runs {predictor.model.path}")
    except EdgeMnistError as error:
        is_installed = find_version("onnxruntime-gpu") is not None
        if is_installed and not has_driver():  # as [all] installs it; the CPU runs all the same
            text = "onnxruntime-gpu is installed, but this machine has no NVIDIA driver: CPU only"
            return Finding("cuda provider", True, text)
        fix = REINSTALL.format("gpu") if is_installed else None
        return Finding("cuda provider", not is_installed, str(error), fix)


def examine_instructions() -> Finding:
    """Examine the processor's instructions that decide how fast int8 is."""
    has = read_cpu_flags()
    flags = [name for name in INT8_FLAGS if name in has]
    fast = any("vnni" in name or name in ("amx_int8", "asimddp", "i8mm") for name in flags)
    verdict = "int8 is fast here" if fast else "int8 may be no faster than float32 here"
    return Finding("processor", True, f"{', '.join(flags) or 'none of these'}: {verdict}")


def examine_cores() -> Finding:
    """Count the cores this process may use, and those its container grants."""
    text = f"{count_cores()} usable"
    quota = read_cpu_quota()
    if quota is not None:
        text += f", container limit {quota:g}"
    return Finding("cores", True, text)


def list_requirements(extra: str | None = None) -> list[str]:
    """Return the packages that this one, or an extra of it, needs on every machine."""
    condition = f"extra == '{extra}'" if extra else ""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:  # a copy of the source that was never installed
        return []
    parts = [line.replace('"', "'").partition(";") for line in lines]
    return [re.split(r"[^\w.-]", name)[0] for name, _, when in parts if when.strip() == condition]


def _run_shipped(provider: str) -> Predictor:
    """Return the shipped model, opened on a provider and run once, whatever the environment says.

    Raises:
        EdgeMnistError: It does not run there.
    """
    predictor = Predictor("default", provider, threads=1)
    try:
        predictor.predict_images(np.zeros((1, 28, 28), np.uint8))
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ProviderError(f"{predictor.provider} does not run here: {one_line(error)}") from error
    return predictor


def find_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
