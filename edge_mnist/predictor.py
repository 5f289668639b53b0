"""The predictor: a model file, opened once, that reads digits."""

import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import PictureError, UsageError
from edge_mnist.machine import count_cores
from edge_mnist.model_file import ModelFile, check_contract, find_model, read_model
from edge_mnist.picture.decode import Picture
from edge_mnist.picture.frame import ModelInput, read_picture
from edge_mnist.session import open_session, provider_of, run_session

if TYPE_CHECKING:
    import onnxruntime

CHUNK_IMAGES = 64  # per image the fastest batch on a CPU; larger ones leave its cache
READ_AHEAD = 256  # pictures in memory at once in predict_many
# Reading a picture of 28 x 28 takes 0.1 ms and two threads make that 1.4 times slower, since most
# of it holds Python's lock; at 200 x 200, 7 ms, they are 0.9 times and at 1000 x 1000 0.7 times.
THREADS_PAY_S = 0.005


@dataclass(frozen=True)
class Prediction:
    """What the model sees in one picture.

    Attributes:
        status: ``ok``; ``rejected`` if the picture shows no single digit; ``error`` if it cannot
            be read.
        digit: The predicted class; None unless ok.
        name: What that class is called, for MNIST the digit itself; None unless ok.
        confidence: Probability of the likeliest class, 0..1; None on error.
        probabilities: One for each class; they sum to 1. None on error.
        reason: Why it was rejected; None unless rejected.
        error: Why it cannot be read; None unless error.
        provider: The provider that really ran, ``cpu`` or ``cuda``.
        image: What the model saw, shape (28, 28), uint8; None on error.
    """

    status: str
    digit: int | None
    name: str | None
    confidence: float | None
    probabilities: tuple[float, ...] | None
    reason: str | None
    error: str | None
    provider: str
    image: NDArray[np.uint8] | None


@dataclass(frozen=True)
class _Chunk:
    """Some pictures, read, and the processor time that one of them took on average."""

    inputs: list[ModelInput | PictureError]
    picture_s: float


@dataclass(frozen=True)
class _Answers:
    """What is seen in a chunk, and its ``picture_s``."""

    predictions: list[Prediction]
    picture_s: float


class Predictor:
    """Reads digits with one model file; may be shared by threads, pickled, and used after fork.

    Example:
        >>> from edge_mnist import Predictor
        >>> with Predictor() as predictor:
        ...     predictor.predict("seven.png").digit  # doctest: +SKIP
        7
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile | None = None,
        provider: str | None = None,
        threads: int | None = None,
        *,
        accept_all: bool = False,
    ) -> None:
        """Open a model file.

        Args:
            model: A file, or a folder written by export; see ``modelfile.find_model``. Or a
                model that was read already.
            provider: ``auto``, ``cpu`` or ``cuda``; EDGE_MNIST_PROVIDER or ``auto`` if None.
            threads: Threads within one operator; EDGE_MNIST_THREADS or 1 if None.
            accept_all: Answer with a digit whatever the picture shows.

        Raises:
            ModelError: The file is missing, broken or breaks the contract.
            ProviderError: CUDA was asked for and does not really run.
        """
        self.model = model if isinstance(model, ModelFile) else read_model(find_model(model))
        self.info = check_contract(self.model)
        self._wanted = provider or os.environ.get("EDGE_MNIST_PROVIDER") or "auto"
        self._threads = threads
        self._accept_all = accept_all
        self._session: onnxruntime.InferenceSession | None = None
        self._process = 0
        self.provider = provider_of(self.session)

    @property
    def session(self) -> "onnxruntime.InferenceSession":
        """The open session; opened anew in a process that was forked off."""
        if self._session is None or self._process != os.getpid():
            self._session = open_session(
                self.model.content, provider=self._wanted, threads=self._threads
            )
            self._process = os.getpid()
        return self._session

    def __enter__(self) -> Self:
        """Return the predictor itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the session."""
        self.close()

    def close(self) -> None:
        """Let go of the session; the next prediction would open it anew."""
        self._session = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session out of a pickle."""
        return self.__dict__ | {"_session": None}

    def predict(self, picture: Picture) -> Prediction:
        """Read the digit in one picture.

        Args:
            picture: A path, bytes, an open binary file, a PIL image or an array; see
                ``picture.reading.read_picture``.

        Raises:
            PictureError: The picture cannot be read.
        """
        return self._answer([read_picture(picture, framing=self.info.framing)])[0]

    def predict_many(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        """Read the digits in many pictures, on all cores where that pays, in order, as they come.

        A picture that cannot be read gives a prediction with status ``error``. At most
        ``READ_AHEAD`` pictures are in memory at once.
        """
        waiting: deque[Future[_Answers]] = deque()
        picture_s = 0.0
        with ThreadPoolExecutor(count_cores()) as pool:
            for chunk in _split(pictures):
                use_threads = picture_s > THREADS_PAY_S
                if use_threads:
                    waiting.append(pool.submit(self._predict_chunk, chunk))
                else:  # the session needs no lock: it runs while the next chunk is read here
                    waiting.append(pool.submit(self._answer_chunk, self._read_chunk(chunk)))
                while len(waiting) >= (READ_AHEAD // CHUNK_IMAGES if use_threads else 2):
                    answers = waiting.popleft().result()
                    picture_s = answers.picture_s
                    yield from answers.predictions
            for future in waiting:
                yield from future.result().predictions

    def predict_images(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classify many images; none is rejected.

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

    def _predict_chunk(self, pictures: list[Picture]) -> _Answers:
        return self._answer_chunk(self._read_chunk(pictures))

    def _read_chunk(self, pictures: list[Picture]) -> _Chunk:
        start = time.thread_time()
        inputs = [_read_or_error(picture, self.info.framing) for picture in pictures]
        return _Chunk(inputs, (time.thread_time() - start) / len(pictures))

    def _answer_chunk(self, chunk: _Chunk) -> _Answers:
        readable = [
            model_input for model_input in chunk.inputs if isinstance(model_input, ModelInput)
        ]
        answers = iter(self._answer(readable) if readable else [])
        predictions = [
            next(answers) if isinstance(model_input, ModelInput) else self._error(model_input)
            for model_input in chunk.inputs
        ]
        return _Answers(predictions, chunk.picture_s)

    def _answer(self, inputs: list[ModelInput]) -> list[Prediction]:
        """Classify what was read of several pictures, as one batch."""
        images = np.stack([model_input.image for model_input in inputs])
        labels, probabilities = self.predict_images(images)
        rows = zip(inputs, labels.tolist(), probabilities.tolist(), strict=True)
        return [self._judge(model_input, label, row) for model_input, label, row in rows]

    def _judge(self, model_input: ModelInput, label: int, probabilities: list[float]) -> Prediction:
        confidence, reason = probabilities[label], model_input.reason
        if reason is None and confidence < self.info.rejection_threshold:
            reason = "not a digit"
        if self._accept_all:
            reason = None
        return Prediction(
            status="rejected" if reason else "ok",
            digit=None if reason else label,
            name=None if reason else self.info.class_names[label],
            confidence=confidence,
            probabilities=tuple(probabilities),
            reason=reason,
            error=None,
            provider=self.provider,
            image=model_input.image,
        )

    def _error(self, error: PictureError) -> Prediction:
        nothing = (None, None, None, None, None)
        return Prediction("error", *nothing, str(error), self.provider, None)

    def _run(self, output: str, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
            raise UsageError(f"want uint8 images (N, 28, 28), got {images.dtype} {images.shape}")
        session = self.session
        chunks = [
            run_session(session, output, images[start : start + batch_size])
            for start in range(0, len(images), batch_size)
        ]
        if len(chunks) == 1:
            return chunks[0]
        empty = np.empty((0, len(self.info.class_names)), np.float32)
        return np.concatenate(chunks) if chunks else empty


def _split(pictures: Iterable[Picture]) -> Iterator[list[Picture]]:
    rest = iter(pictures)
    while chunk := list(itertools.islice(rest, CHUNK_IMAGES)):
        yield chunk


def _read_or_error(picture: Picture, framing: str) -> ModelInput | PictureError:
    try:
        return read_picture(picture, framing=framing)
    except PictureError as error:
        return error
