"""Other people's networks through ``export``: identified rightly, or refused for the right reason?

Every network is built from code and trained here for seconds under a preprocessing of its own. It
is handed over as its author would: a class with weights, TorchScript, ONNX of some opset. The
preprocessing stays here, and its predictions are the reference.

    python benchmarks/own_networks.py            # all, with MNIST; prints a table
    python benchmarks/own_networks.py lenet onnx # those whose names contain one of these words
"""

import argparse
import contextlib
import copy
import re
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from edge_mnist import (
    EdgeMnistError,
    GateError,
    Limits,
    Loading,
    PixelConvention,
    Predictor,
    Statement,
    export,
)
from edge_mnist.exporting.convention import SCALES
from edge_mnist.model_file import FLOAT32_NAME
from edge_mnist.training.datasets import Dataset, load_dataset

Images = NDArray[np.uint8]
Prepare = Callable[[Images], Tensor]


@dataclass
class Stranger:
    """A network as its author hands it over.

    Attributes:
        source: What ``export`` is given.
        predict: The author's own predictions for images (N, 28, 28), uint8.
        loading: Weights and arguments.
        stated: What is stated of the convention.
    """

    source: Any
    predict: Callable[[Images], NDArray[np.int64]] | None = None
    loading: Loading = field(default_factory=Loading)
    stated: Statement = field(default_factory=Statement)


@dataclass(frozen=True)
class Case:
    """A stranger and what is expected of it.

    Attributes:
        name: Of the row.
        make: Builds it in a folder, from a data set.
        layout: The layout that has to be found.
        scale: The name of the scale that has to be found, one of ``SCALES``.
        inverted: The polarity that has to be found.
        output: What it returns.
        refusal: Or what the refusal has to say, a regular expression.
        quantize: Whether an int8 file is written too.
    """

    name: str
    make: Callable[[Path, Dataset], Stranger]
    layout: str = "1x28x28"
    scale: str = "0..1"
    inverted: bool = False
    output: str = "logits"
    refusal: str | None = None
    quantize: bool = True


# Preprocessing, as authors write it.


def unit(images: Images) -> Tensor:
    return torch.from_numpy(images).float().unsqueeze(1) / 255


def mnist_scale(images: Images) -> Tensor:
    return (unit(images) - 0.1307) / 0.3081


def symmetric(images: Images) -> Tensor:
    return (unit(images) - 0.5) / 0.5


def raw(images: Images) -> Tensor:
    return torch.from_numpy(images).float().unsqueeze(1)


def inverted(images: Images) -> Tensor:
    return 1 - unit(images)


def inverted_symmetric(images: Images) -> Tensor:
    return -symmetric(images)


def flat(images: Images) -> Tensor:
    return unit(images).flatten(1)


def rows_of_pixels(images: Images) -> Tensor:
    return unit(images).squeeze(1)


def resized(images: Images) -> Tensor:
    large = [np.asarray(Image.fromarray(one).resize((32, 32), Image.BILINEAR)) for one in images]
    return unit(np.stack(large))


def padded(images: Images) -> Tensor:
    return mnist_scale(np.pad(images, ((0, 0), (2, 2), (2, 2))))


def zero_padded(images: Images) -> Tensor:
    return functional.pad(mnist_scale(images), (2, 2, 2, 2))


def three_channels(images: Images) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (unit(images).expand(-1, 3, -1, -1) - mean[:, None, None]) / std[:, None, None]


def channels_last(images: Images) -> Tensor:
    return unit(images).permute(0, 2, 3, 1).contiguous()


# Networks, as authors write them; this text is also written to net.py, which is what is exported.

NETWORKS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """The widely copied PyTorch example, with fewer channels."""

    def __init__(self, hidden=32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, 1)
        self.conv2 = nn.Conv2d(8, 16, 3, 2)
        self.dropout1 = nn.Dropout(0.25)
        self.fc1 = nn.Linear(576, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


class Wide(Net):
    """It needs an argument."""

    def __init__(self, hidden):
        super().__init__(hidden)


def make_net(hidden=32):
    return Net(hidden)


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c3 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.f5, self.f6, self.out = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.avg_pool2d(torch.tanh(self.c1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.c3(x)), 2)
        x = torch.tanh(self.f5(x.flatten(1)))
        return self.out(torch.tanh(self.f6(x)))


class FlatMLP(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


class MLP(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


class Homogeneous(nn.Sequential):
    """Without a bias: the scale of its pixels changes no answer."""

    def __init__(self):
        layers = nn.Linear(784, 64, bias=False), nn.ReLU(), nn.Linear(64, 10, bias=False)
        super().__init__(nn.Flatten(), *layers)


class Conv(nn.Sequential):
    def __init__(self, n_out=10, n_in=1):
        super().__init__(
            nn.Conv2d(n_in, 8, 5, stride=2), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(400, n_out),
        )


class Softmax(nn.Sequential):
    def __init__(self):
        super().__init__(*Conv(), nn.Softmax(dim=1))


class Sigmoids(nn.Sequential):
    def __init__(self):
        super().__init__(*Conv(), nn.Sigmoid())


class Pooled(nn.Sequential):
    """BatchNorm and global pooling: it takes images of any size."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )


class SelfNormalising(nn.Sequential):
    """InstanceNorm first: any linear scale of its pixels gives the same answer."""

    def __init__(self):
        super().__init__(nn.InstanceNorm2d(1), *Conv())


class ChannelsLast(nn.Module):
    """As Keras has it: NHWC in, probabilities out."""

    def __init__(self):
        super().__init__()
        self.conv = Conv()

    def forward(self, x):
        return self.conv(x.permute(0, 3, 1, 2)).softmax(dim=1)


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(28, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x):
        return self.out(self.gru(x)[0][:, -1])


class Transformer(nn.Module):
    """Patches of 7 x 7 and one layer of attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(1, 32, 7, stride=7)
        self.place = nn.Parameter(torch.randn(1, 17, 32) * 0.02)
        self.token = nn.Parameter(torch.randn(1, 1, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(32, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        return self.head(self.layers(x)[:, 0])


class AlwaysDropping(nn.Module):
    """A classic mistake: functional dropout that no .eval() reaches."""

    def __init__(self):
        super().__init__()
        self.conv = Conv()

    def forward(self, x):
        return self.conv(F.dropout(x, 0.5))


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = Conv()

    def forward(self, x):
        scores = self.conv(x)
        return scores, scores.softmax(dim=1)


class OneRow(nn.Module):
    """It averages its batch."""

    def __init__(self):
        super().__init__()
        self.conv = Conv()

    def forward(self, x):
        return self.conv(x).mean(dim=0)


class BySVD(nn.Module):
    """It computes what ONNX has no operator for."""

    def __init__(self):
        super().__init__()
        self.conv = Conv()

    def forward(self, x):
        return self.conv(x) * torch.linalg.svdvals(x.flatten(2))[:, :1]
'''
exec(compile(NETWORKS, "net.py", "exec"))
kinds: dict[str, Any] = globals()
_trained: dict[Any, nn.Module] = {}


def fit(
    name: str, prepare: Prepare, dataset: Dataset, *, n_images: int = 4000, epochs: int = 3
) -> nn.Module:
    """Train one of ``NETWORKS`` for seconds, once for each preprocessing."""
    key = (name, prepare.__name__, dataset.name)
    if key not in _trained:
        torch.manual_seed(0)
        _trained[key] = train_network(kinds[name](), prepare, dataset, n_images, epochs)
    return _trained[key]


def train_network(
    network: nn.Module, prepare: Prepare, dataset: Dataset, n_images: int, epochs: int
) -> nn.Module:
    """Train a network, which may return logits, log-probabilities or probabilities."""
    pixels, labels = prepare(dataset.train_images[:n_images]), dataset.train_labels[:n_images]
    targets = torch.from_numpy(labels)
    epochs = max(epochs, round(epochs * 4000 / len(targets)))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3 if pixels.max() > 100 else 3e-3)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(targets)).split(64):
            outputs = network(pixels[rows])
            if isinstance(network, kinds["Sigmoids"]):
                wanted = functional.one_hot(targets[rows], 10).float()
                loss = functional.binary_cross_entropy(outputs, wanted)
            elif isinstance(network, kinds["Softmax"] | kinds["ChannelsLast"]):
                loss = functional.nll_loss(outputs.clamp_min(1e-9).log(), targets[rows])
            else:
                loss = functional.cross_entropy(outputs, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def predict_with(network: nn.Module, prepare: Prepare) -> Callable[[Images], NDArray[np.int64]]:
    """Return the author's own predictions."""

    def predict(images: Images) -> NDArray[np.int64]:
        with torch.inference_mode():
            parts = [
                network(prepare(images[row : row + 500])) for row in range(0, len(images), 500)
            ]
        return torch.cat(parts).argmax(dim=1).numpy()

    return predict


def write_code(folder: Path) -> str:
    """Write the networks as a script; return its path."""
    path = folder / "net.py"
    path.write_text(NETWORKS)
    return str(path)


def as_class(
    name: str,
    prepare: Prepare,
    pack: Callable[[nn.Module], Any] = lambda network: network.state_dict(),
    suffix: str = ".pt",
    factory: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Callable[[Path, Dataset], Stranger]:
    """A class in a script, and its weights in a file."""

    def make(folder: Path, dataset: Dataset) -> Stranger:
        network = fit(name, prepare, dataset)
        weights = folder / f"weights{suffix}"
        if suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(network.state_dict(), weights)
        else:
            torch.save(pack(network), weights)
        source = f"{write_code(folder)}:{factory or name}"
        loading = Loading(weights=weights, network_args=arguments)
        return Stranger(source, predict_with(network, prepare), loading)

    return make


def as_module(name: str, prepare: Prepare) -> Callable[[Path, Dataset], Stranger]:
    """A module in memory."""

    def make(_folder: Path, dataset: Dataset) -> Stranger:
        network = fit(name, prepare, dataset)
        return Stranger(network, predict_with(network, prepare))

    return make


def as_script(
    name: str, prepare: Prepare, *, batch: int | None = None, training: bool = False
) -> Callable[[Path, Dataset], Stranger]:
    """TorchScript: scripted, or traced with a batch that it may be fixed to."""

    def make(folder: Path, dataset: Dataset) -> Stranger:
        network = fit(name, prepare, dataset)
        path = folder / "traced.pt"
        if batch is None:
            script = torch.jit.script(network)
        else:
            wrapped = FixedBatch(network, batch) if not training else network
            wrapped.train(training)
            script = torch.jit.trace(
                wrapped, prepare(dataset.test_images[:batch]), check_trace=False
            )
            network.eval()
        script.save(path)
        return Stranger(path, predict_with(network, prepare))

    return make


class FixedBatch(nn.Module):
    """Flattens its output to a fixed batch, as ``x.view(64, -1)`` does."""

    def __init__(self, network: nn.Module, batch: int) -> None:
        super().__init__()
        self.network, self.batch = network, batch

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels).view(self.batch, 10)


def as_program(
    name: str, prepare: Prepare, *, dynamic: bool, training: bool = False
) -> Callable[[Path, Dataset], Stranger]:
    """A .pt2 file of torch.export, of any batch or fixed to four."""

    def make(folder: Path, dataset: Dataset) -> Stranger:
        network = fit(name, prepare, dataset)
        path = folder / "network.pt2"
        shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
        network.train(training)
        program = torch.export.export(
            network, (prepare(dataset.test_images[:4]),), dynamic_shapes=shapes
        )
        network.eval()
        torch.export.save(program, path)
        return Stranger(path, predict_with(network, prepare))

    return make


def as_onnx(
    name: str, prepare: Prepare, *, opset: int = 18, batch: int | None = None
) -> Callable[[Path, Dataset], Stranger]:
    """An ONNX file by PyTorch's exporter."""

    def make(folder: Path, dataset: Dataset) -> Stranger:
        network = fit(name, prepare, dataset)
        path = folder / "network.onnx"
        pixels = prepare(dataset.test_images[: batch or 2])
        shapes = None if batch else ({0: torch.export.Dim("batch", min=1)},)
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=shapes,
            verbose=False,
        )
        program.save(path)
        return Stranger(path, predict_with(network, prepare))

    return make


def as_plain_onnx(
    opset: int, *, batch: int | None = None, dtype: int = TensorProto.FLOAT, old: bool = False
) -> Callable[[Path, Dataset], Stranger]:
    """An ONNX file written by hand, valid at any opset; ``old`` lists its weights as inputs."""

    def make(folder: Path, dataset: Dataset) -> Stranger:
        prepare = raw if dtype == TensorProto.UINT8 else unit
        network = fit("Conv", prepare, dataset)
        tensors = [
            numpy_helper.from_array(value.numpy(), key.replace(".", "_"))
            for key, value in network.state_dict().items()
        ]
        shape = np.array([batch or -1, 400], np.int64)
        tensors.append(numpy_helper.from_array(shape, "shape"))
        first = "x"
        nodes = []
        if dtype != TensorProto.FLOAT:
            nodes.append(helper.make_node("Cast", ["x"], ["float_x"], to=TensorProto.FLOAT))
            first = "float_x"
        nodes += [
            helper.make_node("Conv", [first, "0_weight", "0_bias"], ["a"], strides=[2, 2]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "2_weight", "2_bias"], ["c"], strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("Reshape", ["d", "shape"], ["e"]),
            helper.make_node("Gemm", ["e", "5_weight", "5_bias"], ["y"], transB=1),
        ]
        inputs = [helper.make_tensor_value_info("x", dtype, [batch or "N", 1, 28, 28])]
        if old:
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch or "N", 10])]
        graph = helper.make_graph(nodes, "network", inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 3 if old else min(10, helper.find_min_ir_version_for(model.opset_import))
        path = folder / f"opset{opset}.onnx"
        onnx.save(model, path)
        return Stranger(path, predict_with(network, prepare))

    return make


def as_int8_onnx(format_name: str) -> Callable[[Path, Dataset], Stranger]:
    """An ONNX file that its author quantised, with signed 8 bits; its own answers are expected."""

    def make(folder: Path, dataset: Dataset) -> Stranger:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        float32 = as_plain_onnx(13)(folder, dataset).source
        inputs = iter([{"x": unit(dataset.train_images[:300]).numpy()}])
        path = folder / "int8.onnx"
        quantize_static(
            float32,
            path,
            types.SimpleNamespace(get_next=lambda: next(inputs, None)),
            quant_format=QuantFormat[format_name],
            activation_type=QuantType.QInt8,
        )
        session = onnxruntime.InferenceSession(path)

        def predict(images: Images) -> NDArray[np.int64]:
            return session.run(None, {"x": unit(images).numpy()})[0].argmax(axis=1)

        return Stranger(path, predict)

    return make


def as_resnet(channels: int) -> Callable[[Path, Dataset], Stranger]:
    """ResNet-18 of torchvision with one channel, or with its own three."""

    def make(_folder: Path, dataset: Dataset) -> Stranger:
        from torchvision.models import resnet18

        torch.manual_seed(0)
        network = resnet18(num_classes=10)
        prepare = three_channels if channels == 3 else mnist_scale
        if channels == 1:
            network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        train_network(network, prepare, dataset, 3000, 2)
        return Stranger(network, predict_with(network, prepare))

    return make


def change(
    make: Callable[[Path, Dataset], Stranger], alter: Callable[[Path, Stranger], None]
) -> Callable[[Path, Dataset], Stranger]:
    """A stranger with one thing about it changed."""

    def make_changed(folder: Path, dataset: Dataset) -> Stranger:
        stranger = make(folder, dataset)
        alter(folder, stranger)
        return stranger

    return make_changed


def prefix(text: str) -> Callable[[nn.Module], Any]:
    return lambda network: {f"{text}{key}": value for key, value in network.state_dict().items()}


def nest(network: nn.Module) -> Any:
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return {"epoch": 3, "model": network.state_dict(), "optimizer": optimizer.state_dict()}


def pickle_whole(as_main: bool) -> Callable[[Path, Dataset], Stranger]:
    """A pickled module; of a class that its script calls ``__main__.Net`` if ``as_main``."""

    def make(folder: Path, dataset: Dataset) -> Stranger:
        network = fit("Net", mnist_scale, dataset)
        path = folder / "whole.pt"
        if not as_main:  # of PyTorch's own classes
            network = nn.Sequential(*fit("Conv", mnist_scale, dataset))
        with defined_in_main(type(network)) if as_main else contextlib.nullcontext():
            torch.save(network, path)
        if as_main:
            loading = Loading(weights=path, trust_pickle=True)
            source = f"{write_code(folder)}:Net"
            return Stranger(source, predict_with(network, mnist_scale), loading)
        loading = Loading(trust_pickle=True)
        return Stranger(path, predict_with(network, mnist_scale), loading)

    return make


@contextlib.contextmanager
def defined_in_main(kind: type) -> Iterator[None]:
    """Let a class be one of ``__main__``, as in a script that was run."""
    before, main = kind.__module__, sys.modules["__main__"]
    kind.__module__ = "__main__"
    former = getattr(main, kind.__name__, None)
    setattr(main, kind.__name__, kind)
    try:
        yield
    finally:
        kind.__module__ = before
        if former is None:
            delattr(main, kind.__name__)
        else:
            setattr(main, kind.__name__, former)


def distrust(_folder: Path, stranger: Stranger) -> None:
    stranger.loading = Loading()


def state(**what: Any) -> Callable[[Path, Stranger], None]:
    def alter(_folder: Path, stranger: Stranger) -> None:
        stranger.stated = Statement(**what)

    return alter


def rename_class(_folder: Path, stranger: Stranger) -> None:
    stranger.source = f"{stranger.source}work"


def untrained(_folder: Path, _dataset: Dataset) -> Stranger:
    torch.manual_seed(0)
    return Stranger(kinds["Net"]().eval())


def other_order(_folder: Path, dataset: Dataset) -> Stranger:
    network = fit("Conv", unit, dataset)

    class Reordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: Tensor) -> Tensor:
            return self.network(pixels)[:, [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]]

    return Stranger(Reordered())


def not_finite(_folder: Path, _dataset: Dataset) -> Stranger:
    torch.manual_seed(0)
    network = kinds["Conv"]()
    with torch.no_grad():
        network[0].weight[0] = float("nan")
    return Stranger(network)


def large(folder: Path, _dataset: Dataset) -> Stranger:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    path = folder / "large.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), dynamo=True, verbose=False).save(
        path
    )
    return Stranger(path)


def simple(name: str, **arguments: Any) -> Callable[[Path, Dataset], Stranger]:
    """A module in memory with random weights."""

    def make(_folder: Path, _dataset: Dataset) -> Stranger:
        torch.manual_seed(0)
        return Stranger(kinds[name](**arguments).eval())

    return make


def optimizer_file(folder: Path, _dataset: Dataset) -> Stranger:
    optimizer = torch.optim.Adam(kinds["Net"]().parameters())
    path = folder / "optimizer.pt"
    torch.save(optimizer.state_dict(), path)
    return Stranger(f"{write_code(folder)}:Net", loading=Loading(weights=path))


def multiply_by_svd(_folder: Path, stranger: Stranger) -> None:
    network = kinds["BySVD"]()
    network.conv = stranger.source
    stranger.source = network.eval()


def halve(_folder: Path, stranger: Stranger) -> None:
    stranger.source = copy.deepcopy(stranger.source).half()


LOG = "log-probabilities"
CASES = [
    Case("PyTorch example, state_dict", as_class("Net", mnist_scale), scale="mnist", output=LOG),
    Case(
        "DataParallel prefix",
        as_class("Net", mnist_scale, prefix("module.")),
        scale="mnist",
        output=LOG,
    ),
    Case(
        "compiled prefix",
        as_class("Net", mnist_scale, prefix("_orig_mod.")),
        scale="mnist",
        output=LOG,
    ),
    Case(
        "nested checkpoint", as_class("Net", mnist_scale, nest, ".pth"), scale="mnist", output=LOG
    ),
    Case(
        "safetensors",
        as_class("Net", mnist_scale, suffix=".safetensors"),
        scale="mnist",
        output=LOG,
    ),
    Case(
        "function with arguments",
        as_class("Net", mnist_scale, factory="make_net", arguments={"hidden": 32}),
        scale="mnist",
        output=LOG,
    ),
    Case("pickled, trusted", pickle_whole(False), scale="mnist"),
    Case("pickled __main__.Net, trusted", pickle_whole(True), scale="mnist", output=LOG),
    Case("module in memory, -1..1", as_module("Net", symmetric), scale="-1..1", output=LOG),
    Case("half precision", change(as_module("Conv", mnist_scale), halve), scale="mnist"),
    Case("LeNet-5, 32 x 32 resized", as_class("LeNet5", resized), "1x32x32-resized"),
    Case("LeNet-5, 32 x 32 padded", as_class("LeNet5", padded), "1x32x32-padded", "mnist"),
    Case(
        "LeNet-5, padded after scaling",
        change(as_class("LeNet5", zero_padded), state(layout="1x32x32-zero-padded")),
        "1x32x32-zero-padded",
        "mnist",
    ),
    Case("MLP on 784", as_class("FlatMLP", flat), "784"),
    Case("MLP that flattens, -1..1", as_class("MLP", symmetric), scale="-1..1"),
    Case("no bias: scale is free", as_module("Homogeneous", unit)),
    Case("InstanceNorm: scale is free", as_module("SelfNormalising", mnist_scale)),
    Case("0..255", as_class("Conv", raw), scale="0..255"),
    Case("inverted", as_class("Conv", inverted), inverted=True),
    Case("inverted, -1..1", as_class("Conv", inverted_symmetric), scale="-1..1", inverted=True),
    Case("probabilities out", as_class("Softmax", unit), output="probabilities"),
    Case("sigmoids out", as_class("Sigmoids", unit), output="independent probabilities"),
    Case("BatchNorm, global pooling", as_class("Pooled", mnist_scale), scale="mnist"),
    Case("GRU on rows", as_module("Rows", rows_of_pixels), "28x28"),
    Case("transformer", as_class("Transformer", mnist_scale), scale="mnist"),
    Case("ResNet-18, one channel", as_resnet(1), scale="mnist"),
    Case("ResNet-18, three channels", as_resnet(3), "3x28x28", "imagenet"),
    Case("TorchScript, scripted", as_script("Conv", mnist_scale), scale="mnist"),
    Case("TorchScript, traced, batch 1", as_script("Conv", mnist_scale, batch=1), scale="mnist"),
    Case("TorchScript, traced, batch 64", as_script("Conv", unit, batch=64)),
    Case(
        ".pt2, any batch", as_program("Net", mnist_scale, dynamic=True), scale="mnist", output=LOG
    ),
    Case(".pt2, batch 4", as_program("Net", mnist_scale, dynamic=False), scale="mnist", output=LOG),
    Case(
        "ONNX NHWC, probabilities",
        as_onnx("ChannelsLast", channels_last),
        "28x28x1",
        output="probabilities",
    ),
    Case(
        "ONNX NHWC, batch 1",
        as_onnx("ChannelsLast", channels_last, batch=1),
        "28x28x1",
        output="probabilities",
    ),
    Case("ONNX flat 784", as_onnx("FlatMLP", flat), "784"),
    Case("ONNX LeNet-5, 32 x 32", as_onnx("LeNet5", padded, batch=1), "1x32x32-padded", "mnist"),
    Case("ONNX opset 7, batch 1", as_plain_onnx(7, batch=1, old=True)),
    Case("ONNX opset 8, batch 1", as_plain_onnx(8, batch=1, old=True)),
    Case("ONNX opset 11", as_plain_onnx(11)),
    Case("ONNX opset 13, uint8", as_plain_onnx(13, dtype=TensorProto.UINT8), scale="0..255"),
    Case("ONNX opset 17, batch 100", as_plain_onnx(17, batch=100)),
    Case("ONNX opset 21", as_plain_onnx(21)),
    Case("ONNX int8, QLinear operators", as_int8_onnx("QOperator"), quantize=False),
    Case("ONNX int8, QDQ", as_int8_onnx("QDQ"), quantize=False),
    Case("ONNX int8, quantised twice", as_int8_onnx("QDQ"), refusal="quantised already"),
    Case(
        "pickled, not trusted",
        change(pickle_whole(False), distrust),
        refusal="unpickling runs code.*--trust-pickle",
    ),
    Case(
        "BatchNorm left training, .pt2",
        as_program("Pooled", mnist_scale, dynamic=False, training=True),
        refusal="BatchNorm was left in training",
    ),
    Case(
        "Dropout left training, TorchScript",
        as_script("Net", mnist_scale, batch=4, training=True),
        refusal="Dropout was left in training",
    ),
    Case("dropout that .eval() misses", simple("AlwaysDropping"), refusal="at random"),
    Case("untrained", untrained, refusal="no input convention stands out"),
    Case(
        "classes in another order", other_order, refusal="outputs stand for the classes 3, 1, 4, 0"
    ),
    Case("nine classes", simple("Conv", n_out=9), refusal="has 9 classes"),
    Case("two outputs", simple("TwoOutputs"), refusal="2 outputs"),
    Case("one row for a batch", simple("OneRow"), refusal=r"returns \(10,\) for 2 images"),
    Case("NaN among the weights", not_finite, refusal="not finite"),
    Case("optimiser's file", optimizer_file, refusal="state of an optimiser"),
    Case(
        "keys with another prefix",
        as_class("Net", mnist_scale, prefix("backbone.")),
        refusal="missing conv1.weight.*prefix 'backbone.'",
    ),
    Case(
        "weights of another shape",
        as_class("Net", mnist_scale, factory="Wide", arguments={"hidden": 48}),
        refusal="fc1.weight is 32x576, expected 48x576",
    ),
    Case(
        "class not found",
        change(as_class("Net", mnist_scale), rename_class),
        refusal="no class or function Network; there are: Net, Wide",
    ),
    Case(
        "constructor needs arguments",
        as_class("Net", mnist_scale, factory="Wide"),
        refusal="hidden.*--network-args",
    ),
    Case(
        "operator not in ONNX",
        change(as_module("Conv", unit), multiply_by_svd),
        refusal="cannot be exported: .*svd",
    ),
    Case(
        "a wrong statement",
        change(as_class("Net", mnist_scale), state(input_scale="-1..1", inverted=True)),
        refusal="contradicts",
    ),
    Case("224 x 224 in colour", large, refusal="takes 3x224x224: only images of 28 x 28"),
]


@dataclass(frozen=True)
class Row:
    """What became of a stranger.

    Attributes:
        name: Of the case.
        outcome: What was found, or why it was refused.
        is_right: Whether that is what was expected.
        own_accuracy: Of the author's own predictions on the test set.
        accuracy: Of the float32 file.
        identical: Share of the test set with the author's own labels.
        int8: Accuracy of the int8 file, or ``refused``.
        spent_s: Seconds that the export took.
    """

    name: str
    outcome: str
    is_right: bool
    own_accuracy: float | None = None
    accuracy: float | None = None
    identical: float | None = None
    int8: str = ""
    spent_s: float = 0.0

    def __str__(self) -> str:
        """Return a row of a Markdown table."""
        shares = (self.own_accuracy, self.accuracy, self.identical)
        cells = [f"{share:.2%}" if share is not None else "" for share in shares]
        verdict = "" if self.is_right else "**wrong:** "
        columns = [self.name, verdict + self.outcome, *cells, self.int8, f"{self.spent_s:.0f}"]
        return f"| {' | '.join(columns)} |"


def expected_convention(case: Case) -> PixelConvention:
    """Return the convention that has to be found."""
    (scale,) = (one for one in SCALES if one.name == case.scale)
    mean, std = (one[0] if len(one) == 1 else one for one in (scale.means, scale.stds))
    return PixelConvention(scale.scale, mean, std, case.layout, case.inverted)


def run(case: Case, dataset: Dataset, folder: Path, *, limits: Limits | None = None) -> Row:
    """Export a stranger and compare what was written with what its author would answer."""
    stranger = case.make(folder, dataset)
    target, start = folder / "exported", time.perf_counter()

    def write(*, quantize: bool) -> Any:
        return export(
            stranger.source,
            dataset,
            folder=target,
            quantize=quantize,
            convention=stranger.stated,
            loading=stranger.loading,
            limits=limits,
        )

    try:
        try:
            result = write(quantize=case.quantize)
        except GateError as error:
            if "int8" not in str(error):
                raise
            result = write(quantize=False)
    except EdgeMnistError as error:
        reason = str(error)
        found = case.refusal is not None and re.search(case.refusal, reason) is not None
        is_right = found and len(reason.splitlines()) == 1 and not list(target.glob("*"))
        return Row(case.name, f"refused: {reason}", is_right, spent_s=time.perf_counter() - start)
    spent_s = time.perf_counter() - start
    measured = result.convention
    assert stranger.predict is not None
    own = stranger.predict(dataset.test_images)
    labels, _ = Predictor(target / FLOAT32_NAME).predict_images(dataset.test_images)
    identical = float((labels == own).mean())
    own_accuracy = float((own == dataset.test_labels).mean())
    is_right = case.refusal is None and measured.output == case.output
    is_right &= measured.convention == expected_convention(case) or bool(measured.equivalent)
    is_right &= identical >= 0.9999 and result.models[0].accuracy >= 0.97 * own_accuracy
    int8 = f"{result.models[1].accuracy:.2%}" if len(result.models) > 1 else "refused"
    return Row(
        case.name,
        f"{measured.convention}; {measured.output}",
        is_right,
        own_accuracy,
        result.models[0].accuracy,
        identical,
        int8,
        spent_s,
    )


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="run only cases whose name contains one of these")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    dataset = load_dataset(options.dataset, data_dir=options.data_dir)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| network | outcome | own accuracy | float32 file | identical labels | int8 | s |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for case in CASES:
        words = [word.lower() for word in options.words]
        if not words or any(word in case.name.lower() for word in words):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(run(case, dataset, Path(folder)))
            print(rows[-1], flush=True)
    wrong = sum(not row.is_right for row in rows)
    print(f"\n{len(rows)} networks, {wrong} wrong", file=sys.stderr)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
