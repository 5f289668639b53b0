"""The engine of one process: reads and classifies the pictures of all requests.

With the compiled reader a tiny picture takes a tenth of a millisecond, less than handing it to a
thread and back, so those that arrive together run as one batch on the event loop. All others are
read in threads, so that a health check is answered within milliseconds whatever is read meanwhile:
small ones in one thread, large ones in others, else a small picture would wait behind a photo.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from edge_mnist.machine import count_cores
from edge_mnist.picture.decode import count_pixels
from edge_mnist.predictor import Prediction, Predictor
from edge_mnist.serving.metrics import Metrics
from edge_mnist.serving.settings import Settings

SMALL_PIXELS = 28 * 28
SMALL_BYTES = 4096  # a larger file may hold thousands of chunks in front of its header
LOOP_BYTES = 1024  # a larger file may inflate to more than a megabyte
LOOP_BATCH = 8  # on the event loop: a millisecond at most

Result = TypeVar("Result")


class Engine:
    """Reads the pictures of all requests of one process.

    Attributes:
        predictor: The open model.
        settings: Limits, of which its methods raise ``HTTPException`` where one is exceeded.
        metrics: Where it counts.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Open the model, and create the threads; raises what ``Predictor`` raises."""
        self.predictor = Predictor(
            settings.model, settings.provider, accept_all=settings.accept_all
        )
        self.settings, self.metrics = settings, metrics
        self._n_waiting = 0
        is_fast = self.predictor.reader == "compiled"
        self._loop_pixels = min(SMALL_PIXELS, settings.max_pixels) if is_fast else -1
        self._pending: list[tuple[bytes, asyncio.Future[Prediction]]] = []
        self._small = ThreadPoolExecutor(1, thread_name_prefix="small")
        threads = max(1, count_cores() // settings.workers)
        self._large = ThreadPoolExecutor(threads, thread_name_prefix="large")

    def close(self) -> None:
        """Stop the threads and release the model."""
        for pool in (self._small, self._large):
            pool.shutdown(cancel_futures=True)
        self.predictor.close()

    def describe(self) -> dict[str, str]:
        """Return which model runs, on what, and what reads the pictures.

        The model's folder does not concern a client.
        """
        predictor = self.predictor
        return {
            "model": predictor.model.path.name,
            "model_sha256": predictor.model.sha256,
            "provider": predictor.provider,
            "reader": predictor.reader,
        }

    def check(self) -> None:
        """Run one image through the model, here: it takes 0.2 ms, and waits behind no picture."""
        try:
            self.predictor.predict_images(np.zeros((1, 28, 28), np.uint8))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise HTTPException(503, f"the model does not run: {error}") from error

    async def predict(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """Read the digits in the pictures of one request, each the content of a file."""
        n_bytes = max(map(len, pictures))
        is_alone = len(pictures) == 1 and n_bytes <= LOOP_BYTES
        if is_alone and count_pixels(pictures[0]) <= self._loop_pixels:
            return [await self._predict_soon(pictures[0])]
        read = self.predictor.predict_batch
        async with self._admit(len(pictures)):
            pool = self._small if n_bytes <= SMALL_BYTES else self._large
            counts: list[int] = await self.run(list, map(count_pixels, pictures), pool=pool)
            if sum(counts) > self.settings.max_pixels:
                raise HTTPException(413, f"more than {self.settings.max_pixels:,} pixels")
            if n_bytes <= SMALL_BYTES and max(counts) <= SMALL_PIXELS:
                self.metrics.batches.observe(len(pictures))
                return await self.run(read, pictures)
            jobs = [self.run(read, [one], pool=self._large) for one in pictures]
            return [prediction for (prediction,) in await asyncio.gather(*jobs)]

    async def classify(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities of images, shape (N, 28, 28), from one run."""
        async with self._admit(len(images)):
            return await self.run(self.predictor.compute_outputs, images)

    async def run(
        self,
        function: Callable[..., Result],
        *args: object,
        pool: ThreadPoolExecutor | None = None,
    ) -> Result:
        """Run a function that may take more than a millisecond in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool or self._small, function, *args)

    @asynccontextmanager
    async def _admit(self, n_pictures: int) -> AsyncIterator[None]:
        """Count pictures as waiting, and limit how many wait and for how long."""
        limit_s, most = self.settings.timeout_s, self.settings.max_queue
        if self._n_waiting + n_pictures > most:
            raise HTTPException(429, f"more than {most} pictures wait already")
        self._n_waiting += n_pictures
        self.metrics.waiting.set(self._n_waiting)
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise HTTPException(503, f"the answer took longer than {limit_s:g} s") from None
        finally:
            self._n_waiting -= n_pictures
            self.metrics.waiting.set(self._n_waiting)

    def _predict_soon(self, picture: bytes) -> asyncio.Future[Prediction]:
        """Read a tiny picture together with those that this turn of the event loop brings.

        Where each request read its own, server and decoder displaced each other's code from the
        processor's cache, and reading took nearly twice as long.
        """
        loop = asyncio.get_running_loop()
        if not self._pending:
            loop.call_soon(self._predict_pending, loop)
        answer: asyncio.Future[Prediction] = loop.create_future()
        self._pending.append((picture, answer))
        return answer

    def _predict_pending(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._pending = self._pending[:LOOP_BATCH], self._pending[LOOP_BATCH:]
        if self._pending:
            loop.call_soon(self._predict_pending, loop)
        waiting = [(picture, answer) for picture, answer in batch if not answer.done()]
        self.metrics.batches.observe(len(waiting))
        try:
            predictions = self.predictor.predict_batch([picture for picture, _ in waiting])
        except Exception as error:  # must reach those who wait
            for _, answer in waiting:
                answer.set_exception(error)
        else:
            for (_, answer), prediction in zip(waiting, predictions, strict=True):
                answer.set_result(prediction)
