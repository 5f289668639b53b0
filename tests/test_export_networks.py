"""Any network through ``export``: what its files compute is network(x) / temperature."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIMITS
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_mnist import (
    GateError,
    ModelError,
    PixelConvention,
    Predictor,
    Statement,
    UsageError,
    export,
    load_dataset,
    train,
    validate,
)
from edge_mnist.exporting.sources import TorchNetwork
from edge_mnist.model_file import FLOAT32_NAME, INT8_NAME
from edge_mnist.training.datasets import Dataset

TEMPERATURE = 0.25


class SqueezeExcitation(nn.Module):
    """Its head is registered first, and two more linear layers after it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 10)
        first = nn.Conv2d(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()
        second = nn.Conv2d(16, 32, 5, stride=2), nn.BatchNorm2d(32), nn.ReLU()
        self.features = nn.Sequential(*first, *second, nn.Conv2d(32, 32, 3), nn.ReLU())
        self.squeeze, self.excite = nn.Linear(32, 8), nn.Linear(8, 32)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.features(pixels)
        weights = torch.sigmoid(self.excite(torch.relu(self.squeeze(features.mean(dim=(2, 3))))))
        return self.head((features * weights[:, :, None, None]).amax(dim=(2, 3)))


class ConvolutionHead(nn.Module):
    """It ends in a 1x1 convolution and global pooling."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(1, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()
        second = nn.Conv2d(16, 32, 5, stride=2), nn.BatchNorm2d(32), nn.ReLU()
        self.body = nn.Sequential(*first, *second, nn.Conv2d(32, 32, 3), nn.ReLU())
        self.head = nn.Conv2d(32, 10, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.body(pixels)).mean(dim=(2, 3))


class LinearWithoutBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10, bias=False)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def to_pixels(images: NDArray[np.uint8], mean: float = 0.0, std: float = 1.0) -> Tensor:
    return (torch.from_numpy(images).unsqueeze(1).float() / 255 - mean) / std


def fit(network: nn.Module, dataset: Dataset, *, mean: float = 0.0, std: float = 1.0) -> nn.Module:
    """Train for some seconds, as somebody else's script would."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    pixels = to_pixels(dataset.train_images, mean, std)
    labels = torch.from_numpy(dataset.train_labels)
    for _ in range(25):
        for rows in torch.randperm(len(labels)).split(64):
            loss = nn.functional.cross_entropy(network(pixels[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@pytest.mark.parametrize("kind", [SqueezeExcitation, ConvolutionHead, LinearWithoutBias])
def test_logits_are_the_networks_over_the_temperature(
    kind: type[nn.Module], digits: Dataset, tmp_path: Path
) -> None:
    network = fit(kind(), digits)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    result = export(
        network, digits, folder=tmp_path, quantize=True, temperature=TEMPERATURE, limits=LIMITS
    )
    assert network.training  # as it was
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.inference_mode():
        expected = network.eval()(to_pixels(digits.test_images)).numpy() / TEMPERATURE
    float32, int8 = Predictor(tmp_path / FLOAT32_NAME), Predictor(tmp_path / INT8_NAME)
    np.testing.assert_allclose(float32.compute_logits(digits.test_images), expected, atol=1e-3)
    labels, _ = int8.predict_images(digits.test_images)
    assert (labels == expected.argmax(axis=1)).mean() > 0.97
    assert result.temperature == TEMPERATURE
    assert result.checkpoint is None
    assert validate(tmp_path, digits, limits=LIMITS).passed
    assert validate(tmp_path, self_test=True).passed
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["network"] == kind.__name__


def test_a_network_broken_after_the_reference_is_refused(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = fit(LinearWithoutBias(), digits)

    def break_and_export(broken: TorchNetwork, *args: object) -> object:
        with torch.no_grad():
            next(broken.module.parameters())[0] += 0.5
        return intact(broken, *args)  # type: ignore[arg-type]

    intact = TorchNetwork.to_body
    monkeypatch.setattr(TorchNetwork, "to_body", break_and_export)
    with pytest.raises(GateError, match="largest difference of logits") as caught:
        export(network, digits, folder=tmp_path)
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [1 / 255, 1.0])
def test_the_pixel_convention_is_built_in(scale: float, digits: Dataset, tmp_path: Path) -> None:
    mean, std = 0.1307 * 255 * scale, 0.3081 * 255 * scale
    network = fit(ConvolutionHead(), digits, mean=0.1307, std=0.3081)
    convention = PixelConvention(scale=scale, mean=mean, std=std)
    export(network, digits, folder=tmp_path, quantize=True, convention=convention, limits=LIMITS)
    predictor = Predictor(tmp_path / FLOAT32_NAME)
    with torch.inference_mode():
        logits = network.eval()(to_pixels(digits.test_images, 0.1307, 0.3081)).numpy()
    temperature = float(predictor.info.metadata["temperature"])
    found = predictor.compute_logits(digits.test_images)
    np.testing.assert_allclose(found, logits / temperature, atol=1e-3)
    for path in (FLOAT32_NAME, INT8_NAME):
        labels, _ = Predictor(tmp_path / path).predict_images(digits.test_images)
        assert (labels == digits.test_labels).mean() > 0.9


def test_what_cannot_be_exported_is_one_line(digits: Dataset, tmp_path: Path) -> None:
    nine = nn.Sequential(nn.Flatten(), nn.Linear(784, 9))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(900, 10))
    for network, words in ((nine, r"returns \(\d+, 9\).*expected \(\d+, 10\)"), (wide, "does not")):
        with pytest.raises(ModelError, match=words) as caught:
            export(network, digits, folder=tmp_path)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UsageError, match="with a data set"):
        export(nine, folder=tmp_path)
    with pytest.raises(UsageError, match="temperature: expected a number"):
        export(fit(LinearWithoutBias(), digits), digits, folder=tmp_path, temperature=0)
    with pytest.raises(UsageError, match="positive scale"):
        PixelConvention(std=0)
    with pytest.raises(UsageError, match="no layout"):
        PixelConvention(layout="28x28x28")
    assert list(tmp_path.iterdir()) == []


def test_a_training_in_memory_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python API as the README prints it; nothing is written unless asked for."""
    monkeypatch.chdir(tmp_path)
    run = train("digits", load_dataset("digits"))
    assert list(tmp_path.iterdir()) == []
    assert run.result.folder is None
    by_network = export(run.network, run.dataset, folder="a", quantize=True, limits=LIMITS)
    by_run = export(run, folder="b", quantize=True, limits=LIMITS)
    assert by_network.temperature == by_run.temperature
    assert by_network.rejection_threshold == by_run.rejection_threshold
    logits = [
        Predictor(tmp_path / name).compute_logits(run.dataset.test_images) for name in ("a", "b")
    ]
    assert (logits[0] == logits[1]).all()
    assert "recipe" in Predictor(tmp_path / "b").info.metadata
    report = validate("b", run.dataset, limits=LIMITS)
    assert report.passed
    assert report.models[0].accuracy is not None
    assert report.models[0].accuracy.accuracy == run.test_accuracy


class Squeezing(nn.Module):
    """Drops the batch of a single image."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(pixels.flatten(1)).squeeze()
        return logits


def test_a_network_that_drops_a_batch_of_one_is_named(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"returns \(10,\) for 1 images.*flatten\(1\)"):
        export(Squeezing(), digits, folder=tmp_path)


def test_a_statement_is_whole() -> None:
    for stated in ({"mean": 0.1}, {"std": 0.3}):
        with pytest.raises(UsageError, match="mean and std together"):
            Statement(**stated)
    with pytest.raises(UsageError, match="not both"):
        Statement(layout="784", convention=PixelConvention())
