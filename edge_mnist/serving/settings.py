"""What a server serves, to whom, and within which limits."""

import re
from dataclasses import dataclass, field

from edge_mnist.errors import UsageError

KEY_VARIABLE = "EDGE_MNIST_API_KEY"


@dataclass(frozen=True)
class Settings:
    """The settings of a server; limits are those of one request, or of one worker."""

    model: str | None = None  # file, folder or released model; see model_file.find_model
    provider: str | None = None  # auto, cpu or cuda; None for the environment's
    accept_all: bool = False  # answer with a digit whatever the picture shows
    workers: int = 1  # processes that share the port
    allow_origins: tuple[str, ...] = ()  # whose pages may send requests: https://app.example
    allow_hosts: tuple[str, ...] = ()  # names of this server, besides addresses and localhost
    key: str | None = field(default=None, repr=False)  # that a request needs
    max_bytes: int = 16_000_000  # of a request's body
    max_pixels: int = 64_000_000  # of all pictures of a request
    max_pictures: int = 64  # in a request
    max_queue: int = 1024  # pictures of all requests that wait or are read, in one worker
    max_connections: int = 500  # open at once, in one worker
    timeout_s: float = 10.0  # for a request's body to arrive, and again for its answer

    def __post_init__(self) -> None:
        """Raise UsageError if values contradict each other, or cannot be used."""
        if self.max_queue < self.max_pictures:
            raise UsageError(
                f"--max-queue {self.max_queue} is less than --max-pictures {self.max_pictures}"
            )
        if self.key is not None and not re.fullmatch(r"[!-~]+", self.key):
            raise UsageError(f"{KEY_VARIABLE}: expected printable ASCII characters, no spaces")
        for origin in self.allow_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
                raise UsageError(f"--allow-origin: expected https://app.example, got {origin}")
