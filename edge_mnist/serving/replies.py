"""Sending answers: JSON over ASGI, with the headers that every answer carries."""

import json
from typing import Any

from starlette.types import Send

from edge_mnist.serving.limits import RETRY_AFTER_S, RefusedError

Headers = list[tuple[bytes, bytes]]

# On every answer. What is JSON and is taken for nothing else needs no policy besides.
SAFE_HEADERS: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]
# The page may load its own files and ask its own server, and shows pictures it made itself.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-cache",
}


_encoder = json.JSONEncoder(separators=(",", ":"))


async def send_json(send: Send, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    """Answer with a JSON document that is encoded already."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *SAFE_HEADERS,
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_refusal(send: Send, refusal: RefusedError) -> None:
    """Answer with an error."""
    headers = [
        (name.encode(), value.encode()) for name, value in refusal_headers(refusal.status).items()
    ]
    await send_json(send, refusal.status, encode_error(refusal.reason), *headers)


def refusal_headers(status: int) -> dict[str, str]:
    """Return the headers that belong to a status code."""
    if status in (429, 503):
        return {"retry-after": str(RETRY_AFTER_S)}
    return {"www-authenticate": "Bearer"} if status == 401 else {}


def encode_error(reason: str) -> bytes:
    """Encode an error as KServe does it, here and everywhere."""
    return encode({"error": reason})


def encode(value: Any) -> bytes:
    """Encode JSON without spaces."""
    return _encoder.encode(value).encode()
