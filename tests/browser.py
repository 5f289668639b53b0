"""What the drivers of both browsers have in common."""

import time
from pathlib import Path
from typing import Any, Self

WAIT_S = 60.0


class Browser:
    """A headless browser, of which one tab is used; a context manager that ends it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        raise NotImplementedError

    def open(self, address: str) -> None:
        """Load a page."""
        raise NotImplementedError

    def run(self, script: str) -> Any:
        """Evaluate JavaScript in the page, wait for its promise, and return the value."""
        raise NotImplementedError

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into an input, as a user's choice does."""
        raise NotImplementedError

    def wait_for(self, script: str, *, within_s: float = WAIT_S) -> Any:
        """Wait until JavaScript gives something true, and return it."""
        end = time.monotonic() + within_s
        while not (value := self.run(script)):
            assert time.monotonic() < end, script
            time.sleep(0.02)
        return value
