"""Other people's networks, as ``benchmarks/own_networks.py`` builds them, on the small data set."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import LIMITS, Command
from PIL import Image

from edge_mnist import (
    ConventionError,
    Dataset,
    PixelConvention,
    Predictor,
    Statement,
    validate,
)
from edge_mnist.exporting import convention
from edge_mnist.exporting.onnx import open_source

ROOT = Path(__file__).parents[1]
EXPORTED = (
    "nested checkpoint",
    "TorchScript, traced, batch 1",
    "ONNX NHWC, batch 1",
    "ONNX opset 8, batch 1",
    "ONNX int8, QLinear operators",
)
MEASURED = (
    "DataParallel prefix",
    "compiled prefix",
    "safetensors",
    "function with arguments",
    "pickled, trusted",
    "pickled __main__.Net, trusted",
    "module in memory, -1..1",
    "MLP on 784",
    "LeNet-5, 32 x 32 resized",
    ".pt2, batch 4",
    "0..255",
    "inverted",
    "probabilities out",
    "ONNX opset 13, uint8",
)


def load_script() -> ModuleType:
    path = ROOT / "benchmarks" / "own_networks.py"
    spec = importlib.util.spec_from_file_location("own_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_networks"] = module
    spec.loader.exec_module(module)
    return module


strangers = load_script()
CASES = {case.name: case for case in strangers.CASES}


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its older formats
@pytest.mark.parametrize("name", EXPORTED)
def test_a_network_is_exported_as_its_author_runs_it(
    name: str, digits: Dataset, tmp_path: Path
) -> None:
    row = strangers.run(CASES[name], digits, tmp_path, limits=LIMITS)
    assert row.is_right, row
    report = validate(tmp_path / "exported", digits, limits=LIMITS)
    assert report.passed
    assert "own logits on the test set" in report.models[0].reference


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MEASURED)
def test_the_convention_is_measured(name: str, digits: Dataset, tmp_path: Path) -> None:
    case = CASES[name]
    stranger = case.make(tmp_path, digits)
    found = open_source(stranger.source, digits, stranger.stated, loading=stranger.loading)
    assert found.convention == strangers.expected_convention(case)
    assert found.output == case.output


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [case.name for case in CASES.values() if case.refusal])
def test_what_cannot_be_exported_is_one_plain_line(
    name: str, digits: Dataset, tmp_path: Path
) -> None:
    row = strangers.run(CASES[name], digits, tmp_path, limits=LIMITS)
    assert row.is_right, row


def test_resizing_is_pillows() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    resized = [
        np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BILINEAR))
        for one in images
    ]
    assert (convention.resize(images.astype(np.float32)) == np.stack(resized)).all()


def test_a_statement_is_compared_with_the_measurement(digits: Dataset) -> None:
    network = strangers.fit("Net", strangers.mnist_scale, digits)
    for stated in (Statement(inverted=True), PixelConvention(inverted=True)):
        with pytest.raises(ConventionError, match="contradicts") as caught:
            open_source(network, digits, stated)
        assert caught.value.exit_code == 1
        assert "black on white" in caught.value.table
        source = open_source(network, digits, stated, force=True)
        assert source.convention.inverted
    stated = Statement(mean=0.1307, std=0.3081)
    source = open_source(network, digits, stated)
    assert source.measured is not None
    assert source.measured.stated


def test_batch_normalisation_tells_the_input_of_the_training(digits: Dataset) -> None:
    """Also where the network answers better under another convention, as after a hasty training."""
    torch.manual_seed(0)
    layer = torch.nn.BatchNorm2d(1)
    network = torch.nn.Sequential(layer, *strangers.Conv())
    strangers.train_network(network, strangers.mnist_scale, digits, 1000, 4)
    scaled = layer.weight.data / 0.3081
    with torch.no_grad():  # pixels 0..1 now give what MNIST's scale gave
        layer.bias += (scaled - layer.weight) * layer.running_mean / layer.running_var.sqrt()
        layer.bias -= scaled * 0.1307 / layer.running_var.sqrt()
        layer.weight.copy_(scaled)
    measured = open_source(network, digits).measured
    assert measured is not None
    assert measured.by_statistics
    assert "MNIST's mean" in str(measured.convention)
    with torch.no_grad():  # the same answers with the statistics of other images
        layer.running_mean -= 20
        layer.bias -= scaled * 20 / layer.running_var.sqrt()
    measured = open_source(network, digits).measured
    assert measured is not None
    assert not measured.by_statistics
    assert "0..1" in str(measured.convention)


def test_the_nearest_scale_comes_before_the_most_accurate() -> None:
    """A ResNet-18 of a hasty training: 1.5 points better under a scale half as far again."""
    labels = np.arange(2000) % 10
    scales = {one.name: one for one in convention.SCALES}
    trials = []
    for name, distance, n_wrong in (
        ("imagenet", 0.091, 190),
        ("imagenet-gray", 0.1, 190),
        ("imagenet-red", 0.136, 160),
    ):
        scale = scales[name]
        pixels = PixelConvention(scale.scale, scale.means, scale.stds, "3x28x28")
        logits = 5 * np.eye(10, dtype=np.float32)[(labels + (np.arange(2000) < n_wrong)) % 10]
        trials.append(convention.Trial(pixels, "logits", logits, labels, distance))
    assert convention.choose(trials).convention.means == scales["imagenet"].means


def test_an_onnx_file_needs_no_torch(digits: Dataset, tmp_path: Path) -> None:
    """Measured, quantised and written by a process in which PyTorch cannot be imported."""
    stranger = CASES["ONNX opset 11"].make(tmp_path, digits)
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from edge_mnist import Limits, export, load_dataset\n"
        "result = export(sys.argv[1], load_dataset('digits'), folder='mine', quantize=True,\n"
        "                limits=Limits(accuracy_lost=0.02))\n"
        "print(result.to_text())\n"
    )
    command = [sys.executable, "-c", code, str(stranger.source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1x28x28, pixels 0..1, white on black" in done.stdout
    labels, _ = Predictor(tmp_path / "mine").predict_images(digits.test_images)
    assert (labels == stranger.predict(digits.test_images)).all()


def test_the_command_says_what_it_measured(
    edge_mnist: Command, digits: Dataset, tmp_path: Path
) -> None:
    stranger = CASES["PyTorch example, state_dict"].make(tmp_path, digits)
    options = ("--weights", stranger.loading.weights, "--dataset", "digits")
    done = edge_mnist("export", "net.py:Net", *options, "--input-scale", "-1..1", "--invert")
    assert done.returncode == 1
    assert "contradicts what is stated" in done.stderr
    assert "accuracy  images" in done.stderr
    done = edge_mnist("export", "net.py:Net", *options, "-o", "mine")
    assert done.returncode == 0, done.stderr
    assert "MNIST's mean 0.1307 and std 0.3081" in done.stdout
    assert "runner-up" in done.stdout
    assert edge_mnist("validate", "mine", "--self-test").returncode == 0
    done = edge_mnist("export", "net.py:Net", "--weights", "missing.pt")
    assert (done.returncode, done.stderr) == (3, "edge-mnist: no file missing.pt\n")


def test_the_page_goes_from_a_script_to_a_prediction(
    edge_mnist: Command, digits: Dataset, drawings: list[Path], tmp_path: Path
) -> None:
    """The script and the commands of docs/own-network.md, all but the server's."""
    page = (ROOT / "docs" / "own-network.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "net.py").write_text(code)
    names: dict[str, type[torch.nn.Module]] = {}
    exec(compile(code, "net.py", "exec"), names)
    torch.manual_seed(0)
    network = strangers.train_network(names["Net"](), strangers.mnist_scale, digits, 1400, 3)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "seven.png").write_bytes(drawings[7].read_bytes())
    lines = [line for line in page.splitlines() if line.startswith("edge-mnist ")]
    assert len(lines) == 5
    for line in lines:
        options = shlex.split(line)[1:]
        if options[0] == "export":
            options += ["--dataset", "digits"]
        if options[0] == "validate" or "--quantize" in options:
            options += ["--max-accuracy-lost", "0.02"]
        done = edge_mnist(*options, *(["--help"] if options[0] == "serve" else []))
        assert done.returncode == 0, (line, done.stderr)
