"""A model repository for NVIDIA Triton, from a model file alone: no torch, no onnx.

Source of the layout and of every field: Triton's model_repository.md, model_configuration.md and
model_config.proto.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_mnist.errors import ModelError, OutputError
from edge_mnist.files import make_folder, write_atomically
from edge_mnist.model_file import (
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    INT8_NAME,
    ModelFile,
    ModelInfo,
    check_contract,
    find_models,
    locate,
    name_model,
    read_model,
    shell_path,
)

CONFIG_NAME, LABELS_NAME, MODEL_NAME = "config.pbtxt", "labels.txt", "1/model.onnx"
MARK = "# Written by edge-mnist"


@dataclass(frozen=True)
class TritonModel:
    """A model in a repository.

    Attributes:
        folder: ``REPOSITORY/NAME``.
        name: What clients call it.
        source: The model file it was made from.
        sha256: Its hash; ``1/model.onnx`` is the same file.
        files: What was written, below ``folder``.
    """

    folder: str
    name: str
    source: str
    sha256: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class TritonResult:
    """The models that one export wrote to a repository."""

    repository: str
    models: tuple[TritonModel, ...]
    schema_version: int = 1

    @property
    def next_command(self) -> str:
        """A command that serves the repository."""
        return f"tritonserver --model-repository {shell_path(Path(self.repository).resolve())}"

    def to_text(self) -> str:
        """Return a line for each model."""
        return "\n".join(
            f"{model.folder}: {', '.join(model.files)}, from {model.source}"
            for model in self.models
        )


def export_triton(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    repository: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> TritonResult:
    """Write model files into a Triton model repository, each as version 1 of a model.

    Args:
        models: Model files that keep the contract, float32 or int8; folders written by export,
            released models; see ``model_file.find_models``.
        repository: The folder that Triton is started with; other models in it stay.
        overwrite: Replace files that this function did not write.

    Raises:
        ModelError: A file is missing or breaks the contract.
        OutputError: It cannot be written, or would replace files that are not ours.
    """
    folder = Path(repository)
    written = tuple(add_model(path, folder, overwrite=overwrite) for path in find_models(models))
    return TritonResult(str(folder), written)


def add_model(
    model_path: Path, repository: Path, *, name: str | None = None, overwrite: bool = False
) -> TritonModel:
    """Write a model file into a Triton model repository, as version 1.

    Args:
        model_path: A model file that keeps the contract, float32 or int8.
        repository: The folder that Triton is started with; other models in it stay.
        name: What clients call the model; None for a name after its recipe.
        overwrite: Replace files that this function did not write.

    Raises:
        ModelError: The file breaks the contract, or the name cannot be a model's.
        OutputError: It cannot be written, or would replace files that are not ours.
    """
    model = read_model(model_path)
    info = check_contract(model)
    name = name or name_model(info)
    if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
        raise ModelError(f"{name!r} cannot be a model's name: expected letters, digits, -, _ and .")
    folder = repository / name
    # The configuration last: until it is there, Triton finds nothing to serve.
    files = {
        MODEL_NAME: model.content,
        LABELS_NAME: "".join(f"{one}\n" for one in info.class_names).encode(),
        CONFIG_NAME: write_config(name, model, info).encode(),
    }
    if not overwrite:
        refuse_foreign_files(folder)
    make_folder((folder / MODEL_NAME).parent)
    for file, content in files.items():
        write_atomically(folder / file, content)
    return TritonModel(str(folder), name, str(model.path), model.sha256, tuple(files))


def needs_export(name: str | os.PathLike[str]) -> bool:
    """Return whether a name stands for a checkpoint, a run or somebody else's network."""
    source = locate(name)
    if source.is_file() and source.suffix == ".onnx":
        model = read_model(source)
        try:
            check_contract(model)
        except ModelError:
            return True
        return False
    if not source.is_dir():
        return source.is_file() or ":" in source.name  # net.py:Net
    exported = any((source / name).is_file() for name in (FLOAT32_NAME, INT8_NAME))
    return not exported and any(source.rglob(CHECKPOINT_NAME))


def refuse_foreign_files(folder: Path) -> None:
    """Refuse to replace what this module did not write.

    Raises:
        OutputError: The folder holds such files.
    """
    config = folder / CONFIG_NAME
    if config.is_file() and config.read_bytes().startswith(MARK.encode()):
        return
    for name in (CONFIG_NAME, MODEL_NAME, LABELS_NAME):
        if (folder / name).exists():
            raise OutputError(
                f"{folder / name} exists and is not from edge-mnist; "
                "choose another folder with -o, or add --overwrite"
            )


def write_config(name: str, model: ModelFile, info: ModelInfo) -> str:
    """Return a model's config.pbtxt."""
    accuracy = info.metadata.get("accuracy", "unknown")
    return CONFIG.format(
        mark=MARK,
        name=name,
        n_classes=len(info.class_names),
        sha256=model.sha256,
        accuracy=accuracy,
    )


# Batches of 64 are the fastest per image on a CPU, larger ones leave its cache. One takes about a
# millisecond; waiting half of that for company is cheap. On the CPU, which every server has.
CONFIG = """{mark} from a model file with SHA-256
# {sha256}; accuracy {accuracy}.
name: "{name}"
platform: "onnxruntime_onnx"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 64
input [
  {{
    name: "images"
    data_type: TYPE_UINT8
    dims: [ 28, 28 ]
  }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: [ {n_classes} ]
  }},
  {{
    name: "probabilities"
    data_type: TYPE_FP32
    dims: [ {n_classes} ]
    label_filename: "labels.txt"
  }}
]
dynamic_batching {{
  preferred_batch_size: [ 16, 32, 64 ]
  max_queue_delay_microseconds: 500
}}
instance_group [
  {{
    count: 1
    kind: KIND_CPU
  }}
]
parameters {{
  key: "intra_op_thread_count"
  value: {{ string_value: "1" }}
}}
parameters {{
  key: "inter_op_thread_count"
  value: {{ string_value: "1" }}
}}
model_warmup [
  {{
    name: "one image"
    batch_size: 1
    inputs {{
      key: "images"
      value: {{
        data_type: TYPE_UINT8
        dims: [ 28, 28 ]
        zero_data: true
      }}
    }}
  }},
  {{
    name: "a full batch"
    batch_size: 64
    inputs {{
      key: "images"
      value: {{
        data_type: TYPE_UINT8
        dims: [ 28, 28 ]
        zero_data: true
      }}
    }}
  }}
]
"""
