"""What can be exported: this package's own checkpoints and other people's networks.

A checkpoint, a Python class with its weights, a pickled module, a program of torch.export,
TorchScript, or an ONNX file (``foreign``), each as a ``Network``. PyTorch is imported where it is
needed: an ONNX file needs none.
"""

import contextlib
import copy
import importlib
import importlib.util
import inspect
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_mnist.errors import EdgeMnistError, ModelError, UsageError, one_line
from edge_mnist.exporting import convention
from edge_mnist.exporting.convention import (
    MeasuredConvention,
    PixelConvention,
    Statement,
    measure_convention,
    run_batches,
    to_logits,
)
from edge_mnist.exporting.foreign import OnnxNetwork
from edge_mnist.exporting.graph import BODY_INPUT, BODY_OUTPUT, OPSET, quiet, to_body
from edge_mnist.machine import require_package
from edge_mnist.model_file import CHECKPOINT_NAME, locate
from edge_mnist.session import import_onnxruntime
from edge_mnist.training.datasets import Dataset, load_dataset, split_training
from edge_mnist.training.provenance import TrainingData, record_training_data
from edge_mnist.training.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn

    from edge_mnist.training.checkpoint import Checkpoint
    from edge_mnist.training.run import TrainingRun

WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DataParallel and torch.compile
STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".ts", ".jit", ".torchscript", ".pkl")
KERAS_SUFFIXES = (".h5", ".hdf5", ".keras", ".tflite", ".pb")
N_SHOWN_KEYS = 5
TRACED_BATCH = 5  # the exporter takes a batch of 1 for a fixed one
HELD_OUT_SHARE = 1 / 12  # of the training images, where no training has held out any


class Network(convention.Network, Protocol):
    """A network that can be exported.

    Attributes:
        kind: What it came as: ``checkpoint``, ``module``, ``torch.export``, ``TorchScript``,
            ``onnx``.
        path: The file that it came from, if any.
    """

    kind: str
    path: Path | None

    @property
    def weights_sha256(self) -> str:
        """Hash of its weights, or of its file, hexadecimal."""
        ...

    def to_body(self, example: NDArray[Any]) -> onnx.ModelProto:
        """Return its graph, as ``graph.attach_contract`` takes it, for any batch size.

        Args:
            example: Inputs, shape (N, ...), to trace it with and to compare the graph on.

        Raises:
            ModelError: It cannot be exported.
        """
        ...


@dataclass(frozen=True)
class Loading:
    """How a source is opened.

    Attributes:
        weights: A file with the weights of a class.
        network_args: Keyword arguments of that class.
        trust_pickle: Whether a pickled module may be opened, which can run any code.
    """

    weights: str | os.PathLike[str] | None = None
    network_args: Mapping[str, Any] | None = None
    trust_pickle: bool = False


class TorchNetwork:
    """A module of PyTorch, run in evaluation mode and left as it was; see ``Network``."""

    input_shape: tuple[int | None, ...] | None = None
    input_dtype: np.dtype[Any] = np.dtype(np.float32)
    batch_size: int | None = None

    def __init__(
        self, module: "nn.Module", name: str, *, kind: str = "module", path: Path | None = None
    ) -> None:
        """Take a module; of one in half precision or on a GPU a float32 copy on the CPU.

        Raises:
            ModelError: Its weights are sparse.
        """
        import torch

        for attribute in ("_orig_mod", "module"):  # of torch.compile and DataParallel
            wrapped = getattr(module, attribute, None)
            is_wrapper = attribute == "_orig_mod" or isinstance(
                module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel
            )
            if isinstance(wrapped, torch.nn.Module) and is_wrapper:
                module = wrapped
        tensors = [*module.parameters(), *module.buffers()]
        if any(one.layout != torch.strided for one in tensors):
            raise ModelError(
                f"the network {name} has sparse weights, which ONNX has no layers for; replace "
                "them by weights.to_dense()"
            )
        floats = [one for one in tensors if one.is_floating_point()]
        if any(one.dtype != torch.float32 or one.device.type != "cpu" for one in floats):
            module = copy.deepcopy(module).cpu().float()
        self.module, self.name, self.kind, self.path = module, name, kind, path

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over names and values of the weights, hexadecimal."""
        from edge_mnist.training.checkpoint import hash_weights

        tensors = {
            name: value
            for name, value in self.module.state_dict().items()
            if hasattr(value, "detach") and not value.is_quantized
        }
        return hash_weights(tensors)

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the module returns for a batch; see ``convention.Network``.

        Raises:
            ModelError: It fails, or returns anything but one array.
        """
        import torch

        from edge_mnist.training.networks import evaluation_mode

        try:
            with evaluation_mode(self.module), torch.inference_mode(), _output_to_stderr():
                outputs = self.module(torch.from_numpy(inputs))
        except Exception as error:  # a network may raise anything
            raise _fails_on(self.name, inputs, error) from error
        return _take_tensor(self.name, outputs)

    def compare_statistics(self, inputs: NDArray[Any]) -> float | None:
        """Compare with the input of the training; see ``convention.Network``."""
        from torch.nn.modules.batchnorm import _BatchNorm

        given: list[tuple[Any, Any]] = []  # the layer that is called first, and its input

        def note(layer: "nn.Module", arguments: tuple[Any, ...]) -> None:
            if not given:
                given.append((layer, arguments[0]))

        layers = [one for one in self.module.modules() if isinstance(one, _BatchNorm)]
        handles = [one.register_forward_pre_hook(note) for one in layers]
        try:
            if layers and self.batch_size is None:  # a fixed batch holds few images
                convention.run_batches(self, inputs)
        finally:
            for handle in handles:
                handle.remove()
        if not given or given[0][0].running_mean is None:
            return None
        layer, values = given[0]
        axes = [0, *range(2, values.ndim)]
        mean, std = values.mean(axes), (values.var(axes, correction=0) + layer.eps).sqrt()
        kept_std = (layer.running_var + layer.eps).sqrt()
        shift = (mean - layer.running_mean).abs() / kept_std
        return float((shift + (std / kept_std).log().abs()).mean())

    def to_body(self, example: NDArray[Any]) -> onnx.ModelProto:
        """Return its graph for any batch size; see ``Network``.

        Raises:
            ModelError: PyTorch's exporter fails, or what it returns computes something else.
        """
        import torch

        import_onnxruntime()  # before PyTorch's exporter does, which would start its telemetry
        from edge_mnist.training.networks import evaluation_mode

        dynamic = None if self.batch_size else ({0: torch.export.Dim("batch", min=1)},)
        batch_size = self.batch_size or TRACED_BATCH
        inputs = torch.from_numpy(np.resize(example, (batch_size, *example.shape[1:])))
        try:
            with evaluation_mode(self.module), quiet():
                model = _export(self.module, inputs, dynamic)
        except Exception as error:  # the exporter raises anything for a network it cannot trace
            raise _cannot_export(self.name, error) from error
        return to_body(model, self, example, traced=batch_size)


class ProgramNetwork:
    """A program of torch.export, in a .pt2 file; see ``Network``."""

    kind = "torch.export"
    input_dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, path: Path) -> None:
        """Read a file.

        Raises:
            ModelError: It cannot be read, or does not take one batch of images.
        """
        import torch

        self.name = path.name
        self.path: Path | None = path
        try:
            with quiet():
                self.program = torch.export.load(path)
                self.module = self.program.module()
        except Exception as error:  # a damaged archive raises anything
            reason = one_line(error)
            raise ModelError(f"{path} is not a readable torch.export file: {reason}") from error
        placeholders = {node.name: node for node in self.program.graph.nodes}
        names = self.program.graph_signature.user_inputs
        if len(names) != 1 or not isinstance(names[0], str):
            raise ModelError(f"the network {self.name} has {len(names)} inputs, expected one")
        value = placeholders[names[0]].meta["val"]
        self.input_dtype = np.dtype(str(value.dtype).removeprefix("torch."))
        sizes = [size if isinstance(size, int) else None for size in value.shape]
        self.batch_size: int | None = sizes[0]
        self.input_shape: tuple[int | None, ...] | None = tuple(sizes[1:])
        ranges = [one for one in self.program.range_constraints.values() if one.upper < 2**31]
        self._largest = min([int(one.upper) for one in ranges], default=1 << 31)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash over names and values of the weights, hexadecimal."""
        from edge_mnist.training.checkpoint import hash_weights

        return hash_weights(self.program.state_dict)

    def run(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the program returns for a batch; see ``convention.Network``.

        Raises:
            ModelError: It fails, or returns anything but one array.
        """
        import torch

        parts = []
        for start in range(0, len(inputs), self._largest):
            batch = inputs[start : start + self._largest]
            # Some programs were made for batches of 2 and more.
            is_single = len(batch) == 1 and self.batch_size is None
            full = np.concatenate([batch, batch]) if is_single else batch
            try:
                with torch.inference_mode(), quiet():
                    outputs = self.module(torch.from_numpy(full))
            except Exception as error:  # its guards raise anything
                raise _fails_on(self.name, full, error) from error
            rows = _take_tensor(self.name, outputs)
            parts.append(rows[:1] if is_single and len(rows) == 2 else rows)
        return np.concatenate(parts)

    def compare_statistics(self, inputs: NDArray[Any]) -> float | None:  # noqa: ARG002
        """Return None: the exported program has its batch normalisation no more as a layer."""
        return None

    def to_body(self, example: NDArray[Any]) -> onnx.ModelProto:
        """Return its graph for any batch size; see ``Network``.

        Raises:
            ModelError: PyTorch's exporter fails, or a fixed batch size cannot be lifted.
        """
        import_onnxruntime()
        try:
            with quiet():
                model = _export(self.program, None, None)
        except Exception as error:  # the exporter raises anything
            raise _cannot_export(self.name, error) from error
        return to_body(model, self, example)


class ScriptNetwork(TorchNetwork):
    """A module of TorchScript; see ``Network``."""

    def __init__(self, path: Path) -> None:
        """Read a file.

        Raises:
            ModelError: It cannot be read.
        """
        import torch

        try:
            with quiet():
                module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
                module = module.float()
        except Exception as error:  # a damaged archive raises anything
            raise ModelError(f"{path} is not readable TorchScript: {one_line(error)}") from error
        super().__init__(module, path.name, kind="TorchScript", path=path)

    def to_body(self, example: NDArray[Any]) -> onnx.ModelProto:
        """Return its graph for any batch size; see ``Network``.

        Raises:
            ModelError: PyTorch's exporter fails, or a fixed batch size cannot be lifted.
        """
        import io

        import torch

        from edge_mnist.training.networks import evaluation_mode

        import_onnxruntime()
        buffer = io.BytesIO()
        axes = {BODY_INPUT: {0: "batch"}, BODY_OUTPUT: {0: "batch"}}
        batch_size = self.batch_size or TRACED_BATCH
        inputs = torch.from_numpy(np.resize(example, (batch_size, *example.shape[1:])))
        try:
            with evaluation_mode(self.module), quiet():
                torch.onnx.export(  # the newer exporter does not take TorchScript
                    self.module,
                    (inputs,),
                    buffer,  # type: ignore[arg-type]
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[BODY_INPUT],
                    output_names=[BODY_OUTPUT],
                    dynamic_axes=None if self.batch_size else axes,
                )
        except Exception as error:  # the exporter raises anything
            raise _cannot_export(self.name, error) from error
        return to_body(onnx.load_from_string(buffer.getvalue()), self, example)


@dataclass(frozen=True, eq=False)
class Source:
    """A network to export, and what is known about it.

    Attributes:
        network: As its author wrote it; never changed.
        convention: The input that it expects.
        output: What it returns, one of ``convention.OUTPUTS``.
        dataset: Calibrates, quantises and validates.
        training_rows: Rows of the training images that the network learned from, for all we know.
        held_out_rows: The other rows.
        trained_on: What is recorded of the data set of the training: ``dataset`` for all we know.
        checkpoint: The checkpoint that it comes from, or None.
        measured: How the convention was found; None for a checkpoint.
    """

    network: Network
    convention: PixelConvention
    output: str
    dataset: Dataset
    training_rows: NDArray[np.int64]
    held_out_rows: NDArray[np.int64]
    trained_on: TrainingData
    checkpoint: "Checkpoint | None" = None
    measured: MeasuredConvention | None = None

    def compute_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the untouched network under its convention.

        Args:
            images: Shape (N, 28, 28), uint8.

        Returns:
            Logits before the temperature, shape (N, classes), float32.

        Raises:
            ModelError: The network fails, or returns numbers that are not finite.
        """
        network, rows = self.network, []
        for start in range(0, len(images), 1000):  # 60,000 of 3 x 32 x 32 take 0.7 GB
            inputs = self.convention.to_inputs(images[start : start + 1000], network.input_dtype)
            rows.append(run_batches(network, inputs, batch_size=1000))
        logits = to_logits(np.concatenate(rows), self.output)
        if not np.isfinite(logits).all():
            raise ModelError(f"the network {network.name} returns numbers that are not finite")
        return logits


def open_source(
    source: "nn.Module | TrainingRun | str | os.PathLike[str] | None",
    dataset: Dataset | None,
    stated: PixelConvention | Statement | None = None,
    *,
    force: bool = False,
    loading: Loading | None = None,
    data_dir: Path | None = None,
    offline: bool = False,
) -> Source:
    """Return the network to export with its data set; see ``onnx.export``.

    Raises:
        UsageError: A network comes without a data set, or a checkpoint with a convention.
        ModelError: The checkpoint cannot be used, or its classes are not the data set's.
    """
    if isinstance(source, str | os.PathLike) and is_foreign(source):
        network = open_network(source, loading or Loading())
        dataset = dataset or load_dataset("mnist", data_dir=data_dir, offline=offline)
        return _measure(network, dataset, stated, force=force)
    if loading is not None and loading != Loading():
        raise UsageError("weights, arguments and trust are for a network that comes as a file")
    require_package("torch", "train")
    from torch import nn

    if isinstance(source, nn.Module):
        if dataset is None:
            raise UsageError("a network is exported with a data set: export(network, dataset)")
        return _measure(TorchNetwork(source, type(source).__name__), dataset, stated, force=force)
    if force or stated not in (None, Statement()):
        raise UsageError(
            "a convention, and force, are for a network; a checkpoint of ours takes pixels in 0..1"
        )
    return _open_checkpoint(source, dataset, data_dir=data_dir, offline=offline)


def _open_checkpoint(
    source: "TrainingRun | str | os.PathLike[str] | None",
    dataset: Dataset | None,
    *,
    data_dir: Path | None,
    offline: bool,
) -> Source:
    """Return a checkpoint's network; see ``open_source``."""
    from edge_mnist.training.checkpoint import load_checkpoint, load_network
    from edge_mnist.training.run import TrainingRun, find_checkpoint

    path = None
    if isinstance(source, TrainingRun):
        checkpoint, dataset = source.checkpoint, dataset or source.dataset
        path = Path(source.result.folder) / CHECKPOINT_NAME if source.result.folder else None
    else:
        path = find_checkpoint(source)
        checkpoint = load_checkpoint(path)
    recipe, trained_on = checkpoint.recipe, checkpoint.trained_on
    dataset = dataset or load_dataset(recipe.dataset, data_dir=data_dir, offline=offline)
    if dataset.class_names != checkpoint.class_names:
        raise ModelError(
            f"the {len(checkpoint.class_names)} classes of the checkpoint are not the "
            f"{len(dataset.class_names)} of the data set {dataset.name}"
        )
    if trained_on.sha256 in ("", dataset.sha256):
        trained_on = record_training_data(dataset)
    return Source(
        TorchNetwork(load_network(checkpoint), recipe.network, kind="checkpoint", path=path),
        PixelConvention(),
        "logits",
        dataset,
        *split_training(dataset, recipe),
        trained_on,
        checkpoint,
    )


def _measure(
    network: Network,
    dataset: Dataset,
    stated: PixelConvention | Statement | None,
    *,
    force: bool,
) -> Source:
    """Return somebody else's network, its convention measured; see ``open_source``."""
    if not isinstance(stated, Statement):
        stated = Statement(convention=stated)
    labels, held_out = dataset.train_labels, dataset.held_out
    if held_out is None:
        is_published = dataset.validation_rows is None and not dataset.split_by_content
        # Those are split by scikit-learn, which is not there where PyTorch is not.
        if network.kind == "onnx" and is_published:
            held_out = _hold_out(labels, HELD_OUT_SHARE)
        else:
            _, held_out = split_training(dataset, Recipe(name=""))
    measured = measure_convention(
        network, dataset.train_images, labels, len(dataset.class_names), stated=stated, force=force
    )
    return Source(
        network,
        measured.convention,
        measured.output,
        dataset,
        np.setdiff1d(np.arange(len(labels)), held_out),
        held_out,
        record_training_data(dataset),
        measured=measured,
    )


def _hold_out(labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Choose rows of every class in proportion, the same every time; at least one of each class.

    Args:
        labels: True classes, shape (N,).
        share: Of the rows, 0..1.

    Returns:
        Row numbers, sorted.
    """
    generator = np.random.default_rng(0)
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(chosen))


def is_foreign(source: str | os.PathLike[str]) -> bool:
    """Return whether a source is somebody else's network: no run or checkpoint of this package."""
    path = locate(source)
    if path.is_dir() or path.suffix == ".safetensors":
        return False
    suffixes = (".py", ".onnx", ".pt2", *TORCH_SUFFIXES, *KERAS_SUFFIXES)
    return ":" in path.name or path.suffix in suffixes


def open_network(source: str | os.PathLike[str], loading: Loading = Loading()) -> Network:
    """Open somebody else's network.

    Args:
        source: ``net.py:Net`` or ``package.module:Net``, a class or a function that returns a
            module; or a file: .onnx, .pt2, TorchScript, a pickled module.
        loading: How.

    Raises:
        ModelError: It cannot be opened; the message names the way out.
        UsageError: The weights are missing, or have no use.
        MissingPackageError: PyTorch or onnx is not installed.
    """
    path, text = locate(source), os.fspath(source)
    target, colon, name = text.rpartition(":")
    is_class = bool(colon) and not path.exists()
    if path.suffix == ".py" and not is_class:
        require_package("torch", "train")
        names = ", ".join(f"{text}:{one}" for one in _list_modules(_import_source(text)))
        raise UsageError(f"name the class or function in {text}: {names or text + ':Net'}")
    if not is_class and (loading.weights or loading.network_args):
        raise UsageError(f"weights and arguments are for a class, such as net.py:Net, not {text}")
    if path.suffix in KERAS_SUFFIXES:
        raise ModelError(f"{text}: convert it to ONNX first, with tf2onnx or tflite2onnx")
    if not is_class and not path.is_file():
        raise ModelError(f"no file {text}")
    if path.suffix == ".onnx":
        return OnnxNetwork(path)
    require_package("torch", "train")
    if is_class:
        return _open_class(target, name, loading)
    if path.suffix == ".pt2":
        return ProgramNetwork(path)
    return _open_torch_file(path, loading)


def parse_arguments(text: str) -> dict[str, Any]:
    """Parse keyword arguments given as a JSON object.

    Raises:
        UsageError: It is none.
    """
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise UsageError(f"network arguments are no JSON ({error}): {text}") from error
    if not isinstance(arguments, dict):
        raise UsageError(f"expected network arguments as a JSON object, got {text}")
    return arguments


def _open_torch_file(path: Path, loading: Loading) -> Network:
    """Open TorchScript, a program or a pickled module; refuse weights without a network."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in parts:
            return ScriptNetwork(path)
        if any("serialized_exported_program" in one or "models/" in one for one in parts):
            return ProgramNetwork(path)
    loaded = read_torch_file(path, trust_pickle=loading.trust_pickle)
    if _is_module(loaded):
        return TorchNetwork(loaded, type(loaded).__name__, path=path)
    _refuse_optimizer(loaded, path)
    raise ModelError(
        f"{path} holds weights without their network; name its class: "
        f"edge-mnist export net.py:Net --weights {path}"
    )


def _open_class(target: str, name: str, loading: Loading) -> Network:
    """Import a class or function, call it, and load its weights."""
    module = _import_source(target)
    factory = getattr(module, name, None)
    found = _list_modules(module)
    if factory is None:
        known = f"; there are: {', '.join(found)}" if found else ", nor any other network"
        raise ModelError(f"{target} has no class or function {name}{known}")
    loaded = None
    if loading.weights:
        path = Path(loading.weights)
        loaded = read_weights_file(path, module, trust_pickle=loading.trust_pickle)
        if _is_module(loaded):
            return TorchNetwork(loaded, type(loaded).__name__, path=path)
    network = _build(factory, f"{target}:{name}", loading.network_args or {})
    if loaded is not None:
        load_weights(network, loaded, Path(loading.weights or ""), name)
    path = Path(loading.weights) if loading.weights else Path(target)
    return TorchNetwork(network, name, path=path if path.is_file() else None)


def read_weights_file(path: Path, module: ModuleType | None, *, trust_pickle: bool) -> Any:
    """Read a file of weights: a mapping of names to tensors, perhaps nested; or a trusted module.

    Args:
        path: A .safetensors file or one of ``torch.save``.
        module: Where the classes of a pickled module are defined.
        trust_pickle: Whether to unpickle a module.

    Raises:
        ModelError: It cannot be read, or is pickled and not trusted.
    """
    if not path.is_file():
        raise ModelError(f"no file {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {path}: {one_line(error)}") from error
    return read_torch_file(path, module, trust_pickle=trust_pickle)


def read_torch_file(
    path: Path, module: ModuleType | None = None, *, trust_pickle: bool = False
) -> Any:
    """Read a file of ``torch.save``: tensors only, or, if trusted, whatever was pickled.

    Raises:
        ModelError: It cannot be read, or is pickled and not trusted.
    """
    import torch

    try:
        with quiet():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch raises the same error for what it refuses and for what is no pickle at all.
        refused = "weights_only" in str(error) and "Weights only load failed" in str(error)
        if not refused or not _is_pickled(path):
            raise ModelError(
                f"{path} is not a readable file of PyTorch: {one_line(error)}"
            ) from error
    except Exception as error:  # a damaged archive raises anything
        raise ModelError(f"{path} is not a readable file of PyTorch: {one_line(error)}") from error
    if not trust_pickle:
        raise ModelError(
            f"{path} is a pickled object, and unpickling runs code from the file; where it was "
            f"made run: net = torch.load({path.name!r}, weights_only=False); "
            "torch.save(net.state_dict(), 'weights.pt'), then export net.py:Net --weights "
            "weights.pt; or add --trust-pickle"
        )
    try:
        with quiet():
            return torch.load(
                path, map_location="cpu", weights_only=False, pickle_module=_make_pickle(module)
            )
    except AttributeError as error:
        raise ModelError(
            f"{path} was saved by a script that defines its class, which is not found here "
            f"({one_line(error)}); name it: edge-mnist export net.py:Net --weights {path} "
            "--trust-pickle"
        ) from error
    except Exception as error:  # unpickling may raise anything
        raise ModelError(f"{path} cannot be unpickled: {one_line(error)}") from error


def load_weights(network: "nn.Module", loaded: Any, path: Path, name: str) -> None:
    """Load weights into a network: nested ones, and those of DataParallel or torch.compile.

    Args:
        network: Gets the weights.
        loaded: What the file held.
        path: That file.
        name: Of the network.

    Raises:
        ModelError: They do not fit; the message names the keys and shapes.
    """
    state = find_state(loaded, path)
    expected = network.state_dict()
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = [key for key in expected if key not in state and key not in optional]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        raise ModelError(
            f"the weights {path} do not fit {name}: missing {_show(missing)}; "
            f"unexpected {_show(unexpected)}{_suggest_prefix(list(state), list(expected))}"
        )
    wrong = [
        f"{key} is {_size(state[key])}, expected {_size(value)}"
        for key, value in expected.items()
        if key in state and _size(state[key]) != _size(value)
    ]
    if wrong:
        raise ModelError(f"the weights {path} do not fit {name} in shape: {_show(wrong)}")
    try:
        network.load_state_dict(state, strict=False)
    except Exception as error:  # a network's own hooks may raise anything
        raise ModelError(f"the weights {path} do not fit {name}: {one_line(error)}") from error


def find_state(loaded: Any, path: Path) -> dict[str, Any]:
    """Return the state_dict in what a file held, without the prefixes of wrappers.

    Raises:
        ModelError: There is none.
    """
    state = loaded
    for _ in range(3):  # a checkpoint in a checkpoint is as deep as it gets
        if _is_state(state):
            break
        _refuse_optimizer(state, path)
        if not isinstance(state, Mapping):
            raise ModelError(f"{path} holds {type(state).__name__}, expected a state_dict")
        inner = [state[key] for key in STATE_KEYS if _may_hold_state(state.get(key))]
        inner += [value for value in state.values() if _may_hold_state(value)]
        if not inner:
            keys = _show([str(key) for key in state])
            raise ModelError(f"{path} holds no state_dict; its keys: {keys}")
        state = inner[0]
    result = {str(key): value for key, value in state.items()}
    while any(result) and (
        prefix := next((one for one in WRAPPERS if all(k.startswith(one) for k in result)), "")
    ):
        result = {key.removeprefix(prefix): value for key, value in result.items()}
    return result


def _import_source(target: str) -> ModuleType:
    """Import ``net.py`` or ``package.module``; what it prints goes to stderr.

    Raises:
        ModelError: There is none, or it fails.
    """
    path = Path(target)
    try:
        with _output_to_stderr():
            if path.suffix != ".py":
                with _search_path(Path.cwd()):
                    return importlib.import_module(target)
            if not path.is_file():
                raise ModelError(f"no file {target}")
            name = f"edge_mnist_source_{path.stem}"  # a file may be named like a package
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # dataclasses and TorchScript look their module up
            with _search_path(path.resolve().parent):
                spec.loader.exec_module(module)
            return module
    except EdgeMnistError:
        raise
    except (Exception, SystemExit) as error:  # a script may raise anything, or parse arguments
        kind = type(error).__name__
        raise ModelError(f"{target} cannot be imported: {kind}: {one_line(error)}") from error


def _build(factory: Any, name: str, arguments: Mapping[str, Any]) -> "nn.Module":
    """Call a class or function.

    Raises:
        ModelError: It fails, or returns no module.
    """
    if _is_module(factory):
        return factory  # type: ignore[no-any-return]
    if not callable(factory):
        raise ModelError(f"{name} is {type(factory).__name__}, expected a class or a function")
    try:
        signature = inspect.signature(factory)
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{name}{signature} cannot be called: {error}; give arguments as JSON, "
            f"--network-args '{_suggest_arguments(signature)}'"
        ) from error
    except ValueError:  # a class without a signature that can be read
        pass
    try:
        with _output_to_stderr():
            network = factory(**arguments)
    except Exception as error:  # a constructor may raise anything
        kind = type(error).__name__
        raise ModelError(f"{name} cannot be built: {kind}: {one_line(error)}") from error
    if not _is_module(network):
        raise ModelError(f"{name} returns {type(network).__name__}, expected a torch.nn.Module")
    return network  # type: ignore[no-any-return]


def _suggest_arguments(signature: inspect.Signature) -> str:
    needed = [
        one.name
        for one in signature.parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    return "{" + ", ".join(f'"{name}": ...' for name in needed) + "}"


def _suggest_prefix(found: Sequence[str], expected: Sequence[str]) -> str:
    """Return the prefix that would make the keys fit, as the end of a message."""
    for removed, added in ((found, expected), (expected, found)):
        for key in removed:
            ends = (other for other in added if key != other and key.endswith(f".{other}"))
            prefix = next((key[: -len(other)] for other in ends), None)
            if prefix and {f"{prefix}{other}" for other in added} == set(removed):
                verb = "without" if removed is found else "with"
                return f"; they would fit {verb} the prefix {prefix!r}"
    return ""


def _list_modules(module: ModuleType) -> list[str]:
    """Return the names of the networks that a Python module defines."""
    import torch

    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, torch.nn.Module)
        and value.__module__ == module.__name__
    ]


def _make_pickle(module: ModuleType | None) -> ModuleType:
    """Return a pickle module that looks for the classes of a script in another Python module."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, where: str, name: str, /) -> Any:
            if module is not None and hasattr(module, name.partition(".")[0]):
                is_known = where != "__main__" and importlib.util.find_spec(where.split(".")[0])
                if not is_known or where == module.__name__:
                    return getattr(module, name)
            return super().find_class(where, name)

    made = ModuleType("edge_mnist_pickle")
    made.__dict__.update(vars(pickle) | {"Unpickler": Unpickler})

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    made.load = load  # type: ignore[attr-defined]
    return made


def _is_pickled(path: Path) -> bool:
    """Return whether a file is of torch.save, old or new, or a plain pickle."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _refuse_optimizer(loaded: Any, path: Path) -> None:
    if isinstance(loaded, Mapping) and "param_groups" in loaded:
        raise ModelError(
            f"{path} is the state of an optimiser, not of a network; save net.state_dict() instead"
        )


def _is_state(value: Any) -> bool:
    import torch

    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(one, torch.Tensor) for one in value.values())
    )


def _may_hold_state(value: Any) -> bool:
    if not isinstance(value, Mapping) or "param_groups" in value:
        return False
    return _is_state(value) or any(_is_state(one) for one in value.values())


def _is_module(value: Any) -> bool:
    import torch

    return isinstance(value, torch.nn.Module)


def _take_tensor(name: str, outputs: Any) -> NDArray[np.float32]:
    """Return the only tensor of what a network returned.

    Raises:
        NetworkOutputError: There are several, or none.
    """
    import torch

    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple) and len(outputs) == 1:
        outputs = outputs[0]
    if isinstance(outputs, list | tuple):
        raise convention.NetworkOutputError(
            f"the network {name} returns {len(outputs)} outputs, expected one with a number for "
            "each class; wrap it in a module that returns that one"
        )
    if not isinstance(outputs, torch.Tensor):
        raise convention.NetworkOutputError(
            f"the network {name} returns {type(outputs).__name__}, expected a tensor"
        )
    return np.asarray(outputs.detach().float().cpu().numpy(), np.float32)


def _export(network: Any, inputs: Any, dynamic: Any) -> onnx.ModelProto:
    """Run PyTorch's exporter."""
    import torch

    program = torch.onnx.export(
        network,
        () if inputs is None else (inputs,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[BODY_INPUT],
        output_names=[BODY_OUTPUT],
        dynamic_shapes=dynamic,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _fails_on(name: str, inputs: NDArray[Any], error: Exception) -> ModelError:
    shape = "x".join(map(str, inputs.shape))
    return ModelError(f"the network {name} does not run on {shape}: {one_line(error)}")


def _cannot_export(name: str, error: Exception) -> ModelError:
    root: BaseException = error
    while root.__cause__ is not None:  # PyTorch wraps the reason several times
        root = root.__cause__
    return ModelError(f"the network {name} cannot be exported: {one_line(root)}")


def _show(items: Sequence[str]) -> str:
    """Return the first few of some items, as a part of one line."""
    more = f" and {len(items) - N_SHOWN_KEYS} more" if len(items) > N_SHOWN_KEYS else ""
    return (", ".join(items[:N_SHOWN_KEYS]) or "none") + more


def _size(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


@contextlib.contextmanager
def _search_path(folder: Path) -> Iterator[None]:
    """Let imports find what lies in a folder, and only meanwhile."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Send what foreign code prints to stderr: stdout is for results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
