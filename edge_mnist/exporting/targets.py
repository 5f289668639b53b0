"""The export targets, in one table: a new one is a module that writes it, and a row here."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edge_mnist.errors import UsageError
from edge_mnist.files import check_folder
from edge_mnist.machine import require_package


class TargetResult(Protocol):
    """What exporting to a target returns: a frozen dataclass that can be shown."""

    @property
    def next_command(self) -> str:
        """A command that uses what was written."""
        ...

    def to_text(self) -> str:
        """Return what was written, for people."""
        ...


@dataclass(frozen=True)
class Target:
    """Something that a model can be exported to.

    Attributes:
        name: As ``--target`` takes it.
        writes: What it writes, for ``--help``.
        folder: Where to write by default.
        options: The options that it can honour, besides the source, the folder and ``overwrite``.
        export: Writes it: takes source, folder, ``overwrite`` and its options.
    """

    name: str
    writes: str
    folder: str
    options: frozenset[str]
    export: Callable[..., TargetResult]


def export_to(
    target: str,
    source: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str] | None,
    *,
    overwrite: bool = False,
    **options: Any,
) -> TargetResult:
    """Export to one of ``TARGETS``.

    Args:
        target: Its name.
        source: What to export; None for the target's default.
        folder: Where to write; None for the target's default.
        overwrite: Replace files that no export wrote.
        options: Further options; None means not given.

    Raises:
        UsageError: There is no such target, or it cannot honour an option.
        OutputError: The folder cannot be written.
    """
    found = next((one for one in TARGETS if target in (one.name, FORMER_NAMES.get(one.name))), None)
    if found is None:
        names = ", ".join(one.name for one in TARGETS)
        raise UsageError(f"no target named {target!r}; there are: {names}")
    given = {name: value for name, value in options.items() if value is not None}
    unknown = set(given) - found.options
    if unknown:
        option = min(unknown).replace("_", "-")
        raise UsageError(f"--{option} has no effect with --target {found.name}")
    place = Path(found.folder if folder is None else folder)
    check_folder(place)
    return found.export(source, place, overwrite=overwrite, **given)


def _export_onnx(
    source: str | None,
    folder: Path,
    *,
    max_accuracy_lost: float | None = None,
    quantize: bool = False,
    dataset: str | None = None,
    **options: Any,
) -> TargetResult:
    if max_accuracy_lost is not None and not quantize:
        raise UsageError("--max-accuracy-lost has no effect without --quantize")
    if not (source and source.endswith(".onnx")):  # PyTorch is not needed for somebody's ONNX file
        require_package("torch", "train")
    require_package("onnx", "onnx")
    from edge_mnist.exporting.convention import Statement
    from edge_mnist.exporting.onnx import export
    from edge_mnist.exporting.sources import Loading, parse_arguments
    from edge_mnist.training.datasets import load_dataset
    from edge_mnist.validation.validate import Limits

    data = None
    if dataset is not None:
        data_dir, offline = options.get("data_dir"), options.get("offline", False)
        data = load_dataset(dataset, data_dir=data_dir, offline=offline)
    if "network_args" in options:
        options["network_args"] = parse_arguments(options["network_args"])
    loading = Loading(**_take(options, Loading))
    stated = Statement(**_take(options, Statement))
    limits = Limits() if max_accuracy_lost is None else Limits(accuracy_lost=max_accuracy_lost)
    command = "edge-mnist export" + " --quantize" * quantize
    return export(
        source,
        data,
        folder=folder,
        quantize=quantize,
        limits=limits,
        command=command,
        loading=loading,
        convention=stated,
        **options,
    )


def _take(options: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Take the options that are fields of a dataclass out of all options."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: options.pop(name) for name in names & set(options)}


def _export_web(source: str | None, folder: Path, **options: Any) -> TargetResult:
    from edge_mnist.exporting.web import export_web

    return export_web(source, folder, **options)


def _export_triton(
    source: str | None, folder: Path, *, overwrite: bool, **options: Any
) -> TargetResult:
    """Write model files to a repository; what is no model file of ours is exported first."""
    import tempfile

    from edge_mnist.exporting.triton import export_triton, needs_export
    from edge_mnist.model_file import find_model, find_models

    if source and needs_export(source):
        with tempfile.TemporaryDirectory() as name:
            _export_onnx(source, Path(name), **options)
            result = export_triton(name, folder, overwrite=overwrite)
        models = [dataclasses.replace(model, source=source) for model in result.models]
        return dataclasses.replace(result, models=tuple(models))
    paths = find_models([source]) if source else [find_model(prefer_exports=True)]
    if options:
        option = min(options).replace("_", "-")
        raise UsageError(f"--{option} has no effect: {paths[0]} is exported already")
    return export_triton(paths, folder, overwrite=overwrite)


def _export_c(source: str | None, folder: Path, **options: Any) -> TargetResult:
    from edge_mnist.exporting.c import export_c

    return export_c(source, folder, **options)


_NETWORK_OPTIONS = {"weights", "network_args", "trust_pickle", "force"}
_NETWORK_OPTIONS |= {"layout", "input_scale", "mean", "std", "inverted"}
_CHECKPOINT_OPTIONS = frozenset(
    {"dataset", "quantize", "max_accuracy_lost", "data_dir", "offline", *_NETWORK_OPTIONS}
)
TARGETS = (
    Target("onnx", "model files", "exports", _CHECKPOINT_OPTIONS, _export_onnx),
    Target("web", "a page in one file", "web", frozenset({"offline", "runtime"}), _export_web),
    Target(
        "triton", "a repository for NVIDIA Triton", "triton", _CHECKPOINT_OPTIONS, _export_triton
    ),
    Target("c", "C99 for microcontrollers", "c", frozenset({"optimize"}), _export_c),
)
FORMER_NAMES = {"onnx": "files"}
