"""The page and the documentation: files of the package, held in memory."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edge_mnist.serving.replies import PAGE_HEADERS

DOCS = Path(__file__).parent / "page"
PAGE = Path(__file__).parents[1] / "web"  # the same page that `export --target web` writes
SCRIPTS = ("answer.js", "backend_types.js", "drawing.js", "input.js", "page.js", "startup.js")
FILES = {
    "/": (PAGE / "index.html", "text/html"),
    "/page.css": (PAGE / "page.css", "text/css"),
    "/icon.svg": (PAGE / "icon.svg", "image/svg+xml"),
    # The page loads its backend under this name; an exported folder holds another one.
    "/backend.js": (PAGE / "backend_server.js", "text/javascript"),
    **{f"/{name}": (PAGE / name, "text/javascript") for name in SCRIPTS},
    "/docs": (DOCS / "docs.html", "text/html"),
    "/docs.js": (DOCS / "docs.js", "text/javascript"),
}


def make_page_routes() -> list[Route]:
    """Make a route for every file of the page."""
    return [Route(path, _make_endpoint(*file), methods=["GET"]) for path, file in FILES.items()]


def _make_endpoint(path: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = path.read_bytes()

    async def send_file(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=PAGE_HEADERS)

    return send_file
