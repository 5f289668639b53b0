"""The app: an engine behind a door, with its routes."""

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from edge_mnist.machine import count_cores
from edge_mnist.serving.accesslog import AccessLog
from edge_mnist.serving.bodies import Bodies
from edge_mnist.serving.engine import BatchPredictor, Engine
from edge_mnist.serving.kserve import MODEL_NAME, check_model, infer_body_bytes, make_router
from edge_mnist.serving.limits import Limits, RefusedError
from edge_mnist.serving.metrics import Metrics
from edge_mnist.serving.middleware import Door, Gate
from edge_mnist.serving.openapi import error_responses, install_document
from edge_mnist.serving.pages import FILES, make_page_routes
from edge_mnist.serving.predicting import Predicting, describe_model
from edge_mnist.serving.replies import encode_error, refusal_headers

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HEALTH = ("/healthz", "/v2/health/live", "/v2/health/ready")
OPEN_PATHS = frozenset((*FILES, *HEALTH, "/openapi.json"))
MODEL_PATHS = tuple(f"/v2/models/{MODEL_NAME}{end}" for end in ("", "/ready", "/infer"))
ROUTES = OPEN_PATHS | {"/predict", "/metrics", "/v2", *MODEL_PATHS}
SWITCH_S = 0.001  # how long a thread with a large picture may keep the others waiting


@dataclass(frozen=True)
class Settings:
    """What a server is to serve, and to whom.

    Attributes:
        model: Model file or folder; see ``model_file.find_model``.
        provider: ``auto``, ``cpu`` or ``cuda``; None for the environment's.
        accept_all: Answer with a digit whatever the picture shows.
        limits: What a request may cost.
        allow_origins: Other sites whose pages may ask.
        key: Has to come with a request; None if anybody may ask.
        workers: Processes that share the port.
    """

    model: str | None = None
    provider: str | None = None
    accept_all: bool = False
    limits: Limits = field(default_factory=Limits)
    allow_origins: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    workers: int = 1

    def open_predictor(self) -> BatchPredictor:
        """Open the model."""
        return BatchPredictor(self.model, self.provider, accept_all=self.accept_all)


class Health(BaseModel):
    """Which model runs, and on what; it was run to answer this."""

    status: str
    model: str
    model_sha256: str
    provider: str
    class_names: list[str]


def make_app(settings: Settings) -> Door:
    """Make the app of one process."""
    limits = settings.limits
    metrics, log = Metrics(), AccessLog()
    engine = Engine(
        settings.open_predictor(),
        limits,
        threads=max(1, count_cores() // settings.workers),
        watch_batch=metrics.watch_batch,
        watch_waiting=metrics.watch_waiting,
    )
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()  # what stands now stays: the collector need not look at it again and again
    bodies = Bodies(limits)
    framework = make_framework_app(engine, metrics, log, settings)
    predicting = Predicting(engine, bodies, limits, metrics)
    framework.router.routes += [
        Route("/predict", predicting, methods=["POST"]),
        *make_page_routes(),
    ]
    app: ASGIApp = Gate(
        framework,
        {("POST", "/predict"): predicting},
        bodies,
        max_bytes=infer_body_bytes(limits),
        key=settings.key,
        open_paths=OPEN_PATHS,
    )
    if settings.allow_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "authorization", "x-api-key"],
            expose_headers=["server-timing"],
        )
    return Door(app, ROUTES, log, metrics)


def make_framework_app(
    engine: Engine, metrics: Metrics, log: AccessLog, settings: Settings
) -> FastAPI:
    """Make everything but ``/predict`` and the page."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()
        log.close()

    app = FastAPI(
        title="edge-mnist",
        version=version("edge-mnist"),
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses=error_responses(400, 401, 408, 413, 422, 429, 431, 500, 503),
    )
    app.include_router(make_router(engine, settings.limits, app.version))
    about = describe_model(engine) | {"class_names": engine.predictor.info.class_names}

    @app.get("/healthz", tags=["operation"])
    async def health() -> Health:
        """Tell which model runs, and on what."""
        check_model(engine)
        return Health(status="ok", **about)

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Tell what was counted, for Prometheus."""
        content, media_type = metrics.render()
        return Response(content, headers={"content-type": media_type})

    for kind, answer in ANSWERS.items():
        app.add_exception_handler(kind, answer)
    install_document(app, settings.limits, open_paths=OPEN_PATHS if settings.key else None)
    return app


async def answer_refusal(_: Request, error: Any) -> Response:
    """Answer a refusal from within the framework."""
    return make_error(error.status, error.reason)


async def answer_http(_: Request, error: Any) -> Response:
    """Answer what the framework itself refuses: no such path, no such method."""
    return make_error(error.status_code, error.detail, error.headers)


async def answer_invalid(_: Request, error: Any) -> Response:
    """Answer a body that is not of the form the document describes; name the first fault."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return make_error(422, f"{place}: {first['msg']}")


ANSWERS = {
    RefusedError: answer_refusal,
    HTTPException: answer_http,
    RequestValidationError: answer_invalid,
}


def make_error(status: int, reason: str, more: Any = None) -> Response:
    """Make an answer that is an error."""
    headers = {**refusal_headers(status), **(more or {})}
    return Response(encode_error(reason), status, headers, "application/json")
