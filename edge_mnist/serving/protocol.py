"""Connections that dawdle, send rubbish or come in crowds cost the others nothing.

uvicorn waits for the head of a request for ever, lets it grow for ever, and once too many
connections are open refuses whoever comes next. Here a head has to arrive in time and in size, and
who comes next takes the place of whoever has been idle longest.
"""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from edge_mnist.serving.bodies import LATE
from edge_mnist.serving.limits import Limits
from edge_mnist.serving.replies import SAFE_HEADERS, encode_error, refusal_headers

if TYPE_CHECKING:
    from edge_mnist.serving.middleware import Door

MAX_HEAD_BYTES = 65_536
LINGER_S = 1.0  # to read on after an early answer, else the client may lose that answer


class GuardedProtocol(HttpToolsProtocol):
    """HTTP of one connection."""

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        """Keep to some limits."""
        super().__init__(*args, **options)
        self._limits = limits
        self._waits_since: float | None = None  # for the client; None while it waits for us
        self._in_head = True
        self._head_bytes = 0
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room if it is missing, and watch the clock."""
        super().connection_made(transport)
        self._waits_since = self.loop.time()
        if len(self.connections) > self._limits.max_connections and not self._close_idlest():
            self._refuse(503, "too many connections")
            return
        self._clock = self.loop.call_later(self._limits.read_s, self._check_clock)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, which would keep all this in memory."""
        super().connection_lost(exc)
        if self._clock:
            self._clock.cancel()

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head of the request grows too large."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the head is larger than {MAX_HEAD_BYTES:,} bytes")

    def on_message_begin(self) -> None:
        """Note when a request begins; one sent ahead begins when the one before is answered."""
        super().on_message_begin()
        if self.cycle is None or self.cycle.response_complete:
            self._waits_since = self.loop.time()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Note that the head is whole, and give the body as much time again."""
        self._in_head = False
        self._head_bytes = 0
        if self._waits_since is not None:
            self._waits_since = self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        super().on_message_complete()
        is_answered = self.cycle is not None and self.cycle.response_complete
        self._waits_since = self.loop.time() if is_answered else None
        self._in_head = True

    def on_response_complete(self) -> None:
        """Take no more than a moment of a body that was refused."""
        super().on_response_complete()
        if not self._in_head:
            self.loop.call_later(LINGER_S, self._close_if_same, self._waits_since)
        elif self._waits_since is None:
            self._waits_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Answer rubbish as every other error is answered."""
        self._refuse(400, msg)

    def _check_clock(self) -> None:
        """End a request that is late to arrive, else look again when it would be."""
        late_s = -self._limits.read_s
        if self._waits_since is not None:
            late_s += self.loop.time() - self._waits_since
        if late_s < 0:
            self._clock = self.loop.call_later(-late_s, self._check_clock)
        elif not self._in_head:  # the app waits for the rest: wake it, it answers
            self.cycle.scope[LATE] = True  # type: ignore[literal-required]
            self.cycle.message_event.set()
        elif self._head_bytes:
            self._refuse(408, f"the head took longer than {self._limits.read_s:g} s to arrive")
        else:  # idle after an answer, or connected ahead of need as browsers do
            self.transport.close()

    def _close_if_same(self, since: float | None) -> None:
        if since is not None and self._waits_since == since and not self._in_head:
            self.transport.close()

    def _close_idlest(self) -> bool:
        """Close the connection that has kept us waiting longest; False if none does."""
        others = cast("set[GuardedProtocol]", self.connections) - {self}
        idle = [other for other in others if other._waits_since is not None]
        if not idle:
            return False
        idlest = min(idle, key=lambda other: other._waits_since or 0.0)
        idlest.transport.close()
        self.connections.discard(idlest)  # its end is told only in the next turn of the loop
        return True

    def _refuse(self, status: int, reason: str) -> None:
        """Answer without the app, and hang up."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an answer is under way: this would end up inside it
            return
        body = encode_error(reason)
        more = [(name.encode(), value.encode()) for name, value in refusal_headers(status).items()]
        headers = [(b"content-type", b"application/json"), *SAFE_HEADERS, *more]
        head = b"".join(b"%s: %s\r\n" % pair for pair in headers)
        end = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + end + body)
        self.transport.close()
        cast("Door", self.app).record_refused(status, self.client)
