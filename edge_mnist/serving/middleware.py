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
from collections.abc import Set
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_mnist.serving import metrics
from edge_mnist.serving.settings import Settings

CLIENT_GONE = 499  # in log and counts only, as nginx writes it: nobody reads that answer
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
RETRY = {"retry-after": "1"}
ERROR_HEADERS = {401: {"www-authenticate": "Bearer"}, 429: RETRY, 503: RETRY}
logger = logging.getLogger(__name__)
_entries: deque[dict[str, Any]] = deque(
    maxlen=20_000
)  # the oldest are dropped while stderr takes none


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


def flush_access_log() -> None:
    """Write to stderr what was logged, a line of JSON for each request."""
    lines = []
    with contextlib.suppress(IndexError):  # none is left; another thread may have taken some
        while True:
            lines.append(to_json(_entries.popleft()) + b"\n")
    with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
        sys.stderr.buffer.write(b"".join(lines))
        sys.stderr.flush()


@dataclass(frozen=True)
class RequestMiddleware:
    """Refuses requests, reads the bodies of the others, logs and counts all of them.

    Endpoints find ``headers`` and ``body`` in the state, and may add to the log as ``logged``.

    Attributes:
        app: What answers those that are not refused.
        open_paths: Need no key.
        routes: Are counted under their names, all other paths as ``other``.
    """

    app: ASGIApp
    settings: Settings
    open_paths: Set[str]
    routes: Set[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
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
        _check_size(int(headers.get(b"content-length", b"0")), settings.max_bytes)
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if encoding.lower() != "identity":
            raise HTTPException(415, f"expected a body without Content-Encoding, got {encoding}")
        chunks, n_bytes = [], 0
        try:
            async with asyncio.timeout(settings.timeout_s):
                async for chunk in Request(scope, receive).stream():
                    chunks.append(chunk)
                    n_bytes += len(chunk)
                    _check_size(n_bytes, settings.max_bytes)
        except TimeoutError:
            reason = f"the body took longer than {settings.timeout_s:g} s"
            raise HTTPException(408, reason) from None
        scope["state"] |= {"headers": headers, "body": b"".join(chunks)}

    def _record(self, scope: Scope, status: int, seconds: float, n_bytes: int) -> None:
        path = scope["path"]  # a label for each path that somebody tries would fill the memory
        route = path if path in self.routes else "other"
        metrics.requests(route, str(status)).inc()
        metrics.seconds(route).observe(seconds)
        entry = {"time": round(time.time(), 3), "client": (scope["client"] or [""])[0]}
        entry |= {"method": scope["method"], "path": path, "status": status, "bytes_out": n_bytes}
        entry |= {"ms": round(seconds * 1000, 2), **scope["state"].get("logged", {})}
        _entries.append(entry)
        if len(_entries) == 1:  # they are written together, in a thread: a full pipe blocks nobody
            loop = asyncio.get_running_loop()
            loop.call_later(0.2, loop.run_in_executor, None, flush_access_log)


def _check_host(headers: dict[bytes, bytes], allowed: tuple[str, ...]) -> None:
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
    """Return the host that a Host header names, empty if none, and localhost for an IP address."""
    host = ""
    with contextlib.suppress(ValueError):
        host = urlsplit("//" + header.decode("latin-1")).hostname or ""
        ipaddress.ip_address(host)
        host = "localhost"  # an address cannot be pointed elsewhere
    return host


def _check_key(headers: dict[bytes, bytes], key: bytes) -> None:
    given = headers.get(b"x-api-key", b"")
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if not given and scheme.lower() == b"bearer":
        given = token.strip()
    if not hmac.compare_digest(given, key):
        raise HTTPException(401, "expected the API key as X-API-Key or Authorization: Bearer")


def _check_origin(headers: dict[bytes, bytes], allowed: tuple[str, ...]) -> None:
    """Refuse what a page of another origin had a browser send.

    A browser sends Sec-Fetch-Site with every request, and older ones Origin with every POST; other
    clients send neither. Source: CrossOriginProtection of Go's net/http.
    """
    origin = headers.get(b"origin", b"").decode("latin-1")
    site = headers.get(b"sec-fetch-site", b"")
    is_own = origin.partition("://")[2] == headers[b"host"].decode("latin-1")
    is_same = site in (b"same-origin", b"none") or (not site and (is_own or not origin))
    if not is_same and origin not in allowed and "*" not in allowed:
        reason = "a page of another origin sent this; --allow-origin would allow it"
        raise HTTPException(403, reason)


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise HTTPException(413, f"the body is larger than {max_bytes:,} bytes")
