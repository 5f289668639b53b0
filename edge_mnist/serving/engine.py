"""The engine of one process: reads and classifies the pictures of all requests.

A picture that has the form of an MNIST image already takes a tenth of a millisecond, less than
handing it to a thread and back, so it is read on the event loop; those that arrive together are
classified as one batch. All others are read in threads, so that a health check is answered within
milliseconds whatever is read meanwhile: small ones in one thread, large ones in others, else a
small picture would wait behind a photo.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import chain, groupby
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from edge_mnist.errors import PictureError
from edge_mnist.picture import ModelInput
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
        is_framed = predictor.info.framing != "whole"
        self._loop_bytes = LOOP_BYTES if is_framed and settings.max_pixels >= SMALL_PIXELS else 0
        self._pending: list[tuple[ModelInput, asyncio.Future[Prediction]]] = []
        self._small = ThreadPoolExecutor(1, thread_name_prefix="small")
        self._large = ThreadPoolExecutor(threads, thread_name_prefix="large")

    def close(self) -> None:
        """Stop the threads and release the model."""
        for pool in (self._small, self._large):
            pool.shutdown(cancel_futures=True)
        self.predictor.close()

    async def predict(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """Read the digits in the pictures of one request, each the content of a file."""
        if len(pictures) == 1 and (model_input := self._read_mnist_image(pictures[0])):
            return [await self._classify_soon(model_input)]
        async with self._admit(len(pictures)):
            are_small = all(len(one) <= SMALL_BYTES for one in pictures)
            pool = self._small if are_small else self._large
            counts = await self.run(_count_each, pictures, pool=pool)
            if sum(counts) > self._settings.max_pixels:
                raise HTTPException(413, f"more than {self._settings.max_pixels:,} pixels")
            batches = []
            pairs = zip(counts, pictures, strict=True)
            for is_small, group in groupby(pairs, key=_is_small):
                some = [picture for _, picture in group]
                if is_small:
                    batches.append(self.run(self._predict_small, some, pool=self._small))
                else:
                    batches += [self.run(self.predictor.predict_batch, [one]) for one in some]
            return list(chain.from_iterable(await asyncio.gather(*batches)))

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

    def _read_mnist_image(self, picture: bytes) -> ModelInput | None:
        """Read a picture that has the form of an MNIST image already, and no other."""
        if len(picture) > self._loop_bytes or count_pixels(picture) != SMALL_PIXELS:
            return None
        try:
            image = find_mnist_image(to_grey(picture))
        except PictureError:
            return None
        return None if image is None else ModelInput(image)

    def _classify_soon(self, model_input: ModelInput) -> asyncio.Future[Prediction]:
        loop = asyncio.get_running_loop()
        if not self._pending:
            loop.call_soon(self._classify_pending)  # after all that this turn of the loop brings
        answer: asyncio.Future[Prediction] = loop.create_future()
        self._pending.append((model_input, answer))
        return answer

    def _classify_pending(self) -> None:
        batch, self._pending = self._pending[:LOOP_BATCH], self._pending[LOOP_BATCH:]
        if self._pending:
            asyncio.get_running_loop().call_soon(self._classify_pending)
        self._metrics.batches.observe(len(batch))
        inputs, answers = zip(*batch, strict=True)
        try:
            predictions = self.predictor.predict_inputs(inputs)
        except Exception as error:  # must reach those who wait
            for answer in answers:
                answer.cancelled() or answer.set_exception(error)
            return
        for answer, prediction in zip(answers, predictions, strict=True):
            answer.cancelled() or answer.set_result(prediction)

    def _predict_small(self, pictures: Sequence[bytes]) -> list[Prediction]:
        self._metrics.batches.observe(len(pictures))
        return self.predictor.predict_batch(pictures)


def _count_each(pictures: Sequence[bytes]) -> list[int]:
    return list(map(count_pixels, pictures))


def _is_small(counted: tuple[int, bytes]) -> bool:
    n_pixels, picture = counted
    return n_pixels <= SMALL_PIXELS and len(picture) <= SMALL_BYTES
