"""ASGI middleware: the access log and the counts, who may send requests, and how large they may be.

Only what an application knows better than a proxy in front of it: slow clients, TLS and the number
of connections of one client are the proxy's; see docs/serving.md.
"""

import asyncio
import contextlib
import functools
import hmac
import ipaddress
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_mnist.serving.metrics import Metrics
from edge_mnist.serving.settings import Settings

CLIENT_GONE = 499  # in log and counts only, as nginx writes it: nobody reads that answer
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FLUSH_S = 0.2
MAX_LINES = 20_000
RETRY = {"retry-after": "1"}
ERROR_HEADERS = {401: {"www-authenticate": "Bearer"}, 429: RETRY, 503: RETRY}
Headers = Mapping[bytes, bytes]
logger = logging.getLogger(__name__)


async def answer_error(request: Request, error: Exception) -> Response:
    """Make the answer that tells an error: KServe's form, one line of ASCII."""
    status, reason, headers = 500, "the server failed; its log says why", dict[str, str]()
    if isinstance(error, HTTPException):
        status, reason, headers = error.status_code, error.detail, dict(error.headers or {})
    elif isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        status = 400 if fault["type"] == "json_invalid" else 422
        reason = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ")
    if status == 404:
        reason = f"nothing at {request.scope['path']}; /docs tells what there is"
    body = json.dumps({"error": " ".join(reason.split())})
    return Response(body, status, ERROR_HEADERS.get(status, {}) | headers, "application/json")


class AccessLog:
    """Collects lines and writes them together, in a thread: a full pipe blocks no request."""

    def __init__(self) -> None:
        """Collect lines for stderr; the oldest are dropped while it takes none."""
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self.add = self._lines.append

    async def run(self) -> None:
        """Write lines until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._lines:
                await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write what was added."""
        text = "".join(f"{self._lines.popleft()}\n" for _ in range(len(self._lines)))
        with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
            sys.stderr.write(text)
            sys.stderr.flush()


@dataclass(frozen=True)
class RequestMiddleware:
    """Refuses requests, reads the bodies of the others, logs and counts all of them.

    Endpoints find the body in ``state``, as ``body``, and may set ``n_pictures`` there.

    Attributes:
        app: What answers those that are not refused.
        open_paths: Need no key.
        routes: Are counted under their names, all other paths as ``other``.
    """

    app: ASGIApp
    settings: Settings
    metrics: Metrics
    log: AccessLog
    open_paths: Set[str]
    routes: Set[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = n_bytes = 0

        async def watch(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                n_bytes += len(message["body"])
            await send(message)

        try:
            await self._admit(scope, receive)
            await self.app(scope, receive, watch)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception as error:
            if not isinstance(error, HTTPException):
                logger.exception("failed at %s %s", scope["method"], scope["path"])
            if not status:
                response = await answer_error(Request(scope), error)
                await response(scope, receive, watch)
        self._record(scope, status, time.perf_counter() - started, n_bytes)

    async def _admit(self, scope: Scope, receive: Receive) -> None:
        headers, settings = dict(scope["headers"]), self.settings
        _check_host(headers, settings.allow_hosts)
        if settings.key and scope["path"] not in self.open_paths:
            _check_key(headers, settings.key.encode())
        if scope["method"] in SAFE_METHODS:
            return
        _check_origin(headers, settings.allow_origins)
        _check_body(headers, settings.max_bytes)
        request = Request(scope, receive)
        try:
            async with asyncio.timeout(settings.timeout_s):
                scope["state"]["body"] = await _read_body(request, settings.max_bytes)
        except TimeoutError:
            reason = f"the body took longer than {settings.timeout_s:g} s"
            raise HTTPException(408, reason) from None

    def _record(self, scope: Scope, status: int, seconds: float, n_bytes: int) -> None:
        path = scope["path"]  # a label for each path that somebody tries would fill the memory
        route = path if path in self.routes else "other"
        self.metrics.requests(route, str(status)).inc()
        self.metrics.seconds(route).observe(seconds)
        # Formatted by hand: json.dumps takes four times as long, for each request.
        line = (
            f'{{"time": {time.time():.3f}, "client": "{(scope["client"] or [""])[0]}", '
            f'"method": "{scope["method"]}", "path": {json.dumps(path)}, "status": {status}, '
            f'"ms": {seconds * 1000:.2f}, "bytes_out": {n_bytes}'
        )
        n_pictures = scope["state"].get("n_pictures")
        self.log.add(line + ("}" if n_pictures is None else f', "pictures": {n_pictures}}}'))


async def _read_body(request: Request, max_bytes: int) -> bytes:
    chunks, n_bytes = [], 0
    async for chunk in request.stream():
        chunks.append(chunk)
        n_bytes += len(chunk)
        if n_bytes > max_bytes:
            raise _too_large(max_bytes)
    return b"".join(chunks)


def _check_host(headers: Headers, allowed: tuple[str, ...]) -> None:
    """Refuse host names that are not this server's, whose owner could point them at it.

    That is DNS rebinding: a page of that name would count as this server's own.
    """
    host = _name_host(headers.get(b"host", b""))
    if not host:
        raise HTTPException(400, "expected a Host header that names this server")
    if host not in ("localhost", *allowed) and "*" not in allowed:
        raise HTTPException(421, f"no host named {host} here; --allow-host would allow it")


@functools.lru_cache(1024)
def _name_host(header: bytes) -> str:
    """Return the host that a Host header names, empty if none.

    An IP address, which cannot be pointed elsewhere, counts as localhost.
    """
    host = ""
    with contextlib.suppress(ValueError):
        host = urlsplit("//" + header.decode("latin-1")).hostname or ""
        ipaddress.ip_address(host)
        return "localhost"
    return host


def _check_key(headers: Headers, key: bytes) -> None:
    given = headers.get(b"x-api-key", b"")
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if not given and scheme.lower() == b"bearer":
        given = token.strip()
    if not hmac.compare_digest(given, key):
        raise HTTPException(401, "expected the API key as X-API-Key or Authorization: Bearer")


def _check_origin(headers: Headers, allowed: tuple[str, ...]) -> None:
    """Refuse what a page of another origin had a browser send.

    A browser sends Sec-Fetch-Site with every request, and older ones Origin with every POST; other
    clients send neither. Source: CrossOriginProtection of Go's net/http.
    """
    origin = headers.get(b"origin", b"").decode("latin-1")
    site = headers.get(b"sec-fetch-site", b"")
    is_own = origin.partition("://")[2] == headers[b"host"].decode("latin-1")
    is_allowed = origin in allowed or "*" in allowed
    if is_allowed or site in (b"same-origin", b"none") or (not site and (is_own or not origin)):
        return
    raise HTTPException(403, "a page of another origin sent this; --allow-origin would allow it")


def _check_body(headers: Headers, max_bytes: int) -> None:
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
    if encoding.lower() != "identity":
        raise HTTPException(415, f"expected a body without Content-Encoding, got {encoding}")
    if int(headers.get(b"content-length", b"0")) > max_bytes:  # uvicorn has checked its form
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {max_bytes:,} bytes")
