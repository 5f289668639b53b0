"""Reading the body of a request, within limits of bytes, time and memory."""

from starlette.types import Message, Receive, Scope

from edge_mnist.serving.limits import SMALL_BODY, ClientGoneError, Limits, RefusedError

# The protocol puts this into the scope of a request when its time is over: it watches the clock
# of a connection with one timer, where one for each request would take as long as all else here.
LATE = "edge_mnist.late"


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
            await self._read(scope, receive, chunks, limit)
        except BaseException:
            self._forget(chunks)
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self, body: bytes) -> None:
        """Count a body as held no longer."""
        if len(body) > SMALL_BODY:
            self._held -= len(body)

    async def _read(self, scope: Scope, receive: Receive, chunks: list[bytes], limit: int) -> None:
        n_bytes, more = 0, True
        while more:
            chunk, more = _open_message(await receive())
            if more and LATE in scope:
                reason = f"the body took longer than {self._limits.read_s:g} s to arrive"
                raise RefusedError(408, reason)
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
