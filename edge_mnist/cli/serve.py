"""The command that serves: serve."""

import os
from typing import Annotated

import typer

from edge_mnist.cli.app import MODEL_HELP, Provider, app, find_command_model
from edge_mnist.errors import check_number
from edge_mnist.machine import count_cores, require_package

Bytes = Annotated[int, typer.Option(min=1, help="Bytes of a request's body; more is 413.")]
Pixels = Annotated[
    int, typer.Option(min=1, help="Pixels of a request's pictures together; more is 413.")
]
Pictures = Annotated[int, typer.Option(min=1, help="Pictures in a request; more is 413.")]
Queue = Annotated[int, typer.Option(min=1, help="Pictures that wait in a worker; more is 429.")]
Connections = Annotated[int, typer.Option(min=2, help="Open in a worker; more is 503.")]
Timeout = Annotated[
    float,
    typer.Option(help="Seconds for a body to arrive, then 408; for the answer, then 503."),
]
MAX_TIMEOUT_S = 86_400
MAX_WORKERS = 4  # unless more are asked for: each takes 100 MB


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, help="Processes that share the port. [default: cores, up to 4]"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    provider: Provider = None,
    accept_all: Annotated[
        bool, typer.Option("--accept-all", help="Answer whatever the picture shows.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name this server is reached by, besides IP addresses; repeat."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Site whose pages may ask (CORS); repeat.")
    ] = None,
    max_bytes: Bytes = 16_000_000,
    max_pixels: Pixels = 64_000_000,
    max_pictures: Pictures = 64,
    max_queue: Queue = 1024,
    max_connections: Connections = 500,
    timeout: Timeout = 10.0,
) -> None:
    """Serve a page to draw on, POST /predict, KServe v2, /healthz, /metrics and /docs.

    With EDGE_MNIST_API_KEY in the environment, requests need that key.
    """
    check_number("--timeout", timeout, 0.1, MAX_TIMEOUT_S)  # typer's ranges let NaN pass
    require_package("uvicorn", "serve")
    from edge_mnist.serving.server import serve as run_server
    from edge_mnist.serving.settings import KEY_VARIABLE, Settings

    key = os.environ.get(KEY_VARIABLE)
    settings = Settings(
        model=str(find_command_model(model)),
        provider=provider,
        accept_all=accept_all,
        workers=workers or min(count_cores(), MAX_WORKERS),
        allow_hosts=tuple(name.lower() for name in (host, *(allow_host or ()))),
        allow_origins=tuple(allow_origin or ()),
        key=key.strip() if key else None,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_pictures=max_pictures,
        max_queue=max_queue,
        max_connections=max_connections,
        timeout_s=timeout,
    )
    run_server(settings, host, port, announce=lambda text: print(text, flush=True))
