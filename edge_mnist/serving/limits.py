"""What a request may cost, and the answer to one that would cost more."""

from dataclasses import dataclass

from edge_mnist.errors import UsageError

SMALL_BODY = 65_536  # bytes; uvicorn reads no further than this before it is asked to
RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Limits:
    """What one request, and all requests of one worker together, may cost.

    Attributes:
        max_bytes: Of the body of a request.
        max_pixels: Of all pictures of a request together.
        max_pictures: In a request.
        max_queue: Pictures of all requests that wait to be read, in one worker.
        max_connections: Open at once, in one worker.
        read_s: Seconds for the head of a request to arrive, and again for its body.
        answer_s: Seconds from a whole request to its answer.
    """

    max_bytes: int = 16_000_000
    max_pixels: int = 64_000_000
    max_pictures: int = 64
    max_queue: int = 1024
    max_connections: int = 500
    read_s: float = 10.0
    answer_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse a queue that some allowed request would never fit into."""
        if self.max_queue < self.max_pictures:
            raise UsageError(
                f"--max-queue {self.max_queue} is less than --max-pictures {self.max_pictures}"
            )

    @property
    def max_held_bytes(self) -> int:
        """Bytes of all large bodies that are in memory at once; small ones always fit."""
        return 4 * self.max_bytes


class RefusedError(Exception):
    """An answer that is an error: its status code and one line that says why."""

    def __init__(self, status: int, reason: str) -> None:
        """Refuse with a status code, for a reason."""
        super().__init__(reason)
        self.status = status
        self.reason = reason


class ClientGoneError(Exception):
    """Whoever asked has hung up: nobody waits for an answer."""
