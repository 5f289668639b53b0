"""The access log: one line of JSON on stderr for each request."""

import asyncio
import json
import sys
import time
from typing import TextIO

FLUSH_S = 0.2
MAX_LINES = 20_000  # held while stderr takes none; then lines are dropped, and counted


class AccessLog:
    """Collects lines and writes them together, in a thread: a full pipe stops nobody."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to a stream, stderr if None."""
        self._stream = stream or sys.stderr
        self._lines: list[str] = []
        self._n_dropped = 0
        self._flushing = False

    def add(self, line: str) -> None:
        """Add a line, JSON without an end."""
        if len(self._lines) >= MAX_LINES:
            self._n_dropped += 1
            return
        self._lines.append(line)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._start_flush)

    def close(self) -> None:
        """Write what is left."""
        self._write(self._take())

    def _start_flush(self) -> None:
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, self._write, self._take())
        writing.add_done_callback(self._end_flush)

    def _end_flush(self, _: asyncio.Future[None]) -> None:
        self._flushing = False
        if self._lines:
            self._flushing = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._start_flush)

    def _take(self) -> str:
        lines, self._lines = self._lines, []
        if self._n_dropped:
            lines.append(json.dumps({"time": round(time.time(), 3), "dropped": self._n_dropped}))
            self._n_dropped = 0
        return "".join(line + "\n" for line in lines)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads stderr any more
            return
