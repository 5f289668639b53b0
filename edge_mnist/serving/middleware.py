"""The door: who may come in, what is written down, and the answer when something goes wrong."""

import hmac
import json
import logging
import time
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_mnist.serving.accesslog import AccessLog
from edge_mnist.serving.bodies import Bodies, content_length, find_header
from edge_mnist.serving.limits import ClientGoneError, RefusedError
from edge_mnist.serving.metrics import Metrics
from edge_mnist.serving.predicting import N_PICTURES
from edge_mnist.serving.replies import SAFE_HEADERS, send_refusal

CLIENT_GONE = 499  # in the log only: nobody was there to be answered
OTHER_ROUTE = "other"  # a label for each path that somebody tries would fill the memory
BODY_METHODS = ("POST", "PUT", "PATCH", "DELETE")
logger = logging.getLogger(__name__)


class Door:
    """Writes every request down, and turns what nobody expected into a 500."""

    def __init__(
        self, app: ASGIApp, routes: frozenset[str], log: AccessLog, metrics: Metrics
    ) -> None:
        """Stand before an app whose routes are known."""
        self._app = app
        self._routes = routes
        self._log = log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = n_bytes = 0

        async def watch(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                n_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientGoneError:
            status = CLIENT_GONE
        except Exception:
            logger.exception("failed at %s %s", scope["method"], scope["path"])
            if not status:
                await send_refusal(watch, RefusedError(500, "failed; the log says why"))
        self.record(scope, status, time.perf_counter() - started, n_bytes)

    def record(self, scope: Scope, status: int, seconds: float, n_bytes: int) -> None:
        """Write an answered request down."""
        path = scope["path"]
        route = path if path in self._routes else OTHER_ROUTE
        self._metrics.count_request(route, status, seconds)
        # Formatted by hand: json.dumps takes four times as long, for each request.
        line = (
            f'{start_line(scope["client"])}, "method": "{scope["method"]}", '
            f'"path": {json.dumps(path)}, "status": {status}, "ms": {seconds * 1000:.2f}, '
            f'"bytes_in": {content_length(scope)}, "bytes_out": {n_bytes}'
        )
        if N_PICTURES in scope:
            line += f', "pictures": {scope[N_PICTURES]}'
        self._log.add(line + "}")

    def record_refused(self, status: int, client: tuple[str, int] | None) -> None:
        """Write down a connection that was closed before it made a whole request."""
        self._metrics.count_request(OTHER_ROUTE, status, 0.0)
        self._log.add(f'{start_line(client)}, "status": {status}}}')


def start_line(client: tuple[str, int] | None) -> str:
    """Start a line of the access log: when, and who asked."""
    return f'{{"time": {time.time():.3f}, "client": "{client[0] if client else ""}"'


class Gate:
    """Checks the key, sends each request to its app, and turns refusals into answers."""

    def __init__(
        self,
        app: ASGIApp,
        shortcuts: Mapping[tuple[str, str], ASGIApp],
        bodies: Bodies,
        *,
        max_bytes: int,
        key: str | None = None,
        open_paths: frozenset[str] = frozenset(),
    ) -> None:
        """Stand before an app.

        Args:
            app: Answers what has no shortcut.
            shortcuts: Apps for a method and a path, that read their body themselves.
            bodies: Reads the bodies for ``app``.
            max_bytes: Of such a body.
            key: Without it only the open paths answer; None if there is no key.
            open_paths: These answer without the key.
        """
        self._app = app
        self._shortcuts = shortcuts
        self._bodies = bodies
        self._max_bytes = max_bytes
        self._key = key.encode() if key else None
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if self._key and scope["path"] not in self._open_paths:
                check_key(scope, self._key)
            shortcut = self._shortcuts.get((scope["method"], scope["path"]))
            if shortcut:
                await shortcut(scope, receive, send)
            else:
                await self._pass_on(scope, receive, send)
        except RefusedError as refusal:
            await send_refusal(send, refusal)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body first, within its limits: the framework knows none."""

        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] += [pair for pair in SAFE_HEADERS if pair[0] not in present]
            await send(message)

        if scope["method"] not in BODY_METHODS:
            await self._app(scope, receive, send_safe)
            return
        body = await self._bodies.read(scope, receive, max_bytes=self._max_bytes)
        message: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal message
            whole, message = message, None
            return whole or await receive()

        try:
            await self._app(scope, replay, send_safe)
        finally:
            self._bodies.release(body)


def check_key(scope: Scope, key: bytes) -> None:
    """Let in who brings the key, as ``Authorization: Bearer`` or as ``X-API-Key``.

    Raises:
        RefusedError: The key is wrong or missing (401).
    """
    given = find_header(scope, b"x-api-key")
    scheme, _, token = find_header(scope, b"authorization").partition(b" ")
    if not given and scheme.lower() == b"bearer":
        given = token.strip()
    if not hmac.compare_digest(given, key):
        raise RefusedError(401, "want the API key, as X-API-Key or as Authorization: Bearer")
