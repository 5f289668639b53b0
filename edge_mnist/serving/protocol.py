"""HTTP over one connection: uvicorn's protocols, and what they leave out."""

import re

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536  # as in h11
UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


class HttpProtocol(HttpToolsProtocol):
    """The protocol on httptools, with a limit of the head, and without upgrades.

    Parsing a request with h11 takes as long as reading a small picture. But httptools takes an
    offer of an upgrade (to HTTP/2: ``curl --http2``, Java's HttpClient) for an upgrade, and drops
    the body. So the connection of a client that offers one goes on with h11, which ignores it.
    """

    _is_in_head = False
    _head = b""  # what has arrived of a head that is not complete

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        head = self._head + data
        is_idle = self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)
        if is_idle and UPGRADE.search(head):
            self._continue_with_h11(head)
            return
        super().data_received(data)
        self._head = head if self._is_in_head else b""
        if len(self._head) > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        """Start a request."""
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Call the app."""
        self._is_in_head = False
        super().on_headers_complete()

    def _continue_with_h11(self, data: bytes) -> None:
        self.connections.discard(self)
        self._unset_keepalive_if_required()
        protocol = H11Protocol(self.config, self.server_state, self.app_state, self.loop)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(data)
