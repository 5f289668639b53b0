"""The networks that recipes train.

Each takes pixels (N, 1, 28, 28), float32, 0..1, and returns logits (N, classes).

A new network is one more function here, and its name in ``NETWORKS``.
"""

import contextlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_mnist.errors import ModelError
from edge_mnist.training.recipes import Recipe


def conv_block(
    n_in: int,
    n_out: int,
    *,
    size: int = 3,
    stride: int = 1,
    padding: int = 0,
    batch_norm: bool = True,
) -> list[nn.Module]:
    """Return a convolution, batch normalisation if wanted, and ReLU."""
    # No bias of its own: the normalisation brings one, and export folds the two into one.
    convolution = nn.Conv2d(n_in, n_out, size, stride, padding, bias=not batch_norm)
    normalisation = [nn.BatchNorm2d(n_out)] if batch_norm else []
    return [convolution, *normalisation, nn.ReLU()]


def dense_block(n_in: int, n_out: int, *, batch_norm: bool) -> list[nn.Module]:
    """Return a dense layer, batch normalisation if wanted, and ReLU."""
    dense = nn.Linear(n_in, n_out, bias=not batch_norm)
    return [dense, *([nn.BatchNorm1d(n_out)] if batch_norm else []), nn.ReLU()]


def last_layer(n_in: int, n_classes: int, recipe: Recipe) -> list[nn.Module]:
    """Return the dense layer that gives the logits, dropout before it if the recipe has some."""
    dropout = [nn.Dropout(recipe.dropout)] if recipe.dropout else []
    return [*dropout, nn.Linear(n_in, n_classes)]


def make_edge(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return the network of the default recipe.

    Channels in multiples of 16 suit the blocked kernels of onnxruntime's CPU provider. A first
    layer of stride 2 is what makes int8 pay: at stride 1 its int8 kernel alone costs as much as
    the rest of the network.
    """
    norm = recipe.batch_norm
    return nn.Sequential(
        *conv_block(1, 16, size=5, stride=2, padding=1, batch_norm=norm),  # (N, 16, 13, 13)
        *conv_block(16, 32, batch_norm=norm),  # (N, 32, 11, 11)
        *conv_block(32, 32, batch_norm=norm),  # (N, 32, 9, 9)
        *conv_block(32, 32, stride=2, padding=1, batch_norm=norm),  # (N, 32, 5, 5)
        *conv_block(32, 64, batch_norm=norm),  # (N, 64, 3, 3)
        nn.Flatten(),  # (N, 576)
        *last_layer(64 * 3 * 3, n_classes, recipe),
    )


def make_nano(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return the smallest useful network."""
    norm = recipe.batch_norm
    return nn.Sequential(
        *conv_block(1, 8, size=5, stride=2, padding=2, batch_norm=norm),  # (N, 8, 14, 14)
        *conv_block(8, 16, batch_norm=norm),  # (N, 16, 12, 12)
        *conv_block(16, 16, stride=2, batch_norm=norm),  # (N, 16, 5, 5)
        *conv_block(16, 16, batch_norm=norm),  # (N, 16, 3, 3)
        nn.Flatten(),  # (N, 144)
        *last_layer(16 * 3 * 3, n_classes, recipe),
    )


def make_max(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return the network for accuracy first."""
    norm = recipe.batch_norm
    return nn.Sequential(
        *conv_block(1, 32, batch_norm=norm),  # (N, 32, 26, 26)
        *conv_block(32, 64, batch_norm=norm),  # (N, 64, 24, 24)
        nn.MaxPool2d(2),  # (N, 64, 12, 12)
        *conv_block(64, 96, batch_norm=norm),  # (N, 96, 10, 10)
        *conv_block(96, 96, batch_norm=norm),  # (N, 96, 8, 8)
        nn.MaxPool2d(2),  # (N, 96, 4, 4)
        *conv_block(96, 192, batch_norm=norm),  # (N, 192, 2, 2)
        nn.Flatten(),  # (N, 768)
        *last_layer(192 * 2 * 2, n_classes, recipe),
    )


class ResidualBlock(nn.Module):
    """Two convolutions of 3x3 around which the input passes; the first may halve the sides.

    Source: K. He et al., Deep Residual Learning for Image Recognition, 2015.
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int, batch_norm: bool) -> None:
        """Draw the weights."""
        super().__init__()
        first = conv_block(n_in, n_out, stride=stride, padding=1, batch_norm=batch_norm)
        second = conv_block(n_out, n_out, padding=1, batch_norm=batch_norm)[:-1]  # ReLU comes last
        self.body = nn.Sequential(*first, *second)
        around = conv_block(n_in, n_out, size=1, stride=stride, batch_norm=batch_norm)[:-1]
        self.around = nn.Sequential(*around)  # fits the input to the channels and sides of the body

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, n_out, height / stride, width / stride)."""
        return torch.relu(self.body(features) + self.around(features))


def make_residual(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return a small residual network."""
    norm = recipe.batch_norm
    return nn.Sequential(
        *conv_block(1, 16, stride=2, padding=1, batch_norm=norm),  # (N, 16, 14, 14)
        ResidualBlock(16, 32, stride=1, batch_norm=norm),  # (N, 32, 14, 14)
        ResidualBlock(32, 64, stride=2, batch_norm=norm),  # (N, 64, 7, 7)
        nn.AdaptiveAvgPool2d(1),  # (N, 64, 1, 1)
        nn.Flatten(),  # (N, 64)
        *last_layer(64, n_classes, recipe),
    )


def make_mlp(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return three dense layers, no convolution."""
    return nn.Sequential(
        nn.Flatten(),  # (N, 784)
        *dense_block(28 * 28, 512, batch_norm=recipe.batch_norm),
        *dense_block(512, 512, batch_norm=recipe.batch_norm),
        *last_layer(512, n_classes, recipe),
    )


def make_conv4(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return four wide convolutions."""
    norm = recipe.batch_norm
    return nn.Sequential(
        *conv_block(1, 32, batch_norm=norm),  # (N, 32, 26, 26)
        *conv_block(32, 64, batch_norm=norm),  # (N, 64, 24, 24)
        nn.MaxPool2d(2),  # (N, 64, 12, 12)
        *conv_block(64, 128, batch_norm=norm),  # (N, 128, 10, 10)
        *conv_block(128, 256, batch_norm=norm),  # (N, 256, 8, 8)
        nn.MaxPool2d(2),  # (N, 256, 4, 4)
        nn.Flatten(),  # (N, 4096)
        *dense_block(256 * 4 * 4, 50, batch_norm=norm),
        *last_layer(50, n_classes, recipe),
    )


def make_lenet_avg(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return LeNet-5 with ReLU and average pooling.

    Source: Y. LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """
    norm = recipe.batch_norm
    return nn.Sequential(
        *conv_block(1, 6, size=5, padding=2, batch_norm=norm),  # (N, 6, 28, 28)
        nn.AvgPool2d(2),  # (N, 6, 14, 14)
        *conv_block(6, 16, size=5, batch_norm=norm),  # (N, 16, 10, 10)
        nn.AvgPool2d(2),  # (N, 16, 5, 5)
        nn.Flatten(),  # (N, 400)
        *dense_block(16 * 5 * 5, 120, batch_norm=norm),
        *dense_block(120, 84, batch_norm=norm),
        *last_layer(84, n_classes, recipe),
    )


def make_lenet_max(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return a LeNet of 3x3 convolutions and max pooling."""
    norm = recipe.batch_norm
    return nn.Sequential(
        *conv_block(1, 6, batch_norm=norm),  # (N, 6, 26, 26)
        nn.MaxPool2d(2),  # (N, 6, 13, 13)
        *conv_block(6, 16, batch_norm=norm),  # (N, 16, 11, 11)
        nn.MaxPool2d(2),  # (N, 16, 5, 5)
        nn.Flatten(),  # (N, 400)
        *dense_block(16 * 5 * 5, 120, batch_norm=norm),
        *dense_block(120, 84, batch_norm=norm),
        *last_layer(84, n_classes, recipe),
    )


NETWORKS: dict[str, Callable[[Recipe, int], nn.Module]] = {
    "edge": make_edge,
    "nano": make_nano,
    "max": make_max,
    "residual": make_residual,
    "mlp": make_mlp,
    "conv4": make_conv4,
    "lenet-avg": make_lenet_avg,
    "lenet-max": make_lenet_max,
}


class Normalise(nn.Module):
    """Brings pixels to another mean and standard deviation."""

    def __init__(self, mean: float, std: float) -> None:
        """Set what is subtracted and what divides."""
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pixels of the same shape."""
        return (pixels - self.mean) / self.std


def make_network(recipe: Recipe, n_classes: int = 10) -> nn.Module:
    """Return the recipe's network with fresh random weights, in training mode.

    It takes pixels in 0..1; a recipe's own mean and standard deviation are part of the network.

    Raises:
        ModelError: There is no such network.
    """
    if recipe.network not in NETWORKS:
        raise ModelError(f"no network named {recipe.network!r}; there are: {', '.join(NETWORKS)}")
    network = NETWORKS[recipe.network](recipe, n_classes)
    if (recipe.pixel_mean, recipe.pixel_std) == (0, 1):
        return network
    return nn.Sequential(Normalise(recipe.pixel_mean, recipe.pixel_std), network)


def count_weights(network: nn.Module) -> int:
    """Count the numbers that training decides."""
    return sum(weight.numel() for weight in network.parameters())


def count_multiply_adds(network: nn.Module) -> int:
    """Count the multiplications of weights that one image takes, by running it."""
    counts: list[int] = []

    def count(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        places = prod(output.shape[2:])  # 1 for a dense layer
        counts.append(weight.numel() * places)

    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def to_pixels(images: Tensor) -> Tensor:
    """Scale images (N, 28, 28) uint8 to pixels (N, 1, 28, 28) float32 in 0..1."""
    return images.unsqueeze(1).float() / 255


def first_weights(network: nn.Module) -> NDArray[np.float32]:
    """Return the weights of the first layer, shape (n, channels, height, width) or (n, 784)."""
    first = next(weights for weights in network.parameters() if weights.ndim > 1)
    return np.asarray(first.detach().cpu().numpy(), np.float32)


def to_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax of logits, shape (N, classes)."""
    return np.asarray(torch.from_numpy(logits).softmax(dim=1).numpy(), np.float32)


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Let PyTorch use so many threads within one operator, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and afterwards each of its modules as it was."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def compute_logits(
    network: nn.Module,
    images: NDArray[np.uint8],
    *,
    batch_size: int = 1000,
    temperature: float = 1.0,
) -> NDArray[np.float32]:
    """Run a network of this package in evaluation mode; NumPy scales pixels and divides logits.

    Args:
        network: Takes pixels (N, 1, 28, 28), float32, in 0..1; returns logits (N, classes).
        images: Shape (N, 28, 28), uint8.
        batch_size: Images in one call of the network.
        temperature: Divides the logits.

    Returns:
        Logits, shape (N, classes), float32.
    """
    parameter = next(network.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    rows = []
    with evaluation_mode(network), torch.inference_mode():
        for start in range(0, max(len(images), 1), batch_size):
            batch = images[start : start + batch_size, np.newaxis]
            pixels = torch.from_numpy(batch.astype(np.float32) * np.float32(1 / 255))
            rows.append(network(pixels.to(device)).float().cpu().numpy())
    return np.asarray(np.concatenate(rows) / np.float32(temperature), np.float32)
