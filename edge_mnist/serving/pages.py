"""The page and the documentation: files of the package, held in memory."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_mnist.serving.replies import PAGE_HEADERS

FOLDER = Path(__file__).parent / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def make_page_routes() -> list[Route]:
    """Make a route for every file of the page."""
    return [Route(path, _make_endpoint(*file), methods=["GET"]) for path, file in FILES.items()]


def _make_endpoint(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (FOLDER / name).read_bytes()

    async def send_file(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return send_file
