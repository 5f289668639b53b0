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
from starlette.exceptions import HTTPException

from edge_mnist.machine import count_cores
from edge_mnist.picture.decode import count_pixels
from edge_mnist.predictor import Prediction, Predictor
from edge_mnist.serving import metrics
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
        about: What answers tell of it; its folder does not concern a client.
        settings: Limits, of which its methods raise ``HTTPException`` where one is exceeded.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the model, and create the threads; raises what ``Predictor`` raises."""
        self.predictor = Predictor(
            settings.model, settings.provider, accept_all=settings.accept_all
        )
        self.about = self.predictor.describe() | {"model": self.predictor.model.path.name}
        self.settings = settings
        self._n_waiting = 0
        is_fast = self.predictor.reader == "compiled"
        self._loop_pixels = min(SMALL_PIXELS, settings.max_pixels) if is_fast else -1
        self._batch: list[bytes] = []
        self._answers: asyncio.Future[list[Prediction]]
        self._small = ThreadPoolExecutor(1, thread_name_prefix="small")
        threads = max(1, count_cores() // settings.workers)
        self._large = ThreadPoolExecutor(threads, thread_name_prefix="large")

    def check(self) -> None:
        """Run one image through the model, here: it takes 0.2 ms, and waits behind no picture."""
        try:
            self.predictor.predict_images(np.zeros((1, 28, 28), np.uint8))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise HTTPException(503, f"the model does not run: {error}") from error

    async def predict(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """Read the digits in the pictures of one request, each the content of a file."""
        n_bytes = max(map(len, pictures))
        is_alone, is_small = len(pictures) == 1, n_bytes <= SMALL_BYTES
        if is_alone and n_bytes <= LOOP_BYTES and count_pixels(pictures[0]) <= self._loop_pixels:
            return [await self._predict_soon(pictures[0])]
        read = self.predictor.predict_batch
        async with self.admit(len(pictures)):
            counts = await self.run(list[int], map(count_pixels, pictures), is_small=is_small)
            if sum(counts) > self.settings.max_pixels:
                raise HTTPException(413, f"more than {self.settings.max_pixels:,} pixels")
            if is_small and max(counts) <= SMALL_PIXELS:
                metrics.batches.observe(len(pictures))
                return await self.run(read, pictures)
            jobs = [self.run(read, [one], is_small=False) for one in pictures]
            return [prediction for (prediction,) in await asyncio.gather(*jobs)]

    async def run(
        self, function: Callable[..., Result], *args: object, is_small: bool = True
    ) -> Result:
        """Run a function that may take more than a millisecond in a thread."""
        pool = self._small if is_small else self._large
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)

    @asynccontextmanager
    async def admit(self, n_pictures: int) -> AsyncIterator[None]:
        """Count pictures as waiting, and limit how many wait and for how long."""
        limit_s, most = self.settings.timeout_s, self.settings.max_queue
        if self._n_waiting + n_pictures > most:
            raise HTTPException(429, f"more than {most} pictures wait already")
        self._n_waiting += n_pictures
        metrics.waiting.set(self._n_waiting)
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise HTTPException(503, f"the answer took longer than {limit_s:g} s") from None
        finally:
            self._n_waiting -= n_pictures
            metrics.waiting.set(self._n_waiting)

    async def _predict_soon(self, picture: bytes) -> Prediction:
        """Read a tiny picture together with those that this turn of the event loop brings.

        Where each request read its own, server and decoder displaced each other's code from the
        processor's cache, and reading took nearly twice as long.
        """
        if len(self._batch) in (0, LOOP_BATCH):
            loop = asyncio.get_running_loop()
            self._batch, self._answers = [], loop.create_future()
            loop.call_soon(self._predict_batch, self._batch, self._answers)
        place, answers = len(self._batch), self._answers
        self._batch.append(picture)
        return (await answers)[place]

    def _predict_batch(self, batch: list[bytes], answers: asyncio.Future[list[Prediction]]) -> None:
        self._batch = []
        if answers.cancelled():  # the server ends before it has finished
            return
        metrics.batches.observe(len(batch))
        try:
            predictions = self.predictor.predict_batch(batch)
        except Exception as error:  # must reach those who wait
            answers.set_exception(error)
        else:
            answers.set_result(predictions)
