"""What a server serves, to whom, and within which limits."""

import re
from dataclasses import dataclass, field

from edge_mnist.errors import UsageError

KEY_VARIABLE = "EDGE_MNIST_API_KEY"


@dataclass(frozen=True)
class Settings:
    """The settings of a server; limits are those of one request, or of one worker.

    Attributes:
        model: Model file, folder or released model; see ``model_file.find_model``.
        provider: ``auto``, ``cpu`` or ``cuda``; None for the environment's.
        accept_all: Answer with a digit whatever the picture shows.
        workers: Processes that share the port.
        allow_origins: Origins whose pages may send requests, as ``https://app.example``.
        allow_hosts: Host names that requests may name, besides IP addresses and ``localhost``.
        key: API key that a request needs; None if it needs none.
        max_bytes: Bytes of a request's body.
        max_pixels: Pixels of all pictures of a request together.
        max_pictures: Pictures in a request.
        max_queue: Pictures of all requests that wait or are read, in one worker.
        max_connections: Connections open at once, in one worker.
        timeout_s: Seconds for a request's body to arrive, and again for its answer.

    Raises:
        UsageError: Some values contradict each other, or cannot be used.
    """

    model: str | None = None
    provider: str | None = None
    accept_all: bool = False
    workers: int = 1
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    max_bytes: int = 16_000_000
    max_pixels: int = 64_000_000
    max_pictures: int = 64
    max_queue: int = 1024
    max_connections: int = 500
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse settings under which some allowed request could never be answered."""
        if self.max_queue < self.max_pictures:
            raise UsageError(
                f"--max-queue {self.max_queue} is less than --max-pictures {self.max_pictures}"
            )
        if self.key is not None and not re.fullmatch(r"[!-~]+", self.key):
            raise UsageError(f"{KEY_VARIABLE}: expected printable ASCII characters, no spaces")
        for origin in self.allow_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
                raise UsageError(f"--allow-origin: expected https://app.example, got {origin}")
