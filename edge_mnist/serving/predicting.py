"""``POST /predict``: pictures in, the report of ``edge-mnist predict --json`` out.

An ASGI app of its own, since a framework between costs half as much as reading a small picture.
"""

import asyncio
import base64
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from edge_mnist.predictor import Prediction
from edge_mnist.serving.bodies import Bodies, find_header
from edge_mnist.serving.engine import Engine, is_small
from edge_mnist.serving.limits import SMALL_BODY, ClientGoneError, Limits, RefusedError
from edge_mnist.serving.metrics import Metrics
from edge_mnist.serving.replies import encode, send_json
from edge_mnist.serving.uploads import Upload, check_type, split_body

SCHEMA_VERSION = 1
N_PICTURES = "edge_mnist.pictures"  # the place in a request's scope where the access log looks


@dataclass(frozen=True)
class Wishes:
    """What the query asks for.

    Attributes:
        top_k: List this many likeliest classes; None for none.
        seen: Add what the model saw.
    """

    top_k: int | None = None
    seen: bool = False


class Predicting:
    """Answers ``POST /predict``."""

    def __init__(self, engine: Engine, bodies: Bodies, limits: Limits, metrics: Metrics) -> None:
        """Read pictures with an engine."""
        self._engine = engine
        self._bodies = bodies
        self._limits = limits
        self._metrics = metrics
        self._class_names = engine.predictor.info.class_names
        about = {"schema_version": SCHEMA_VERSION, **describe_model(engine)}
        self._start = encode(about)[:-1] + b',"items":['

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; that a picture cannot be read is an answer too, as its status."""
        started = time.perf_counter()
        boundary = check_type(find_header(scope, b"content-type"))
        wishes = read_wishes(scope["query_string"])
        body = await self._bodies.read(scope, receive)
        try:
            uploads = await self._split(body, boundary)
            predictions = await self._read([upload.content for upload in uploads], receive)
        finally:
            self._bodies.release(body)
        scope[N_PICTURES] = len(uploads)
        answer = self._encode(uploads, predictions, wishes)
        spent_ms = (time.perf_counter() - started) * 1000
        timing = (b"server-timing", b"predict;dur=%.2f" % spent_ms)
        await send_json(send, 200, answer, timing)

    async def _split(self, body: bytes, boundary: bytes | None) -> list[Upload]:
        most = self._limits.max_pictures
        if boundary is None or len(body) <= SMALL_BODY:
            return split_body(body, boundary, max_pictures=most)
        return await self._engine.run(lambda: split_body(body, boundary, max_pictures=most))

    async def _read(self, pictures: list[bytes], receive: Receive) -> list[Prediction]:
        if all(map(is_small, pictures)):
            return await self._engine.read_small(pictures)
        reading = asyncio.ensure_future(self._engine.read_large(pictures))
        leaving = asyncio.ensure_future(receive())  # after the body comes only the hanging up
        try:
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise ClientGoneError
            return reading.result()
        finally:
            reading.cancel()
            leaving.cancel()

    def _encode(
        self, uploads: list[Upload], predictions: list[Prediction], wishes: Wishes
    ) -> bytes:
        items = []
        for upload, prediction in zip(uploads, predictions, strict=True):
            self._metrics.count_picture(prediction.status)
            known = {"path": upload.name}
            known |= prediction.to_dict(self._class_names, top_k=wishes.top_k)
            if wishes.seen and prediction.image is not None:
                known["seen"] = base64.b64encode(prediction.image.tobytes()).decode()
            items.append(encode(known))
        return self._start + b",".join(items) + b"]}"


def describe_model(engine: Engine) -> dict[str, Any]:
    """Return which model runs, and on what; its folder is no business of those who ask."""
    model = engine.predictor.model
    return {
        "model": model.path.name,
        "model_sha256": model.sha256,
        "provider": engine.predictor.provider,
    }


def read_wishes(query: bytes) -> Wishes:
    """Read the query of a request.

    Raises:
        RefusedError: A value is none that is known (400).
    """
    if not query:
        return Wishes()
    given = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    top_k, seen = given.get("top_k"), given.get("seen", "false")
    if top_k is not None and not (top_k.isascii() and top_k.isdigit() and 0 < int(top_k) < 1000):
        raise RefusedError(400, "top_k: want a whole number from 1 to 999")
    if seen not in ("true", "false"):
        raise RefusedError(400, "seen: want true or false")
    return Wishes(int(top_k) if top_k else None, seen == "true")
