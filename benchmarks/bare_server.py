"""The least that a server on uvicorn does: ``python benchmarks/bare_server.py``.

Serves as ``edge-mnist serve`` does, with the same uvicorn, event loop, HTTP parser, workers and
sockets, but an app that takes the body and answers with a constant of a real answer's size. With
``--reads`` it reads and classifies the picture too, as the server does, and still answers the
constant. For ``load_server.py --bare``.
"""

import argparse
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from edge_mnist.machine import count_cores
from edge_mnist.serving import server
from edge_mnist.serving.settings import Settings

ANSWER = b'"%s"' % bytes(488).replace(b"\0", b"x")
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]


def make_app(settings: Settings, *, reads: bool) -> ASGIApp:
    """Make the app of one worker."""
    from edge_mnist.serving.engine import Engine  # in the worker, as the server's own app

    engine = Engine(settings)

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        body, is_whole = b"", False
        while not is_whole:
            message = await receive()
            body += message["body"]
            is_whole = not message["more_body"]
        if reads and body:
            await engine.predict([body])
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})

    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=min(count_cores(), 4))
    parser.add_argument("--reads", action="store_true")
    given = parser.parse_args()
    server.make_worker_app = partial(make_app, reads=given.reads)
    settings = Settings(workers=given.workers)
    server.serve(settings, "127.0.0.1", 0, announce=lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
