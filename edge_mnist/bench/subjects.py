"""What a benchmark measures: our model files, any other image classifier's, and PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.modelfile import CHECKPOINT_NAME, check_contract, read_model
from edge_mnist.session import open_session, provider_of

SIDE_PX = 28  # of an input whose height or width is free
NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


@dataclass(frozen=True)
class Variant:
    """What is known of something before it is measured.

    Attributes:
        name: Short, and different from the others' names.
        path: The file.
        runtime: ``onnxruntime`` or ``torch``.
        provider: The provider that really runs.
        size_bytes: Bytes of the file.
        accuracy: What the file says it reads right of its test set, a fraction; None if it does
            not say.
        quantization: ``none``, or how it was quantised; None if the file does not say.
    """

    name: str
    path: str
    runtime: str
    provider: str
    size_bytes: int
    accuracy: float | None
    quantization: str | None


@dataclass(frozen=True)
class Subject(Variant):
    """A variant that is open, ready to be measured.

    Attributes:
        run: Classifies a batch, as many images as it is told to.
        open_anew: Opens the file once more; for timing.
        cold_code: Python code that opens the file and classifies one image, in a new process.
        fixed_batch: The only batch size it takes; None if any.
    """

    run: Callable[[int], object]
    open_anew: Callable[[], object]
    cold_code: str
    fixed_batch: int | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What is known of it, by name of the attribute of ``Variant``."""
        return {field.name: getattr(self, field.name) for field in fields(Variant)}

    def takes(self, batch_size: int) -> bool:
        """Tell whether it can run a batch of this size."""
        return self.fixed_batch in (None, batch_size)


def open_model(path: Path, *, provider: str, threads: int, name: str) -> Subject:
    """Open a model file that keeps the contract.

    Raises:
        ModelError: It is missing, broken or breaks the contract.
        ProviderError: CUDA was asked for and does not really run.
    """
    info = check_contract(read_model(path))
    accuracy = info.metadata.get("accuracy")
    return _open_onnx(
        path,
        provider=provider,
        threads=threads,
        name=name,
        accuracy=float(accuracy) if accuracy else None,
        quantization=info.quantization,
    )


def open_other(path: Path, *, provider: str, threads: int, name: str) -> Subject:
    """Open anybody's image classifier; what it is fed follows from the input it declares.

    Raises:
        ModelError: It cannot be opened.
        UsageError: It has more than one input, or one that is no image.
    """
    return _open_onnx(path, provider=provider, threads=threads, name=name)


def open_torch(path: Path, *, threads: int, name: str) -> Subject | None:
    """Open the checkpoint beside a model file in PyTorch; None without torch or such weights."""
    from importlib.util import find_spec

    checkpoint_path = path.with_name(CHECKPOINT_NAME)
    if find_spec("torch") is None or not checkpoint_path.is_file():
        return None
    from edge_mnist.training.checkpoint import load_checkpoint, load_network
    from edge_mnist.training.environment import limit_threads
    from edge_mnist.training.networks import compute_logits

    checkpoint = load_checkpoint(checkpoint_path)
    weights = check_contract(read_model(path)).metadata.get("weights_sha256")
    if checkpoint.weights_sha256 != weights:
        return None
    limit_threads(threads)
    network = load_network(checkpoint)
    images = draw_batch((0, SIDE_PX, SIDE_PX), np.uint8)
    return Subject(
        name=name,
        path=str(checkpoint_path),
        runtime="torch",
        provider="cpu",
        size_bytes=checkpoint_path.stat().st_size,
        accuracy=None,
        quantization=None,
        run=lambda n: compute_logits(network, images(n), batch_size=n),
        open_anew=lambda: load_network(load_checkpoint(checkpoint_path)),
        cold_code=TORCH_CODE.format(path=str(checkpoint_path), threads=threads),
    )


TORCH_CODE = """
import numpy
from pathlib import Path
from edge_mnist.training.checkpoint import load_checkpoint, load_network
from edge_mnist.training.environment import limit_threads
from edge_mnist.training.networks import compute_logits
limit_threads({threads})
network = load_network(load_checkpoint(Path({path!r})))
compute_logits(network, numpy.zeros((1, 28, 28), numpy.uint8))
"""

ONNX_CODE = """
import numpy
from edge_mnist.session import open_session
content = open({path!r}, "rb").read()
session = open_session(content, provider={provider!r}, threads={threads})
session.run(None, {{{input!r}: numpy.zeros({shape!r}, {dtype!r})}})
"""


def _open_onnx(
    path: Path,
    *,
    provider: str,
    threads: int,
    name: str,
    accuracy: float | None = None,
    quantization: str | None = None,
) -> Subject:
    content = read_model(path).content
    session = open_session(content, provider=provider, threads=threads)
    inputs = session.get_inputs()
    # Old files list their weights among the inputs; those have values of their own.
    if len(inputs) != 1 or inputs[0].type not in NUMPY_TYPES:
        raise UsageError(f"{path} is no image classifier: want one input of numbers")
    shape, dtype = _fill_shape(inputs[0].shape), NUMPY_TYPES[inputs[0].type]
    images = draw_batch(shape, dtype)
    ran = provider_of(session)
    example_shape = (shape[0] or 1, *shape[1:])

    def run(n: int) -> object:
        return session.run(None, {inputs[0].name: images(n)})

    try:
        run(example_shape[0])
    except Exception as error:  # onnxruntime's exceptions share no base class of their own
        raise ModelError(f"{path} does not run: {' '.join(str(error).split())[:200]}") from error
    return Subject(
        name=name,
        path=str(path),
        runtime="onnxruntime",
        provider=ran,
        size_bytes=len(content),
        accuracy=accuracy,
        quantization=quantization,
        run=run,
        open_anew=lambda: open_session(content, provider=ran, threads=threads),
        cold_code=ONNX_CODE.format(
            path=str(path), provider=ran, threads=threads, input=inputs[0].name,
            shape=example_shape, dtype=np.dtype(dtype).name,
        ),
        fixed_batch=shape[0] or None,
    )  # fmt: skip


def draw_batch(shape: tuple[int, ...], dtype: Any) -> Callable[[int], NDArray[Any]]:
    """Return a function that gives a batch of n images, the same ones each time.

    Args:
        shape: Of the input; its first number, the batch, is replaced by n.
        dtype: Of the input.
    """
    kept: dict[int, NDArray[Any]] = {}

    def give(n: int) -> NDArray[Any]:
        if n not in kept:
            levels = np.random.default_rng(0).integers(0, 128, (n, *shape[1:]))
            kept[n] = levels.astype(dtype)
        return kept[n]

    return give


def _fill_shape(shape: list[Any]) -> tuple[int, ...]:
    """Give free sides a size; a free batch becomes 0."""
    if len(shape) not in (2, 3, 4):
        raise UsageError(f"an input of shape {shape} is no batch of images")
    batch, *sides = (side if isinstance(side, int) else 0 for side in shape)
    return (batch, *(side or SIDE_PX for side in sides))
