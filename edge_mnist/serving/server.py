"""Running the server: uvicorn, its workers, and an end that finishes what has begun."""

import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from edge_mnist.errors import EdgeMnistError
from edge_mnist.predictor import Predictor
from edge_mnist.serving.metrics import FOLDER_VARIABLE
from edge_mnist.serving.protocol import HttpProtocol
from edge_mnist.serving.settings import KEY_VARIABLE, Settings

BACKLOG = 2048
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
START_S = 60  # for a worker to start on a busy machine; after 5 s uvicorn would kill it, each time
SWITCH_S = 0.001  # how long a thread that reads a picture may keep the event loop waiting
# A page loads its own files, asks its own server, and shows pictures that it made itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {  # of every answer
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}
logger = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Writes what the server itself reports as lines of JSON, like the access log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        entry: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname}
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which notices a worker's death while it waits for its answer.

    It keeps the worker's end of the pipe open itself, so a worker that was killed between the
    question and the answer would be replaced after ``START_S`` only.
    """

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have died."""
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()


def serve(settings: Settings, host: str, port: int, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that have begun are finished.

    Args:
        settings: What to serve.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        announce: Is told where the server listens, once it does.

    Raises:
        EdgeMnistError: The address cannot be had, the model not be opened, or the workers do not
            start.
    """
    model, provider = settings.model, settings.provider
    with Predictor(model, provider) as predictor:  # before a worker fails to
        about = f"{predictor.model.path} on {predictor.provider}"
    listener = _listen(host, port, settings.workers)
    host, port = listener.getsockname()[:2]
    text = f"serving {about} at http://{f'[{host}]' if ':' in host else host}:{port}"
    config = uvicorn.Config(
        partial(make_worker_app, settings),
        factory=True,
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        workers=settings.workers,
        proxy_headers=False,
        server_header=False,
        headers=list(HEADERS.items()),
        limit_concurrency=settings.max_connections,
        backlog=BACKLOG,
        timeout_graceful_shutdown=math.ceil(2 * settings.timeout_s),
        timeout_worker_healthcheck=START_S,
    )
    _configure_logging()
    if host not in LOCAL_HOSTS and not settings.key:
        logger.warning("listening on %s without an API key: set %s", host, KEY_VARIABLE)
    if settings.workers == 1:
        announce(text)
        # After its orderly end uvicorn raises the signal again, for its former handler.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        uvicorn.Server(config).run(sockets=[listener])
        return
    logging.getLogger("uvicorn.error").setLevel("INFO")  # the supervisor tells of workers' deaths
    threading.Thread(target=_announce, args=(host, port, announce, text), daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="edge-mnist-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        supervisor = Supervisor(config, sockets=[listener])
        supervisor.run()
    if any((process.exitcode or 0) > 0 for process in supervisor.processes):
        raise EdgeMnistError("the workers did not start")


def make_worker_app(settings: Settings) -> ASGIApp:
    """Make the app in the process that is to run it."""
    from edge_mnist.serving.app import make_app  # metrics read their variable when imported

    _configure_logging()
    sys.setswitchinterval(SWITCH_S)
    supervisor = multiprocessing.parent_process()
    if supervisor:
        threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    return make_app(settings)


def _configure_logging() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level="WARNING")
    logging.getLogger("uvicorn").setLevel("ERROR")  # below it tells of every malformed request


class _OwnListener(socket.socket):
    """A socket that is bound, and in each worker becomes a socket that listens on the same port.

    The kernel spreads connections over the workers' sockets. From one socket that they share,
    the worker that wakes first takes all that connect at once: 32 connections to two workers
    were answered by one.
    """

    def __reduce__(self) -> Any:
        return _listen_too, (self.family, self.getsockname())


def _listen_too(family: socket.AddressFamily, address: Any) -> socket.socket:
    return socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True)


def _listen(host: str, port: int, workers: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if workers == 1 or sys.platform != "linux":  # others spread nothing
            return socket.create_server((host, port), family=family, backlog=BACKLOG)
        with closing(socket.create_server((host, port), family=family)) as probe:
            address = probe.getsockname()  # a port that this process alone can have
        listener = _OwnListener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EdgeMnistError(f"cannot listen on {host}:{port}: {reason}") from error


def _announce(host: str, port: int, announce: Callable[[str], None], text: str) -> None:
    while True:
        try:
            socket.create_connection((host, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            announce(text)
            return


def _end_with(supervisor: Any) -> None:
    """End this worker when its supervisor is killed: the port would stay taken."""
    supervisor.join()
    shutil.rmtree(os.environ[FOLDER_VARIABLE], ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
