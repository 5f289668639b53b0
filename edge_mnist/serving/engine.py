"""The batching engine: pictures of all requests of one process, read and classified in threads.

The event loop decodes no picture and runs no network for a request, so it answers a health check
within milliseconds whatever is read meanwhile. Small pictures share one thread: those that arrive
while it is busy become its next batch, which divides the cost of handing work to a thread and back;
no picture waits for a batch to fill. Large ones have threads of their own, else a small picture
would wait behind a photo.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from edge_mnist.picture.decode import count_pixels
from edge_mnist.predictor import Prediction, Predictor
from edge_mnist.serving.metrics import Metrics
from edge_mnist.serving.settings import Settings

SMALL_PIXELS = 28 * 28
SMALL_BYTES = 4096  # a larger file may hold thousands of chunks in front of its header
BATCH_PICTURES = 16

Result = TypeVar("Result")
Answer = asyncio.Future[Prediction]


class Engine:
    """Reads the pictures of all requests of one process.

    Attributes:
        predictor: The open model.

    Its methods raise ``HTTPException`` where limits are exceeded.
    """

    def __init__(
        self, predictor: Predictor, settings: Settings, metrics: Metrics, *, threads: int
    ) -> None:
        """Create the threads: one for small pictures, and some for large ones."""
        self.predictor = predictor
        self._settings = settings
        self._metrics = metrics
        self._n_waiting = 0
        self._pending: deque[tuple[bytes, Answer]] = deque()
        self._batches: asyncio.Task[None] | None = None
        self._small = ThreadPoolExecutor(1, thread_name_prefix="small")
        self._large = ThreadPoolExecutor(threads, thread_name_prefix="large")

    def close(self) -> None:
        """Stop the threads and release the model."""
        for pool in (self._small, self._large):
            pool.shutdown(cancel_futures=True)
        self.predictor.close()

    async def predict(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """Read the digits in the pictures of one request, each the content of a file."""
        async with self._admit(len(pictures)):
            is_small = all(len(one) <= SMALL_BYTES for one in pictures)
            counts = _count_each(pictures) if is_small else await self.run(_count_each, pictures)
            if sum(counts) > self._settings.max_pixels:
                raise HTTPException(413, f"more than {self._settings.max_pixels:,} pixels")
            answers = [
                self._read_small(one)
                if count <= SMALL_PIXELS and len(one) <= SMALL_BYTES
                else self._read_large(one)
                for one, count in zip(pictures, counts, strict=True)
            ]
            return [await answers[0]] if len(answers) == 1 else await asyncio.gather(*answers)

    async def classify(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities of images, shape (N, 28, 28), from one run."""
        async with self._admit(len(images)):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._small, self.predictor.compute_outputs, images)

    async def run(self, function: Callable[..., Result], *args: object) -> Result:
        """Run a function that may take more than a millisecond in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._large, function, *args)

    @asynccontextmanager
    async def _admit(self, n_pictures: int) -> AsyncIterator[None]:
        if self._n_waiting + n_pictures > self._settings.max_queue:
            raise HTTPException(429, f"more than {self._settings.max_queue} pictures wait already")
        self._n_waiting += n_pictures
        self._metrics.waiting.set(self._n_waiting)
        try:
            yield
        finally:
            self._n_waiting -= n_pictures
            self._metrics.waiting.set(self._n_waiting)

    def _read_large(self, picture: bytes) -> Answer:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._large, _read_one, self.predictor, picture)

    def _read_small(self, picture: bytes) -> Answer:
        answer: Answer = asyncio.get_running_loop().create_future()
        self._pending.append((picture, answer))
        if self._batches is None:  # a task starts after all that this turn of the loop brings
            self._batches = asyncio.create_task(self._run_batches())
        return answer

    async def _run_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            n_now = min(len(self._pending), BATCH_PICTURES)
            batch = [self._pending.popleft() for _ in range(n_now)]
            batch = [pair for pair in batch if not pair[1].done()]  # its request was cancelled
            self._metrics.batches.observe(len(batch))
            try:
                pictures = [picture for picture, _ in batch]
                predict = self.predictor.predict_batch
                predictions = await loop.run_in_executor(self._small, predict, pictures)
            except Exception as error:  # must reach those who wait
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), prediction in zip(batch, predictions, strict=True):
                if not answer.done():
                    answer.set_result(prediction)
        self._batches = None


def _count_each(pictures: Sequence[bytes]) -> list[int]:
    return list(map(count_pixels, pictures))


def _read_one(predictor: Predictor, picture: bytes) -> Prediction:
    return predictor.predict_batch([picture])[0]
