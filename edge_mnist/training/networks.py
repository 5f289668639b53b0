"""The networks: pixels (N, 1, 28, 28) float32 in 0..1 in, logits (N, classes) out."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_mnist.errors import ModelError


def conv_block(
    n_in: int, n_out: int, *, size: int = 3, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """Return a convolution, batch normalisation and ReLU."""
    # No bias of its own: the normalisation brings one, and export folds the two into one.
    convolution = nn.Conv2d(n_in, n_out, size, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]


def make_edge(n_classes: int) -> nn.Module:
    """Return the default network: 48 thousand weights, 1.8 million multiply-adds.

    Channels in multiples of 16 suit the blocked kernels of onnxruntime's CPU provider. A first
    layer of stride 2 is what makes int8 pay: at stride 1 its int8 kernel alone costs as much as
    the rest of the network.
    """
    return nn.Sequential(
        *conv_block(1, 16, size=5, stride=2, padding=1),  # (N, 16, 13, 13)
        *conv_block(16, 32),  # (N, 32, 11, 11)
        *conv_block(32, 32),  # (N, 32, 9, 9)
        *conv_block(32, 32, stride=2, padding=1),  # (N, 32, 5, 5)
        *conv_block(32, 64),  # (N, 64, 3, 3)
        nn.Flatten(),  # (N, 576)
        nn.Linear(64 * 3 * 3, n_classes),
    )


def make_nano(n_classes: int) -> nn.Module:
    """Return the smallest useful network: 7.5 thousand weights, 0.3 million multiply-adds."""
    return nn.Sequential(
        *conv_block(1, 8, size=5, stride=2, padding=2),  # (N, 8, 14, 14)
        *conv_block(8, 16),  # (N, 16, 12, 12)
        *conv_block(16, 16, stride=2),  # (N, 16, 5, 5)
        *conv_block(16, 16),  # (N, 16, 3, 3)
        nn.Flatten(),  # (N, 144)
        nn.Linear(16 * 3 * 3, n_classes),
    )


def make_max(n_classes: int) -> nn.Module:
    """Return the network for accuracy first: 0.33 million weights, 22 million multiply-adds."""
    return nn.Sequential(
        *conv_block(1, 32),  # (N, 32, 26, 26)
        *conv_block(32, 64),  # (N, 64, 24, 24)
        nn.MaxPool2d(2),  # (N, 64, 12, 12)
        *conv_block(64, 96),  # (N, 96, 10, 10)
        *conv_block(96, 96),  # (N, 96, 8, 8)
        nn.MaxPool2d(2),  # (N, 96, 4, 4)
        *conv_block(96, 192),  # (N, 192, 2, 2)
        nn.Flatten(),  # (N, 768)
        nn.Dropout(0.3),
        nn.Linear(192 * 2 * 2, n_classes),
    )


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "edge": make_edge,
    "nano": make_nano,
    "max": make_max,
}


def make_network(name: str, n_classes: int = 10) -> nn.Module:
    """Return the named network with fresh random weights, in training mode.

    Raises:
        ModelError: There is no such network.
    """
    if name not in NETWORKS:
        raise ModelError(f"no network named {name!r}; there are: {', '.join(NETWORKS)}")
    return NETWORKS[name](n_classes)


def to_pixels(images: Tensor) -> Tensor:
    """Scale images (N, 28, 28) uint8 to pixels (N, 1, 28, 28) float32 in 0..1."""
    return images.unsqueeze(1).float() / 255


def compute_logits(
    network: nn.Module, images: NDArray[np.uint8], *, batch_size: int = 1000
) -> NDArray[np.float32]:
    """Run a network in evaluation mode.

    Args:
        network: Takes pixels (N, 1, 28, 28) float32.
        images: Shape (N, 28, 28), uint8.
        batch_size: Images at once.

    Returns:
        Logits, shape (N, classes), float32.
    """
    network.eval()
    device = next(network.parameters()).device
    batches = torch.split(torch.tensor(images), batch_size)
    with torch.inference_mode():
        rows = [network(to_pixels(batch.to(device))).cpu() for batch in batches]
    return np.asarray(torch.cat(rows).numpy(), dtype=np.float32)
