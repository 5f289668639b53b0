"""Static quantisation to int8, in QDQ form, per channel, calibrated on training images."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edge_mnist.export.graph import BODY_INPUT, PIXEL_SCALE, quiet, strip


@dataclass(frozen=True)
class Quantization:
    """How a model is quantised.

    Attributes:
        weights: Signed 8 bit, symmetric, a scale for each output channel.
        activations: Unsigned 8 bit, a scale for each tensor.
        reduce_range: Weights use 7 of their 8 bits, because x86 processors without VNNI add two
            products of unsigned and signed bytes in 16 bits, which saturate at 8 bits.
        method: How ranges are found in the calibration images.
        n_images: Calibration images.
        seed: Of the choice of those images among the training images.
    """

    weights: str = "int8 per channel"
    activations: str = "uint8 per tensor"
    reduce_range: bool = True
    method: str = "minmax"
    n_images: int = 1000
    seed: int = 0

    def to_dict(self) -> dict[str, str | int | bool]:
        """Return all settings, for the metadata."""
        return asdict(self)


def choose_calibration(images: NDArray[np.uint8], settings: Quantization) -> NDArray[np.uint8]:
    """Draw the calibration images from the training split, without the validation images.

    Args:
        images: Training images, shape (N, 28, 28), uint8.
        settings: Number of images and seed.
    """
    rows = np.random.default_rng(settings.seed).permutation(len(images))[: settings.n_images]
    return images[np.sort(rows)]


def quantize_body(
    body: onnx.ModelProto, calibration: NDArray[np.uint8], settings: Quantization
) -> onnx.ModelProto:
    """Quantise a float32 body.

    Args:
        body: Takes ``pixels`` (N, 1, 28, 28) float32.
        calibration: Images that fix the scales, shape (N, 28, 28), uint8.
        settings: How.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    scratch = onnx.ModelProto()  # quantize_static moves the weights of its input to a file
    scratch.CopyFrom(body)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            scratch,
            path,
            _make_reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=settings.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return strip(onnx.load(path))


def _make_reader(images: NDArray[np.uint8]) -> "object":
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out pixels, a hundred images at a time."""

        def __init__(self) -> None:
            self.batches = self.draw()

        def draw(self) -> Iterator[dict[str, NDArray[np.float32]]]:
            for start in range(0, len(images), 100):
                pixels = images[start : start + 100, np.newaxis].astype(np.float32)
                yield {BODY_INPUT: pixels * np.float32(PIXEL_SCALE)}

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.batches, None)

    return Reader()
