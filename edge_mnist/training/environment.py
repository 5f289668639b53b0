"""What a result depends on besides its recipe: the machine and the versions."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from edge_mnist.machine import processor_name


def describe_environment(device: torch.device) -> dict[str, str | int]:
    """Return what a result depends on besides the recipe: versions and machine."""
    names = ("edge-mnist", "torch", "torchvision", "numpy", "scikit-learn")
    versions = {name: version(name) for name in names}
    about: dict[str, str | int] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "device": str(device),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if device.type == "cuda":
        about["gpu"] = torch.cuda.get_device_name(device)
    return versions | about


def limit_threads(threads: int) -> None:
    """Let PyTorch use so many threads within one operator, in this process."""
    torch.set_num_threads(threads)
