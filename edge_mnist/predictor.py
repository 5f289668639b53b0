"""The predictor: a model file, opened once, that reads digits."""

import os
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import UsageError
from edge_mnist.modelfile import ModelFile, check_contract, find_model, read_model
from edge_mnist.picture import Picture, read_image
from edge_mnist.session import open_session, provider_of

CHUNK_IMAGES = 1024  # larger batches are no faster, and their memory grows with them


@dataclass(frozen=True)
class Prediction:
    """What the model sees in one picture.

    Attributes:
        digit: The predicted class.
        name: What that class is called; for MNIST the digit itself.
        confidence: Probability of that class, 0..1.
        probabilities: One for each class; they sum to 1.
        provider: The provider that really ran, ``cpu`` or ``cuda``.
    """

    digit: int
    name: str
    confidence: float
    probabilities: tuple[float, ...]
    provider: str


class Predictor:
    """Reads digits with one model file.

    Example:
        >>> from edge_mnist import Predictor
        >>> predictor = Predictor()
        >>> predictor.predict("seven.png").digit  # doctest: +SKIP
        7
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile | None = None,
        *,
        provider: str | None = None,
        threads: int | None = None,
    ) -> None:
        """Open a model file.

        Args:
            model: A file, or a folder written by export; see ``modelfile.find_model``. Or a
                model that was read already.
            provider: ``auto``, ``cpu`` or ``cuda``; EDGE_MNIST_PROVIDER or ``auto`` if None.
            threads: Threads within one operator; EDGE_MNIST_THREADS or 1 if None.

        Raises:
            ModelError: The file is missing, broken or breaks the contract.
            ProviderError: CUDA was asked for and does not really run.
        """
        self.model = model if isinstance(model, ModelFile) else read_model(find_model(model))
        provider = provider or os.environ.get("EDGE_MNIST_PROVIDER") or "auto"
        self.session = open_session(self.model.content, provider=provider, threads=threads)
        self.info = check_contract(self.session)
        self.provider = provider_of(self.session)

    def predict(self, picture: Picture) -> Prediction:
        """Read the digit in one picture.

        Args:
            picture: A path, bytes, an open binary file, a PIL image or an array; see
                ``picture.read_image``.

        Raises:
            PictureError: The picture cannot be read, or is blank.
        """
        return self.predict_image(read_image(picture))

    def predict_image(self, image: NDArray[np.uint8]) -> Prediction:
        """Read the digit in one image of shape (28, 28), uint8."""
        labels, probabilities = self.predict_images(image[np.newaxis])
        label = int(labels[0])
        return Prediction(
            digit=label,
            name=self.info.class_names[label],
            confidence=float(probabilities[0, label]),
            probabilities=tuple(probabilities[0].tolist()),
            provider=self.provider,
        )

    def predict_images(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classify many images.

        Args:
            images: Shape (N, 28, 28), uint8, 0 = background, 255 = full ink.

        Returns:
            Predicted labels, shape (N,), int64, and probabilities, shape (N, classes), float32.

        Raises:
            UsageError: ``images`` has another shape or type.
        """
        probabilities = self._run("probabilities", images, CHUNK_IMAGES)
        return probabilities.argmax(axis=1), probabilities

    def compute_logits(
        self, images: NDArray[np.uint8], *, batch_size: int = CHUNK_IMAGES
    ) -> NDArray[np.float32]:
        """Return the raw scores of many images, shape (N, classes); see ``predict_images``."""
        return self._run("logits", images, batch_size)

    def _run(self, output: str, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
            raise UsageError(f"want uint8 images (N, 28, 28), got {images.dtype} {images.shape}")
        chunks = [
            self.session.run([output], {"images": images[start : start + batch_size]})[0]
            for start in range(0, len(images), batch_size)
        ]
        empty = np.empty((0, len(self.info.class_names)), np.float32)
        return cast("NDArray[np.float32]", np.concatenate(chunks) if chunks else empty)
