"""The page, driven in a real browser where there is one."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Chromium
from test_serving import Server, run_server

SEVEN = ((70, 60), (210, 60), (120, 230))


class Page(Chromium):
    """A browser that shows the server's page."""

    @property
    def faults(self) -> list[dict[str, Any]]:
        return [*self.named("Runtime.exceptionThrown"), *self.named("Log.entryAdded")]

    def show(self, url: str, *, width: int = 1000, dark: bool = False) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.open(url)

    def draw(self, points: tuple[tuple[int, int], ...]) -> None:
        """Draw a line on the sheet, in its own pixels, with the mouse."""
        script = "(({x, y, width}) => [x, y, width])(sheet.getBoundingClientRect())"
        left, top, width = self.run(script)
        scale = width / 280
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1)]
        for kind, (x, y) in zip(kinds, points, strict=True):
            self._mouse(kind, left + x * scale, top + y * scale)
        self._mouse("mouseReleased", left + x * scale, top + y * scale)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13}[key]
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def choose(self, path: Path) -> None:
        self.choose_file("#file", path)

    def save_screenshot(self, path: Path) -> None:
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    @property
    def answer(self) -> str:
        return str(self.run("document.getElementById('answer').textContent"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if not PROGRAM:
        pytest.skip("chromium is not installed")
    with Page(tmp_path_factory.mktemp("browser")) as running:
        yield running


def test_draw_undo_and_clear(server: Server, page: Page) -> None:
    page.show(f"{server.url}/")
    page.wait_for("document.querySelectorAll('#bars tbody tr').length == 10")
    page.draw(SEVEN)
    page.wait_for("document.getElementById('answer').textContent.startsWith('7, ')")
    assert page.run("document.querySelector('tr.best th').textContent") == "7"
    # A bar grows for a moment.
    page.wait_for("document.querySelector('tr.best .bar').getBoundingClientRect().width > 50")
    assert page.run("document.getElementById('server-time').textContent").endswith(" ms")
    seen = "document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data"
    assert page.run(f"Math.max(...{seen}.filter((_, place) => place % 4 == 0))") > 200
    page.draw(((30, 250), (250, 250)))
    page.wait_for("!document.getElementById('answer').textContent.startsWith('7, ')")
    page.run("document.getElementById('undo').click()")
    page.wait_for("document.getElementById('answer').textContent.startsWith('7, ')")
    page.run("document.getElementById('clear').click()")
    assert page.answer == "Nothing drawn yet."
    assert page.faults == []


def test_upload_and_rejection(
    server: Server, page: Page, drawings: list[Path], tmp_path: Path
) -> None:
    page.show(f"{server.url}/")
    page.choose(drawings[4])
    page.wait_for("document.getElementById('answer').textContent.startsWith('4, ')")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    page.choose(text)
    page.wait_for("document.getElementById('answer').textContent.startsWith('Cannot be read')")
    page.run("document.getElementById('clear').click()")
    for x in (50, 230):
        page.draw(((x, 40), (x, 240)))
    page.wait_for("document.getElementById('answer').textContent.startsWith('Rejected: ')")
    assert page.faults == []


def test_keyboard_and_screen_reader(server: Server, page: Page) -> None:
    page.show(f"{server.url}/")
    reached = []
    for _ in range(4):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["clear", "undo", "file", "A"]
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    names = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node["ignored"]
    }
    assert ("button", "Clear") in names
    assert any(name.startswith("Choose a picture") for _, name in names)
    page.draw(SEVEN)
    page.wait_for("document.querySelector('[aria-live=polite]').textContent.startsWith('7, ')")


def test_phone_width_and_documentation(server: Server, page: Page) -> None:
    for path in ("/", "/docs"):
        page.show(server.url + path, width=360)
        page.wait_for("!document.body.innerText.includes('Reading the document')")
        assert page.run("document.documentElement.scrollWidth") <= 360
    page.wait_for("document.body.innerText.includes('POST /predict')")
    assert page.faults == []
