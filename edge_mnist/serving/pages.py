"""The page and the documentation: files of the package, held in memory."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_mnist.serving.replies import PAGE_HEADERS

FOLDER = Path(__file__).parent / "page"
LOOK = Path(__file__).parents[1] / "web"  # shared with the page that needs no server
FILES = {
    "/": (FOLDER / "index.html", "text/html"),
    "/page.css": (LOOK / "page.css", "text/css"),
    "/page.js": (FOLDER / "page.js", "text/javascript"),
    "/docs": (FOLDER / "docs.html", "text/html"),
    "/docs.js": (FOLDER / "docs.js", "text/javascript"),
    "/icon.svg": (LOOK / "icon.svg", "image/svg+xml"),
}


def make_page_routes() -> list[Route]:
    """Make a route for every file of the page."""
    return [Route(path, _make_endpoint(*file), methods=["GET"]) for path, file in FILES.items()]


def _make_endpoint(path: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()

    async def send_file(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return send_file
