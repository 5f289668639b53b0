"""Where to train: the CPU or a GPU, and what it can do."""

import torch

from edge_mnist.errors import ProviderError
from edge_mnist.machine import read_cpu_flags


def pick_device(name: str) -> torch.device:
    """Return the torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ProviderError: CUDA was asked for and does not run here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ProviderError("--device cuda: torch finds no usable CUDA device on this machine")
    return torch.device(name)


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies in bfloat16; processors that do not imitate it, slowly."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & read_cpu_flags())
