"""Running the server: uvicorn, its workers, and an end that finishes what has begun."""

import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from edge_mnist.errors import EdgeMnistError
from edge_mnist.predictor import Predictor
from edge_mnist.serving.metrics import FOLDER_VARIABLE
from edge_mnist.serving.settings import KEY_VARIABLE, Settings

BACKLOG = 2048
MAX_HEAD_BYTES = 65_536  # as in h11
UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)
START_S = 60  # for a worker to start on a busy machine; after 5 s uvicorn would kill it, each time
HEADERS = {  # of every answer; a page loads its own files, and shows pictures that it made itself
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
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
        text = super().format(record)  # with the traceback, if there is one
        entry = {"time": round(record.created, 3), "level": record.levelname, "message": text}
        return json.dumps(entry)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, with a limit of the head, and without upgrades.

    httptools takes an offer of an upgrade (to HTTP/2: ``curl --http2``, Java's HttpClient) for an
    upgrade, and drops the body; so that header reaches it under another name.
    """

    _head = b""  # what has arrived of a head that is not complete

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if UPGRADE.search(head):
                self.parser = httptools.HttpRequestParser(self)  # the former one has a part of it
                data = UPGRADE.sub(b"\r\nx-upgrade:", head) + end + body
        super().data_received(data)
        if self.cycle is not cycle:
            self._head = b""
        elif len(self._head) > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("Invalid HTTP request received.")


class Supervisor(Multiprocess):
    """uvicorn's supervisor, which tells when all workers have started, and forgets the dead.

    It keeps the worker's end of the pipe open itself, so a worker that was killed between the
    question and the answer would be replaced after ``START_S`` only.
    """

    announce: Callable[[], None]  # called once all workers answer

    def init_processes(self) -> None:
        """Start the workers."""
        super().init_processes()
        if all(process.wait_until_ready(START_S) for process in self.processes):
            self.announce()

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that have died; what they counted as waiting waits no longer."""
        known = list(self.processes)
        for process in known:
            process.child_conn.close()
        super().keep_subprocess_alive()
        for process in known:
            if process not in self.processes:
                mark_process_dead(process.pid)  # type: ignore[no-untyped-call]


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
    with Predictor(settings.model, settings.provider) as predictor:  # before a worker fails to
        about = f"{predictor.model.path} on {predictor.provider}"
    listener = _listen(host, port, settings.workers)
    host, port = listener.getsockname()[:2]
    text = f"serving {about} at http://{f'[{host}]' if ':' in host else host}:{port}"
    config = uvicorn.Config(
        partial(make_worker_app, settings),
        factory=True,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        workers=settings.workers,
        proxy_headers=False,
        server_header=False,
        headers=list(HEADERS.items()),
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=math.ceil(2 * settings.timeout_s),
        timeout_worker_healthcheck=START_S,
    )
    _configure_logging()
    if host not in ("127.0.0.1", "::1") and not settings.key:
        logger.warning("listening on %s without an API key: set %s", host, KEY_VARIABLE)
    if settings.workers == 1:
        announce(text)
        # After its orderly end uvicorn raises the signal again, for its former handler.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        uvicorn.Server(config).run(sockets=[listener])
        return
    logging.getLogger("uvicorn.error").setLevel("INFO")  # the supervisor tells of workers' deaths
    with tempfile.TemporaryDirectory(prefix="edge-mnist-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        supervisor = Supervisor(config, [listener])
        supervisor.announce = partial(announce, text)
        supervisor.run()
    if any((process.exitcode or 0) > 0 for process in supervisor.processes):
        raise EdgeMnistError("the workers did not start")


def make_worker_app(settings: Settings) -> ASGIApp:
    """Make the app in the process that is to run it."""
    from edge_mnist.serving.app import make_app  # metrics read their variable when imported

    _configure_logging()
    sys.setswitchinterval(0.001)  # so long a thread that reads may keep the event loop waiting
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
        listen = partial(socket.create_server, family=self.family, backlog=BACKLOG, reuse_port=True)
        return listen, (self.getsockname(),)


def _listen(host: str, port: int, workers: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        if workers > 1 and sys.platform == "linux":  # others spread nothing
            address = listener.getsockname()  # that this process alone can have
            listener.close()
            listener = _OwnListener(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        return listener
    except OSError as error:
        raise EdgeMnistError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _end_with(supervisor: Any) -> None:
    """End this worker when its supervisor is killed: the port would stay taken."""
    supervisor.join()
    shutil.rmtree(os.environ[FOLDER_VARIABLE], ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
