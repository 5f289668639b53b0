"""The app of one process: ``POST /predict``, health, metrics, KServe v2, the page and its files."""

import atexit
import base64
import mimetypes
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from pydantic_core import to_json
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_mnist.picture import read_picture
from edge_mnist.serving import kserve, metrics, middleware
from edge_mnist.serving.engine import Engine
from edge_mnist.serving.settings import Settings

RAW_NAME = "-"  # as `edge-mnist predict -` calls a picture that has no name
HERE = Path(__file__).parent
FOLDERS = (HERE.parent / "web", HERE / "docs")
# The page loads its backend under one name; `export --target web` writes another one under it.
PATHS = {"index.html": "/", "docs.html": "/docs", "backend_server.js": "/backend.js"}
NOT_SERVED = ("backend_web.js", "decoding.js", "wasm.js", "edge_mnist.wasm", "service_worker.js")
STATUSES = (400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 429, 500, 503)
PREDICT = "/predict"
TOP_K = Query(ge=1, le=999, description="List the likeliest classes of each picture.")
SEEN = Query(description="Add what the model saw of each picture: 784 bytes, base64.")
BINARY = {"type": "string", "format": "binary"}
FILES = {"picture": {"type": "array", "items": BINARY, "minItems": 1}}
FORM = {"type": "object", "properties": FILES, "required": ["picture"]}
PICTURE = BINARY | {"minLength": 1}
PREDICT_BODIES = {"image/*": {"schema": PICTURE}, "multipart/form-data": {"schema": FORM}}


class Error(BaseModel):
    """Why there is no answer."""

    error: str


class Item(BaseModel):
    """One picture: ``ok``, ``rejected`` with a reason, or ``error``; probabilities by class."""

    path: str
    status: str
    error: str | None = None
    reason: str | None = None
    digit: int | None = None
    name: str | None = None
    confidence: float | None = None
    probabilities: list[float] | None = None
    top: list[dict[str, Any]] | None = None
    seen: str | None = None


class Report(BaseModel):
    """The report of ``edge-mnist predict --json``: one item for each picture, in order."""

    schema_version: int
    model: str
    model_sha256: str
    provider: str
    reader: str
    items: list[Item]


def make_app(settings: Settings) -> ASGIApp:
    """Make the app of one process; raises what ``Predictor`` raises."""
    engine = Engine(settings)
    predict = _make_predict(engine)
    api = _make_api(engine, predict)
    files = {
        PATHS.get(file.name, f"/{file.name}"): Response(
            file.read_bytes(), media_type=mimetypes.guess_type(file.name)[0]
        )
        for folder in FOLDERS
        for file in folder.glob("*.*")
        if file.name not in NOT_SERVED
    }
    api.router.routes += [Route(path, file, methods=["GET"]) for path, file in files.items()]
    open_paths = {"/healthz", "/v2/health/live", "/v2/health/ready", "/openapi.json", *files}

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        # What FastAPI does between a request and its endpoint takes as long as reading a small
        # picture, and without a query it has nothing to validate.
        if scope["path"] == PREDICT and scope["method"] == "POST" and not scope["query_string"]:
            response = await predict(Request(scope))
            await response(scope, receive, send)
        else:
            await api(scope, receive, send)

    atexit.register(middleware.flush_access_log)
    routes = open_paths.union(api.openapi()["paths"])
    app: ASGIApp = middleware.RequestMiddleware(dispatch, settings, open_paths, routes)
    if settings.allow_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "authorization", "x-api-key", kserve.HEADER_LENGTH],
            expose_headers=["server-timing", kserve.HEADER_LENGTH],
        )
    return app


def _make_api(engine: Engine, predict: Callable[..., Any]) -> FastAPI:
    """Make everything but the files of the page."""
    handled = (HTTPException, RequestValidationError, Exception)
    api = FastAPI(
        title="edge-mnist",
        description="Handwritten digits: pictures in, digits out. Every error is one line of JSON.",
        version=version("edge-mnist"),
        docs_url=None,  # loads scripts of another host
        redoc_url=None,
        redirect_slashes=False,  # the address would be made from the request's Host header
        responses={status: {"model": Error} for status in STATUSES},
        exception_handlers=dict.fromkeys(handled, middleware.answer_error),
    )
    schemes = (APIKeyHeader(name="X-API-Key", auto_error=False), HTTPBearer(auto_error=False))
    key = [Depends(one) for one in schemes if engine.settings.key]  # the middleware checks it
    api.post(
        PREDICT,
        tags=["pictures"],
        dependencies=key,
        responses={200: {"model": Report}},
        openapi_extra={"requestBody": {"required": True, "content": PREDICT_BODIES}},
    )(predict)

    @api.get("/healthz", tags=["operation"])
    async def health() -> dict[str, Any]:
        """Run the model, and tell which it is, and on what it runs."""
        engine.check()
        names = engine.predictor.info.class_names
        return {"status": "ok", **engine.about, "class_names": names}

    @api.get("/metrics", tags=["operation"], dependencies=key, response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Return what was counted, all workers together, for Prometheus."""
        content = generate_latest(metrics.registry)
        return Response(content, headers={"content-type": CONTENT_TYPE_LATEST})

    example = read_picture(HERE / "docs" / "example.png").image
    api.include_router(kserve.make_router(engine, api.version, example), dependencies=key)
    api.openapi()["components"]["schemas"] |= kserve.SCHEMAS
    return api


def _make_predict(engine: Engine) -> Callable[..., Awaitable[Response]]:
    """Make the endpoint of ``POST /predict``."""
    names = engine.predictor.info.class_names
    about = {"schema_version": 1, **engine.about}

    async def predict(
        request: Request,
        top_k: Annotated[int | None, TOP_K] = None,
        seen: Annotated[bool, SEEN] = False,
    ) -> Response:
        """Read the digit in each picture: one as the body, or any number in a form.

        A picture that shows no single digit has status rejected, one that cannot be read
        error; both are answers with code 200.
        """
        started = time.perf_counter()
        uploads = await _read_uploads(request, engine)
        request.scope["state"]["logged"] = {"pictures": len(uploads)}
        predictions = await engine.predict([content for _, content in uploads])
        items = []
        for (name, _), prediction in zip(uploads, predictions, strict=True):
            metrics.pictures(prediction.status).inc()
            items.append({"path": name, **prediction.to_dict(names, top_k=top_k)})
            if seen and prediction.image is not None:
                items[-1]["seen"] = base64.b64encode(prediction.image.tobytes()).decode()
        spent_ms = (time.perf_counter() - started) * 1000
        headers = {"server-timing": f"predict;dur={spent_ms:.2f}"}
        return Response(to_json(about | {"items": items}), 200, headers, "application/json")

    return predict


async def _read_uploads(request: Request, engine: Engine) -> list[tuple[str, bytes]]:
    """Return name and content of each picture in a request."""
    body, headers = request.scope["state"]["body"], request.scope["state"]["headers"]
    kind, options = parse_options_header(headers.get(b"content-type", b""))
    if kind == b"multipart/form-data":
        boundary, most = options.get(b"boundary", b""), engine.settings.max_pictures
        uploads = await engine.run(_split_form, body, boundary, most)
    elif not kind or kind.startswith(b"image/") or kind == b"application/octet-stream":
        uploads = [(RAW_NAME, body)] if body else []
    else:
        expected = "image/*, application/octet-stream or multipart/form-data"
        raise HTTPException(415, f"expected a picture as {expected}, got {kind.decode('latin-1')}")
    if not uploads:
        raise HTTPException(400, "no picture in the body")
    return uploads


def _split_form(body: bytes, boundary: bytes, most: int) -> list[tuple[str, bytes]]:
    """Return the files in a form; Starlette's parser takes as long as reading a small picture."""
    delimiter = b"\r\n--" + boundary
    form, end, _ = (b"\r\n" + body).partition(delimiter + b"--")
    if not boundary or not end:
        raise HTTPException(400, "damaged form: without a boundary, or it ends too early")
    _, *parts = form.split(delimiter + b"\r\n")
    if len(parts) > most:
        raise HTTPException(413, f"more than {most} pictures")
    uploads = []
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            _, options = parse_options_header(line)
            if line.lower().startswith(b"content-disposition:") and b"filename" in options:
                uploads.append((options[b"filename"].decode(errors="replace") or RAW_NAME, content))
    return uploads
