"""Running pictures: small ones together as they arrive, large ones in threads.

Reading a picture of 28 x 28 takes 0.1 ms, and handing it to a thread and back half as long again,
so small ones are read where requests arrive. All that arrived in one turn of the event loop run as
one batch; nothing waits for a batch to fill. A larger picture takes milliseconds to a second, and
would stop everybody else: it goes to a thread.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_mnist.picture.decode import Picture, open_picture
from edge_mnist.predictor import Prediction, Predictor
from edge_mnist.serving.limits import Limits, RefusedError

SMALL_PIXELS = 28 * 28  # 0.1 to 0.4 ms; at 32 x 32, which is resized, it is 1.2 ms already
SMALL_BYTES = 4096  # a larger file may hide thousands of chunks before its pixels
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # then width and height, four bytes each
BATCH_PICTURES = 16  # then whoever else arrived gets a turn: 1.5 ms, 6 ms at worst

Result = TypeVar("Result")


class BatchPredictor(Predictor):
    """A predictor that reads a few pictures at once without threads of its own."""

    def predict_batch(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """Read a few pictures as one batch; one that cannot be read has status ``error``."""
        return self._predict_chunk(self._read_chunk(pictures))


@dataclass(eq=False)
class _Job:
    """The pictures of one request that run here, and what was seen in them so far."""

    answers: list[Prediction | None]
    n_left: int
    done: asyncio.Future[None]
    deadline: float

    def take(self, place: int, prediction: Prediction) -> None:
        self.answers[place] = prediction
        self.n_left -= 1
        if not self.n_left and not self.done.done():
            self.done.set_result(None)


class Engine:
    """Reads the pictures of all requests of one process.

    Attributes:
        predictor: The open model.
        n_waiting: Pictures that wait to be read, or are read in a thread.
    """

    def __init__(
        self,
        predictor: BatchPredictor,
        limits: Limits,
        *,
        threads: int,
        watch_batch: Callable[[int], None],
        watch_waiting: Callable[[int], None],
    ) -> None:
        """Use a predictor, within limits, and some threads for large pictures.

        Args:
            predictor: An open model.
            limits: How many pictures may wait, and for how long.
            threads: For large pictures.
            watch_batch: Is told the size of every batch.
            watch_waiting: Is told how many pictures wait, whenever some are taken or go to threads.
        """
        self.predictor = predictor
        self.n_waiting = 0
        self._limits = limits
        self._watch_batch = watch_batch
        self._watch_waiting = watch_waiting
        self._waiting: deque[tuple[_Job, int, Picture]] = deque()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="large")

    def close(self) -> None:
        """Let go of the threads and of the model."""
        self._threads.shutdown(cancel_futures=True)
        self.predictor.close()

    async def read_small(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """Read pictures that ``is_small`` calls small, here, with whatever else arrived.

        Raises:
            RefusedError: Too many pictures wait already (429), or these waited too long (503).
        """
        self._check_queue(len(pictures))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.answer_s
        job = _Job([None] * len(pictures), len(pictures), loop.create_future(), deadline)
        if not self._waiting:
            loop.call_soon(self._run_batch, loop)
        self._waiting.extend((job, place, picture) for place, picture in enumerate(pictures))
        self.n_waiting += len(pictures)
        await job.done
        return [answer for answer in job.answers if answer]

    async def read_large(self, pictures: Sequence[bytes]) -> list[Prediction]:
        """Read pictures of any size, in threads.

        Raises:
            RefusedError: Too many pictures wait already (429), these took too long (503), or
                have too many pixels (413).
        """
        async with self._turn(len(pictures)):
            n_pixels = await self.run(_count_all_pixels, pictures)
            if n_pixels > self._limits.max_pixels:
                raise RefusedError(413, f"more than {self._limits.max_pixels:,} pixels")
            # Cancelled, gather takes back what no thread has begun.
            read = (self.run(self.predictor.predict_batch, [one]) for one in pictures)
            return [answer for (answer,) in await asyncio.gather(*read)]

    async def classify(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return logits and probabilities of images, shape (N, 28, 28), in a thread.

        Raises:
            RefusedError: Too many pictures wait already (429), or this took too long (503).
        """
        async with self._turn(len(images)):
            return await self.run(self._classify, images)

    async def run(self, function: Callable[..., Result], *args: object) -> Result:
        """Run something slow in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *args)

    @asynccontextmanager
    async def _turn(self, n_pictures: int) -> AsyncIterator[None]:
        """Count some pictures as waiting while they run in threads, for a limited time."""
        self._check_queue(n_pictures)
        self._count_waiting(n_pictures)
        try:
            async with asyncio.timeout(self._limits.answer_s):
                yield
        except TimeoutError:
            raise self._too_late() from None
        finally:
            self._count_waiting(-n_pictures)

    def _count_waiting(self, change: int) -> None:
        self.n_waiting += change
        self._watch_waiting(self.n_waiting)

    def _classify(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.predictor.compute_logits(images), self.predictor.predict_images(images)[1]

    def _check_queue(self, n_more: int) -> None:
        if self.n_waiting + n_more > self._limits.max_queue:
            raise RefusedError(429, f"more than {self._limits.max_queue} pictures wait already")

    def _too_late(self) -> RefusedError:
        return RefusedError(503, f"not answered within {self._limits.answer_s:g} s")

    def _run_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the pictures that have waited longest."""
        n_now = min(len(self._waiting), BATCH_PICTURES)
        taken = [self._waiting.popleft() for _ in range(n_now)]
        self._count_waiting(-n_now)
        if self._waiting:
            loop.call_soon(self._run_batch, loop)
        now = loop.time()
        batch = [entry for entry in taken if self._is_wanted(entry[0], now)]
        if not batch:
            return
        try:
            predictions = self.predictor.predict_batch([picture for _, _, picture in batch])
        except Exception as error:  # must reach those who wait, not the event loop
            for job, _, _ in batch:
                if not job.done.done():
                    job.done.set_exception(error)
            return
        self._watch_batch(len(batch))
        for (job, place, _), prediction in zip(batch, predictions, strict=True):
            job.take(place, prediction)

    def _is_wanted(self, job: _Job, now: float) -> bool:
        if now > job.deadline and not job.done.done():
            job.done.set_exception(self._too_late())
        return not job.done.done()


def is_small(picture: bytes) -> bool:
    """Tell whether reading a picture takes less time than handing it to a thread is worth."""
    if len(picture) > SMALL_BYTES:
        return False
    if picture.startswith(PNG_START) and picture.count(b"IHDR") == 1:  # a second one would count
        size = int.from_bytes(picture[16:20]) * int.from_bytes(picture[20:24])
        return size <= SMALL_PIXELS  # opening it would take a tenth of the time of reading it
    return count_pixels(picture) <= SMALL_PIXELS


def count_pixels(picture: bytes) -> int:
    """Return how many pixels a picture's header promises; 0 if it is no picture."""
    try:
        image = open_picture(picture)
    except Exception:  # a hostile file makes plugins raise anything; the predictor will say what
        return 0
    return image.width * image.height


def _count_all_pixels(pictures: Sequence[bytes]) -> int:
    return sum(map(count_pixels, pictures))
