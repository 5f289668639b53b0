"""What a result depends on besides its recipe: the machine and the versions."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch


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


def processor_name() -> str:
    """Return the processor's model name, or its architecture where the system keeps it quiet."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
