"""The predictor: a model file, opened once, that reads digits."""

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import PictureError, UsageError, check_integer
from edge_mnist.machine import count_cores
from edge_mnist.model_file import OUTPUTS, ModelFile, check_contract, find_model, read_model
from edge_mnist.picture import ModelInput, choose_reader, read_picture
from edge_mnist.picture.decode import Picture
from edge_mnist.session import open_session, provider_of, run_session

if TYPE_CHECKING:
    import onnxruntime

CHUNK_IMAGES = 64  # the batch with the least time per image on a CPU; larger ones leave its cache
READ_AHEAD = 256  # pictures in memory at once in predict_many
MAX_BATCH_SIZE = 1_000_000
# Reading a picture of 28 x 28 takes 0.1 ms and two threads make that 1.4 times slower, since most
# of it holds Python's lock; at 200 x 200, 7 ms, they are 0.9 times and at 1000 x 1000 0.7 times.
THREADS_PAY_S = 0.005
# predict_many takes no more pictures together than a source gives in this time.
MAX_CHUNK_S = 0.02


n_forks = 0  # that led to this process


def _count_fork() -> None:
    global n_forks
    n_forks += 1


if hasattr(os, "register_at_fork"):  # Windows has no fork
    # Asking for the process id instead, in each prediction, would cost 1 us of the 42 of a run.
    os.register_at_fork(after_in_child=_count_fork)


@dataclass(frozen=True)
class Prediction:
    """What the model reads in one picture.

    Attributes:
        status: ``ok``; ``rejected`` if the picture shows no single digit; ``error`` if it cannot
            be read.
        digit: The predicted class; None unless ok.
        name: The name of that class, for MNIST the digit itself; None unless ok.
        confidence: Probability of the likeliest class, 0..1; None on error.
        probabilities: One for each class; they sum to 1. None on error.
        reason: Why it was rejected; None unless rejected.
        error: Why it cannot be read; None unless error.
        provider: The provider that really ran, ``cpu`` or ``cuda``.
        image: The model's input, shape (28, 28), uint8; None on error. Not part of comparisons.
    """

    status: str
    digit: int | None
    name: str | None
    confidence: float | None
    probabilities: tuple[float, ...] | None
    reason: str | None
    error: str | None
    provider: str
    image: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_error(cls, error: str, provider: str) -> Self:
        """Return the prediction of a picture that cannot be read."""
        return cls("error", None, None, None, None, None, error, provider)

    def to_dict(self, class_names: Sequence[str], *, top_k: int | None = None) -> dict[str, Any]:
        """Return the prediction for JSON.

        Args:
            class_names: The name of each class.
            top_k: Add the classes with the largest probabilities, in order, as ``top``.

        Raises:
            UsageError: ``top_k`` is no integer of 1 or more.
        """
        if top_k is not None:
            check_integer("top_k", top_k, 1, sys.maxsize)
        if self.error:
            return {"status": self.status, "error": self.error}
        known: dict[str, Any] = {"status": self.status}
        if self.reason:
            known["reason"] = self.reason
        else:
            known |= {"digit": self.digit, "name": self.name}
        known |= {"confidence": self.confidence, "probabilities": self.probabilities}
        return known | ({"top": self.list_top(class_names, top_k)} if top_k else {})

    def list_top(self, class_names: Sequence[str], k: int) -> list[dict[str, Any]]:
        """List the k classes with the largest probabilities, the largest first."""
        ranked = sorted(enumerate(self.probabilities or ()), key=lambda pair: -pair[1])
        return [
            {"digit": label, "name": class_names[label], "probability": probability}
            for label, probability in ranked[:k]
        ]


@dataclass(frozen=True)
class _Chunk:
    """Model inputs of some pictures, and the processor time that one of them took on average."""

    inputs: list[ModelInput | PictureError]
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
        model: str | os.PathLike[str] | bytes | ModelFile | None = None,
        provider: str | None = None,
        threads: int | None = None,
        *,
        accept_all: bool = False,
        reader: str | None = None,
    ) -> None:
        """Open a model file.

        Args:
            model: A file, a folder written by export, or a released model, ``default``, ``nano`` or
                ``max``; see ``model_file.find_model``. None takes EDGE_MNIST_MODEL, else
                ``default``. Or the content of a model file, or a ``ModelFile``.
            provider: ``auto``, ``cpu`` or ``cuda``; EDGE_MNIST_PROVIDER or ``auto`` if None.
            threads: Threads within one operator; EDGE_MNIST_THREADS or 1 if None.
            accept_all: Answer with a digit whatever the picture shows.
            reader: What reads pictures, ``compiled`` or ``numpy``; None for the compiled one where
                it was built. Their answers are the same.

        Raises:
            ModelError: The file is missing, broken or breaks the contract.
            ProviderError: CUDA was asked for and does not really run.
            UsageError: There is no such provider or reader, or ``threads`` is out of its range.
        """
        self.model = _read_model(model)
        self.info = check_contract(self.model)
        self._given_reader = reader
        choose_reader(reader)
        if provider is None:
            provider = os.environ.get("EDGE_MNIST_PROVIDER") or "auto"
        self._asked_provider = provider
        self._threads = threads
        self._accept_all = accept_all
        self._session: onnxruntime.InferenceSession | None = None
        self._n_forks = 0
        self.provider = provider_of(self.session)

    @property
    def session(self) -> "onnxruntime.InferenceSession":
        """The open session; opened anew in a forked process."""
        if self._session is None or self._n_forks != n_forks:
            self._session = open_session(
                self.model.content, provider=self._asked_provider, threads=self._threads
            )
            self._n_forks = n_forks
            self.provider = provider_of(self._session)
        return self._session

    @property
    def reader(self) -> str:
        """What reads pictures on this machine, ``compiled`` or ``numpy``."""
        return choose_reader(self._given_reader)

    def describe(self) -> dict[str, str]:
        """Return which model this is, on what it runs, and what reads pictures, for reports."""
        return {
            "model": str(self.model.path),
            "model_sha256": self.model.sha256,
            "provider": self.provider,
            "reader": self.reader,
        }

    def __enter__(self) -> Self:
        """Return the predictor itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the session."""
        self.close()

    def close(self) -> None:
        """Release the session; the next prediction would open it anew."""
        self._session = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session out of a pickle."""
        return self.__dict__ | {"_session": None}

    def predict(self, picture: Picture) -> Prediction:
        """Read the digit in one picture.

        Args:
            picture: A path, bytes, an open binary file, a PIL image, an array, a tensor or nested
                lists; see ``edge_mnist.picture.read_picture``.

        Raises:
            PictureError: The picture cannot be read.
        """
        return self.predict_inputs([self._read(picture)])[0]

    def predict_batch(self, pictures: Iterable[Picture]) -> list[Prediction]:
        """Read the digits in some pictures as one batch, in the calling thread.

        A picture that cannot be read gives a prediction with status ``error``.

        Raises:
            UsageError: ``pictures`` is one picture, or nothing that can be iterated over.
        """
        _check_several(pictures)
        return self._predict_chunk(self._read_chunk(list(pictures)))

    def predict_many(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        """Read the digits in many pictures, in order, on all cores where that pays.

        A picture that cannot be read gives a prediction with status ``error``. At most
        ``READ_AHEAD`` pictures are in memory at once. A source that is slower than the predictor,
        such as a camera, gets each answer before its next picture is asked for.

        Raises:
            UsageError: ``pictures`` is one picture, or nothing that can be iterated over.
        """
        _check_several(pictures)
        source, size = iter(pictures), 1  # the first answer does not wait for a second picture
        pending: deque[Future[list[Prediction]]] = deque()
        picture_s = 0.0  # processor time to read one picture, as last measured

        def read_and_predict(chunk: Sequence[Picture]) -> list[Prediction]:
            nonlocal picture_s
            inputs = self._read_chunk(chunk)
            picture_s = inputs.picture_s
            return self._predict_chunk(inputs)

        with ThreadPoolExecutor(count_cores()) as pool:
            while True:
                chunk, source_s = _take(source, size)
                if not chunk:
                    break
                if picture_s > THREADS_PAY_S:
                    pending.append(pool.submit(read_and_predict, chunk))
                    limit = READ_AHEAD // CHUNK_IMAGES
                else:  # the session releases the lock: it runs while the next chunk is read here
                    inputs = self._read_chunk(chunk)
                    picture_s = inputs.picture_s
                    pending.append(pool.submit(self._predict_chunk, inputs))
                    limit = 2
                is_slow = source_s > 2 * picture_s
                if is_slow or size == 1:
                    limit = 1
                while len(pending) >= limit:
                    yield from pending.popleft().result()
                size = 1 if is_slow else min(2 * size, CHUNK_IMAGES)
            for future in pending:
                yield from future.result()

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
        """Return the logits of many images, shape (N, classes), float32; see ``predict_images``.

        Raises:
            UsageError: ``images`` has another shape or type, or ``batch_size`` is out of its range.
        """
        check_integer("batch_size", batch_size, 1, MAX_BATCH_SIZE)
        return self._run("logits", images, batch_size)

    def compute_outputs(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities, each of shape (N, classes), from one run of the model.

        Args:
            images: Shape (N, 28, 28), uint8, N at least 1; see ``predict_images``.

        Raises:
            UsageError: ``images`` has another shape or type, or holds no image.
        """
        _check_images(images)
        if not len(images):
            raise UsageError("expected one image or more, got none")
        session = self.session
        batches = [
            session.run(list(OUTPUTS), {"images": images[start : start + CHUNK_IMAGES]})
            for start in range(0, len(images), CHUNK_IMAGES)
        ]
        logits, probabilities = zip(*batches, strict=True)
        return np.concatenate(logits), np.concatenate(probabilities)

    def _read(self, picture: Picture) -> ModelInput:
        return read_picture(picture, framing=self.info.framing, reader=self.reader)

    def _read_or_error(self, picture: Picture) -> ModelInput | PictureError:
        try:
            return self._read(picture)
        except PictureError as error:
            return error

    def _read_chunk(self, pictures: Sequence[Picture]) -> _Chunk:
        start = time.thread_time()
        inputs = [self._read_or_error(picture) for picture in pictures]
        return _Chunk(inputs, (time.thread_time() - start) / max(1, len(pictures)))

    def _predict_chunk(self, chunk: _Chunk) -> list[Prediction]:
        readable = [one for one in chunk.inputs if isinstance(one, ModelInput)]
        answers = iter(self.predict_inputs(readable) if readable else [])
        return [
            next(answers)
            if isinstance(one, ModelInput)
            else Prediction.from_error(str(one), self.provider)
            for one in chunk.inputs
        ]

    def predict_inputs(self, inputs: Sequence[ModelInput]) -> list[Prediction]:
        """Read the digits in pictures that ``read_picture`` has read, as one batch."""
        images = np.array([one.image for one in inputs], np.uint8).reshape(-1, 28, 28)
        labels, probabilities = self.predict_images(images)
        rows = zip(inputs, labels.tolist(), probabilities.tolist(), strict=True)
        return [self._to_prediction(one, label, row) for one, label, row in rows]

    def _to_prediction(
        self, model_input: ModelInput, label: int, probabilities: list[float]
    ) -> Prediction:
        confidence, reason = probabilities[label], model_input.reason
        if reason is None and not confidence >= self.info.rejection_threshold:  # NaN is rejected
            reason = "not a digit" if self.info.framing == "digit" else "none of the classes"
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

    def _run(self, output: str, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        _check_images(images)
        session, provider, n_images = self.session, self.provider, len(images)
        if 1 <= n_images <= batch_size:
            return run_session(session, output, images, provider)
        if not n_images:
            return np.empty((0, len(self.info.class_names)), np.float32)
        batches = [
            run_session(session, output, images[start : start + batch_size], provider)
            for start in range(0, n_images, batch_size)
        ]
        return np.concatenate(batches)


def _read_model(model: str | os.PathLike[str] | bytes | ModelFile | None) -> ModelFile:
    """Return the model file that ``Predictor`` is given."""
    if isinstance(model, ModelFile):
        return model
    if isinstance(model, bytes | bytearray | memoryview):
        return ModelFile(Path("<bytes>"), bytes(model))
    if model is not None and not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"expected a model's name, path or bytes, or a ModelFile, got {type(model).__name__}"
        )
    return read_model(find_model(model))


def _check_several(pictures: Iterable[Picture]) -> None:
    """Refuse one picture where several are expected: its characters would be taken for pictures.

    Raises:
        UsageError: It is a path, the bytes of a picture, an open file, or not iterable.
    """
    is_one = isinstance(pictures, str | os.PathLike | bytes | bytearray | memoryview)
    if is_one or hasattr(pictures, "read") or not hasattr(pictures, "__iter__"):
        raise UsageError(
            f"expected several pictures, got one {type(pictures).__name__}: use predict, or a list"
        )


def _check_images(images: NDArray[np.uint8]) -> None:
    if not isinstance(images, np.ndarray):
        raise UsageError(
            f"expected an array (N, 28, 28), uint8, got {type(images).__name__}: "
            "convert it with numpy.asarray"
        )
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise UsageError(
            f"expected images of shape (N, 28, 28), uint8, got {images.shape}, {images.dtype}; "
            "predict and predict_many take other shapes and types"
        )


def _take(source: Iterator[Picture], size: int) -> tuple[list[Picture], float]:
    """Take up to ``size`` pictures; return them and the seconds that one took on average."""
    start, chunk = time.perf_counter(), list[Picture]()
    for picture in source:
        chunk.append(picture)
        if len(chunk) >= size or time.perf_counter() - start > MAX_CHUNK_S:
            break
    return chunk, (time.perf_counter() - start) / max(1, len(chunk))
