"""Running the server: one socket, one process or several, and an end that finishes its work."""

import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from edge_mnist.errors import EdgeMnistError
from edge_mnist.serving.app import Settings, make_app
from edge_mnist.serving.metrics import FOLDER_VARIABLE
from edge_mnist.serving.protocol import GuardedProtocol

KEY_VARIABLE = "EDGE_MNIST_API_KEY"
KEEP_ALIVE_S = 5
BACKLOG = 2048
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


class JsonFormatter(logging.Formatter):
    """Writes what the server itself reports as lines of JSON, like the access log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        entry: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname}
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


HANDLER = {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"stderr": HANDLER},
    "loggers": {
        # Below ERROR uvicorn tells of every malformed request, which the access log does as well.
        "uvicorn": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
        "edge_mnist": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}


def serve(settings: Settings, host: str, port: int, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that have begun are finished.

    Args:
        settings: What to serve.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        announce: Is told where the server listens, once it does.

    Raises:
        EdgeMnistError: The address cannot be had, or the workers do not start.
        ModelError: The model cannot be opened.
        ProviderError: The provider does not run here.
    """
    with settings.open_predictor() as predictor:  # before a worker stumbles over it
        about = f"{predictor.model.path} on {predictor.provider}"
    listeners = share_port(listen(host, port), settings.workers)
    config = make_config(settings)
    announce(f"serving {about} at {url_of(listeners[0])}")
    if host not in LOCAL_HOSTS and not settings.key:
        logging.getLogger(__name__).warning(
            "listening on %s without an API key: set %s", host, KEY_VARIABLE
        )
    if settings.workers == 1:
        run_here(config, listeners[0])
    else:
        run_workers(config, listeners)


def listen(host: str, port: int) -> socket.socket:
    """Open a socket.

    Raises:
        EdgeMnistError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EdgeMnistError(f"cannot listen on {host}:{port}: {reason}") from error


def url_of(listener: socket.socket) -> str:
    """Return where a socket listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_config(settings: Settings) -> uvicorn.Config:
    """Make uvicorn's configuration; it is pickled into the workers."""
    limits = settings.limits
    return uvicorn.Config(
        partial(make_app, settings),
        factory=True,
        http=partial(GuardedProtocol, limits=limits),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=LOGGING,
        access_log=False,
        workers=settings.workers,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(limits.read_s + limits.answer_s),
    )


def run_here(config: uvicorn.Config, listener: socket.socket) -> None:
    """Run in this process."""
    # After its orderly end uvicorn raises the signal again, for whoever was there before it.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    uvicorn.Server(config).run(sockets=[listener])


class _Supervisor(Multiprocess):
    """Gives each worker a socket of its own, and closes the port before the workers end.

    From one socket the worker that wakes first takes all that connect at once: 32 connections to
    two workers were answered by one. And a port that is open when its workers have ended lets
    whoever comes then wait for nobody.
    """

    def init_processes(self) -> None:
        for number in range(self.processes_num):
            process = Process(self.config, [self.sockets[number % len(self.sockets)]])
            process.start()
            self.processes.append(process)

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def share_port(listener: socket.socket, workers: int) -> list[socket.socket]:
    """Return sockets for workers on one port; where the system does not share it, the one."""
    if workers == 1 or sys.platform != "linux":  # others take SO_REUSEPORT and spread nothing
        return [listener]
    address, family = listener.getsockname()[:2], listener.family
    listener.close()  # it has shown that the port was free, and does not share it
    return [
        socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=True)
        for _ in range(workers)
    ]


def run_workers(config: uvicorn.Config, listeners: list[socket.socket]) -> None:
    """Run several processes, and a new one for each that dies.

    Raises:
        EdgeMnistError: They do not start.
    """
    with tempfile.TemporaryDirectory(prefix="edge-mnist-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        supervisor = _Supervisor(config, sockets=listeners)
        supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        raise EdgeMnistError("the workers did not start")
