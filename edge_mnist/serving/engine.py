"""The engine of one process: reads and classifies the pictures of all requests.

A tiny picture takes a tenth of a millisecond, less than handing it to a thread and back, so it is
read on the event loop; without the compiled reader only one that has the form of an MNIST image
already. Those that arrive together are classified as one batch. All others are read in threads, so
that a health check is answered within milliseconds whatever is read meanwhile: small ones in one
thread, large ones in others, else a small picture would wait behind a photo.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from edge_mnist.picture import ModelInput, choose_reader, read_picture
from edge_mnist.picture.decode import count_pixels, to_grey
from edge_mnist.picture.digit import find_mnist_image
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
        self._is_compiled = choose_reader() == "compiled"
        # NumPy's reader is fast where it recognises MNIST's form, which "whole" does not look for.
        is_fast = self._is_compiled or predictor.info.framing != "whole"
        self._loop_pixels = min(SMALL_PIXELS, settings.max_pixels) if is_fast else -1
        self._pending: list[tuple[bytes, asyncio.Future[Prediction | None]]] = []
        self._small = ThreadPoolExecutor(1, thread_name_prefix="small")
        self._large = ThreadPoolExecutor(threads, thread_name_prefix="large")

    def close(self) -> None:
        """Stop the threads and release the model."""
        for pool in (self._small, self._large):
            pool.shutdown(cancel_futures=True)
        self.predictor.close()

    async def predict(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """Read the digits in the pictures of one request, each the content of a file."""
        if len(pictures) == 1 and self._is_tiny(pictures[0]):
            prediction = await self._predict_soon(pictures[0])
            if prediction:
                return [prediction]
        async with self._admit(len(pictures)):
            are_small = all(len(one) <= SMALL_BYTES for one in pictures)
            pool = self._small if are_small else self._large
            counts: list[int] = await self.run(list, map(count_pixels, pictures), pool=pool)
            if sum(counts) > self._settings.max_pixels:
                raise HTTPException(413, f"more than {self._settings.max_pixels:,} pixels")
            predict = self.predictor.predict_batch
            if are_small and max(counts) <= SMALL_PIXELS:
                self._metrics.batches.observe(len(pictures))
                return await self.run(predict, pictures, pool=pool)
            answers = await asyncio.gather(*(self.run(predict, [one]) for one in pictures))
            return [answer for (answer,) in answers]

    async def classify(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities of images, shape (N, 28, 28), from one run."""
        async with self._admit(len(images)):
            return await self.run(self.predictor.compute_outputs, images, pool=self._small)

    async def run(
        self,
        function: Callable[..., Result],
        *args: object,
        pool: ThreadPoolExecutor | None = None,
    ) -> Result:
        """Run a function that may take more than a millisecond in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool or self._large, function, *args)

    @asynccontextmanager
    async def _admit(self, n_pictures: int) -> AsyncIterator[None]:
        """Count pictures as waiting, and limit how many wait and for how long."""
        limit_s = self._settings.timeout_s
        if self._n_waiting + n_pictures > self._settings.max_queue:
            raise HTTPException(429, f"more than {self._settings.max_queue} pictures wait already")
        self._n_waiting += n_pictures
        self._metrics.waiting.set(self._n_waiting)
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            raise HTTPException(503, f"the answer took longer than {limit_s:g} s") from None
        finally:
            self._n_waiting -= n_pictures
            self._metrics.waiting.set(self._n_waiting)

    def _is_tiny(self, picture: bytes) -> bool:
        return len(picture) <= LOOP_BYTES and count_pixels(picture) <= self._loop_pixels

    def _predict_soon(self, picture: bytes) -> asyncio.Future[Prediction | None]:
        """Read a tiny picture on the event loop; one that takes longer there gives None."""
        loop = asyncio.get_running_loop()
        if not self._pending:
            loop.call_soon(self._predict_pending)  # after all that this turn of the loop brings
        answer: asyncio.Future[Prediction | None] = loop.create_future()
        self._pending.append((picture, answer))
        return answer

    def _predict_pending(self) -> None:
        batch, self._pending = self._pending[:LOOP_BATCH], self._pending[LOOP_BATCH:]
        if self._pending:
            asyncio.get_running_loop().call_soon(self._predict_pending)
        # Read one after the other: where each request read its own, server and decoder displaced
        # each other's code from the processor's cache, and reading took nearly twice as long.
        inputs, answers = [], []
        for picture, answer in batch:
            model_input = self._read_fast(picture)
            if answer.cancelled():
                continue
            if model_input is None:
                answer.set_result(None)
            else:
                inputs.append(model_input)
                answers.append(answer)
        if inputs:
            self._classify_now(inputs, answers)

    def _read_fast(self, picture: bytes) -> ModelInput | None:
        """Read a tiny picture, or return None where that fails or is left to a thread."""
        with suppress(Exception):  # a thread reads it again, and the error is that request's own
            if self._is_compiled:
                return read_picture(picture, framing=self.predictor.info.framing)
            image = find_mnist_image(to_grey(picture))
            return None if image is None else ModelInput(image)
        return None

    def _classify_now(
        self, inputs: list[ModelInput], answers: list[asyncio.Future[Prediction | None]]
    ) -> None:
        self._metrics.batches.observe(len(inputs))
        try:
            predictions = self.predictor.predict_inputs(inputs)
        except Exception as error:  # must reach those who wait
            for answer in answers:
                answer.set_exception(error)
            return
        for answer, prediction in zip(answers, predictions, strict=True):
            answer.set_result(prediction)
