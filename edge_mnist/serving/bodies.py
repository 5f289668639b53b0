"""Reading the body of a request, within limits of bytes, time and memory."""

import asyncio

from starlette.types import Message, Receive, Scope

from edge_mnist.serving.limits import SMALL_BODY, ClientGoneError, Limits, RefusedError


class Bodies:
    """Reads bodies; knows how many bytes of large ones are in memory.

    A slow client holds only what it has sent so far, and a small body is never refused for what
    others hold: who trickles large bodies in takes no room from small ones.
    """

    def __init__(self, limits: Limits) -> None:
        """Keep to some limits."""
        self._limits = limits
        self._held = 0

    async def read(self, scope: Scope, receive: Receive, *, max_bytes: int | None = None) -> bytes:
        """Read a whole body; if it is large it counts as held until ``release``.

        Args:
            scope: The request.
            receive: Where its body comes from.
            max_bytes: A limit lower than that of all requests.

        Raises:
            RefusedError: It is too large (413), too slow (408), or too much is held already (503).
            ClientGoneError: The client hung up.
        """
        limit = min(max_bytes or self._limits.max_bytes, self._limits.max_bytes)
        if content_length(scope) > limit:
            raise RefusedError(413, f"the body is larger than {limit:,} bytes")
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.read_s):
                await self._read(receive, chunks, limit)
        except TimeoutError:
            self._forget(chunks)
            reason = f"the body took longer than {self._limits.read_s:g} s to arrive"
            raise RefusedError(408, reason) from None
        except BaseException:
            self._forget(chunks)
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self, body: bytes) -> None:
        """Count a body as held no longer."""
        if len(body) > SMALL_BODY:
            self._held -= len(body)

    async def _read(self, receive: Receive, chunks: list[bytes], limit: int) -> None:
        n_bytes, more = 0, True
        while more:
            message = await receive()
            chunk, more = _open_message(message)
            chunks.append(chunk)
            n_before, n_bytes = n_bytes, n_bytes + len(chunk)
            if n_bytes > limit:
                chunks.pop()
                raise RefusedError(413, f"the body is larger than {limit:,} bytes")
            if n_bytes > SMALL_BODY:
                self._held += len(chunk) + (n_before if n_before <= SMALL_BODY else 0)
                if self._held > self._limits.max_held_bytes:
                    raise RefusedError(503, "too many large bodies at once")

    def _forget(self, chunks: list[bytes]) -> None:
        n_bytes = sum(map(len, chunks))
        if n_bytes > SMALL_BODY:
            self._held -= n_bytes
        chunks.clear()


def content_length(scope: Scope) -> int:
    """Return how long the body is to be, 0 if the request does not say."""
    value = find_header(scope, b"content-length")
    return int(value) if value.isdigit() else 0


def find_header(scope: Scope, wanted: bytes) -> bytes:
    """Return the value of a header, empty if there is none."""
    for name, value in scope["headers"]:
        if name == wanted:
            return bytes(value)
    return b""


def _open_message(message: Message) -> tuple[bytes, bool]:
    """Return a piece of a body, and whether more is to come."""
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), message.get("more_body", False)
