"""Checkpoints: weights with their recipe, in one safetensors file, which cannot run code."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from edge_mnist.errors import ModelError, UsageError, one_line
from edge_mnist.files import write_atomically
from edge_mnist.training.calibration import Calibration
from edge_mnist.training.networks import make_network
from edge_mnist.training.provenance import TrainingData
from edge_mnist.training.recipes import Recipe, parse_recipe

WEIGHTS_PREFIX = "weights."
STATE_PREFIX = "state."
IMAGE_HASHES = "image_hashes"
CONTENT_HASH = "content_sha256"  # of all tensors and all other metadata
FORMAT = "edge-mnist checkpoint 1"


@dataclass(frozen=True)
class Checkpoint:
    """The weights after an epoch, their origin, and the state to continue the training.

    Attributes:
        recipe: Every number that decides the weights.
        epoch: Epochs done.
        class_names: What each label means.
        weights: State dict of the network; the moving average, which is what gets exported.
        state: Raw weights and optimizer state, to continue the training; empty when it is finished.
        calibration: Fitted on the validation split after the last epoch.
        trained_on: What is recorded of the data set; without a hash in checkpoints of old.
    """

    recipe: Recipe
    epoch: int
    class_names: tuple[str, ...]
    weights: dict[str, Tensor]
    state: dict[str, Tensor] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    trained_on: TrainingData = field(default_factory=lambda: TrainingData(""))

    @property
    def is_finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.epoch >= self.recipe.epochs

    @property
    def weights_sha256(self) -> str:
        """Hash over names and values of the weights, hexadecimal."""
        return hash_weights(self.weights)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    write_atomically(path, pack_checkpoint(checkpoint))


def pack_checkpoint(checkpoint: Checkpoint) -> bytes:
    """Return the content of a checkpoint's file."""
    tensors = {WEIGHTS_PREFIX + name: value for name, value in checkpoint.weights.items()}
    tensors |= {STATE_PREFIX + name: value for name, value in checkpoint.state.items()}
    about = {
        "format": FORMAT,
        "recipe": checkpoint.recipe.to_json(),
        "epoch": str(checkpoint.epoch),
        "class_names": json.dumps(checkpoint.class_names),
        "temperature": repr(checkpoint.calibration.temperature),
        "rejection_threshold": repr(checkpoint.calibration.rejection_threshold),
        "rejected_shares": json.dumps(dict(checkpoint.calibration.rejected_shares)),
        "weights_sha256": checkpoint.weights_sha256,
        "dataset_sha256": checkpoint.trained_on.sha256,
    }
    if checkpoint.trained_on.image_hashes is not None:
        # As signed numbers: not every version of safetensors has unsigned ones.
        signed = checkpoint.trained_on.image_hashes.view(np.int64)
        tensors[IMAGE_HASHES] = torch.from_numpy(signed)
    copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(copies, about | {CONTENT_HASH: _hash_content(copies, about)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: The file is missing, damaged, or not a checkpoint of this package.
    """
    try:
        content = Path(path).read_bytes()  # at once: a training may replace the file meanwhile
        tensors = load(content)
        about = read_metadata(content)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read checkpoint {path}: {error}") from error
    if about.get("format") != FORMAT:
        raise ModelError(f"{path} is not a checkpoint of edge-mnist")
    weights = _with_prefix(tensors, WEIGHTS_PREFIX)
    if about.get("weights_sha256", hash_weights(weights)) != hash_weights(weights):
        raise ModelError(f"the checkpoint {path} is damaged: its weights are not the ones saved")
    saved = about.pop(CONTENT_HASH, None)  # older checkpoints have none
    if saved is not None and saved != _hash_content(tensors, about):
        raise ModelError(f"the checkpoint {path} is damaged: its content is not what was saved")
    try:
        return _build_checkpoint(tensors, weights, about)
    except (KeyError, ValueError, TypeError, UsageError) as error:
        raise ModelError(
            f"the checkpoint {path} is damaged: its metadata cannot be read ({one_line(error)})"
        ) from error


def _build_checkpoint(
    tensors: dict[str, Tensor], weights: dict[str, Tensor], about: Mapping[str, str]
) -> Checkpoint:
    recipe = parse_recipe(about["recipe"])
    hashes = tensors[IMAGE_HASHES].numpy().view(np.uint64) if IMAGE_HASHES in tensors else None
    return Checkpoint(
        recipe,
        int(about["epoch"]),
        tuple(json.loads(about["class_names"])),
        weights,
        _with_prefix(tensors, STATE_PREFIX),
        Calibration(
            float(about["temperature"]),
            float(about.get("rejection_threshold", 0)),
            json.loads(about.get("rejected_shares", "{}")),
        ),
        TrainingData(recipe.dataset, about.get("dataset_sha256", ""), hashes),
    )


def read_metadata(content: bytes) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file that was loaded already.

    Source: the format of safetensors: a length in 8 bytes, little endian, then that much JSON.
    """
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header.get("__metadata__", {}))


def load_network(checkpoint: Checkpoint) -> nn.Module:
    """Build a checkpoint's network with its weights, in evaluation mode.

    Its logits are not yet divided by the checkpoint's temperature.

    Raises:
        ModelError: The weights do not fit the network that the recipe names.
    """
    network = make_network(checkpoint.recipe, len(checkpoint.class_names))
    try:
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise ModelError(
            f"the checkpoint's weights do not fit its network {checkpoint.recipe.network!r}: "
            f"{one_line(error)}"
        ) from error
    return network.eval()


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names and values of a state dict, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _hash_content(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    text = json.dumps(dict(about), sort_keys=True)
    return hashlib.sha256((text + hash_weights(tensors)).encode()).hexdigest()


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
