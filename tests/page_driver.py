"""Use the page as a person does: with mouse, fingers, pen and keys, in real browsers."""

import base64
import itertools
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from chromium import Chromium
from firefox import Firefox
from numpy.typing import NDArray

from edge_mnist.errors import MissingPackageError
from edge_mnist.exporting.web import export_web
from edge_mnist.model_file import shipped_folder

MODEL = shipped_folder() / "default"
AXE = "axe-core@4.14.1"
Point = tuple[float, float]  # in sides of the canvas
SEVEN: tuple[Point, ...] = ((0.25, 0.22), (0.72, 0.22), (0.6, 0.5), (0.45, 0.82))
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowUp": 38, "ArrowDown": 40, "Delete": 46}
WEBDRIVER_KEYS = {
    "Tab": "\ue004",
    "Control": "\ue009",
    "Delete": "\ue017",
    "ArrowUp": "\ue013",
    "ArrowDown": "\ue015",
}
CONTROL, SHIFT = 2, 8
# Why a picture was rejected, by the headline that the page shows.
REASONS = {
    "No digit found": "blank",
    "More than one digit": "more than one digit",
    "Not sure what this is": "not a digit",
}


def export_page(folder: Path, *, runtime: str = "wasm") -> Path:
    """Export the shipped model as a page below a folder, which is returned."""
    try:
        export_web(MODEL, folder / "below" / "digits", runtime=runtime)
    except MissingPackageError as error:
        pytest.skip(str(error))
    return folder


def fetch_axe(folder: Path) -> str:
    """Have npm get axe-core, and return its script."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    command = ["npm", "pack", AXE, "--ignore-scripts", "--prefer-offline", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot get {AXE}: {done.stderr}")
    (archive,) = folder.glob("axe-core-*.tgz")
    shutil.unpack_archive(archive, folder)
    return (folder / "package" / "axe.min.js").read_text()


class PageInBrowser(Browser):
    """A browser that shows the page: what does not depend on which browser it is."""

    def find(self, name: str) -> str:
        """Return the JavaScript that finds an element by its id."""
        return f"document.getElementById('{name}')"

    def text(self, name: str) -> str:
        """Return the text of the element with an id."""
        return str(self.run(f"{self.find(name)}.textContent"))

    @property
    def status(self) -> str:
        return str(self.run(f"{self.find('answer')}.dataset.status"))

    def wait_for_status(self, *status: str) -> None:
        """Wait for one of some kinds of answers."""
        self.wait_for(f"{list(status)}.includes({self.find('answer')}.dataset.status)")

    def wait_for_digit(self, name: str) -> None:
        """Wait until a class is the answer."""
        self.wait_for(f"{self.find('digit')}.textContent === '{name}'")

    def click(self, name: str) -> None:
        """Click on the element with an id."""
        self.run(f"{self.find(name)}.click()")

    def shares(self) -> list[float]:
        """Return the length of each bar, 0..1."""
        script = "[...document.querySelectorAll('.bar')].map((bar) => parseFloat(bar.style.width))"
        return [(width or 0) / 100 for width in self.run(script)]

    def seen(self) -> NDArray[np.uint8]:
        """Return what the model saw, as the page shows it."""
        script = f"[...{self.find('seen')}.getContext('2d').getImageData(0, 0, 28, 28).data]"
        return np.array(self.run(script), np.uint8).reshape(28, 28, 4)[:, :, 0]

    def ink(self) -> NDArray[np.bool_]:
        """Return where the canvas is dark, 100 x 100, once what was drawn is painted."""
        script = f"""new Promise((resolve) => requestAnimationFrame(() => setTimeout(() => {{
            const small = new OffscreenCanvas(100, 100).getContext("2d");
            small.drawImage({self.find("canvas")}, 0, 0, 100, 100);
            resolve([...small.getImageData(0, 0, 100, 100).data]);
        }})))"""
        return np.array(self.run(script)).reshape(100, 100, 4)[:, :, 0] < 128

    def place(self, point: Point) -> dict[str, float]:
        """Return where a point of the canvas is in the window."""
        box = self.run(
            f"(({{ left, top, width }}) => [left, top, width])"
            f"({self.find('canvas')}.getBoundingClientRect())"
        )
        return {"x": box[0] + point[0] * box[2], "y": box[1] + point[1] * box[2]}

    def compute_logits(self, address: str, network: bytes, images: bytes) -> bytes:
        """Compute logits with the page's WebAssembly.

        Args:
            address: Where the page's sources are served.
            network: See ``edge_mnist.exporting.c.data.write_data``.
            images: Shape (N, 28, 28), uint8.

        Returns:
            The logits, shape (N, classes), float32.
        """
        data = [base64.b64encode(content).decode() for content in (network, images)]
        self.open(address + "index.html")
        logits = self.run(f"""(async () => {{
            const decode = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            const [network, images] = {data}.map(decode);
            const {{ openWasm }} = await import("{address}wasm.js");
            const content = await (await fetch("{address}edge_mnist.wasm")).arrayBuffer();
            const wasm = await openWasm(content, network);
            const logits = [];
            for (let at = 0; at < images.length; at += 784) {{
                logits.push(...wasm.computeLogits(images.subarray(at, at + 784)));
            }}
            return logits;
        }})()""")
        return np.array(logits, np.float32).tobytes()

    def read_picture(self, path: Path) -> dict[str, Any]:
        """Choose a picture, as a person does, and return what the page says of it.

        The image is an array; probabilities are None unless the picture was accepted.
        """
        self.click("clear")
        self.wait_for_status("empty")
        self.choose_file("#file", path)
        self.wait_for_status("ok", "rejected", "error")
        status, headline = self.status, self.text("headline")
        is_ok, is_error = status == "ok", status == "error"
        return {
            "status": status,
            "name": self.text("digit") if is_ok else None,
            "probabilities": self.shares() if is_ok else None,
            "reason": REASONS[headline] if status == "rejected" else None,
            "error": self.text("advice") if is_error else None,
            "image": None if is_error else self.seen(),
        }


class Page(PageInBrowser, Chromium):
    """The page in Chromium."""

    def show(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        is_dark: bool = False,
        status: str = "empty",
        first: Callable[[], object] = bool,
    ) -> None:
        """Load the page in a new tab, on a phone if the screen is narrow or low.

        Args:
            url: The page.
            width: Of the window, in pixels.
            height: Of the window, in pixels.
            is_dark: Prefer a dark color scheme.
            status: Wait for this.
            first: Is called in the new tab before the page is loaded.
        """
        self.open_tab()
        is_phone = min(width, height) < 500
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone, maxTouchPoints=5)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        first()
        self.open(url)
        self.wait_for_status(status)

    @property
    def faults(self) -> list[dict[str, Any]]:
        """What the browser complained about since the page was loaded."""
        entries = [event["entry"] for event in self.named("Log.entryAdded")]
        errors = [entry for entry in entries if entry["level"] == "error"]
        return [*self.named("Runtime.exceptionThrown"), *errors]

    def mouse(
        self, kind: str, point: Point, *, button: str = "left", pointer: str = "mouse"
    ) -> None:
        """Press, move or release the mouse, or a pen."""
        buttons = {"left": 1, "right": 2, "none": 0}[button] if kind != "mouseReleased" else 0
        given = {"button": button, "buttons": buttons, "clickCount": 1, "pointerType": pointer}
        self.call("Input.dispatchMouseEvent", type=kind, **given, **self.place(point))

    def draw(self, points: Sequence[Point], *, steps: int = 6, pointer: str = "mouse") -> None:
        """Draw a line with the mouse."""
        self.mouse("mousePressed", points[0], pointer=pointer)
        for point in between(points, steps):
            self.mouse("mouseMoved", point, pointer=pointer)
        self.mouse("mouseReleased", points[-1], pointer=pointer)

    def touch(self, kind: str, *fingers: Point, radius_px: float = 10) -> None:
        """Put fingers down, move or lift them; those given are those on the screen."""
        points = [
            {**self.place(finger), "id": number, "radiusX": radius_px, "radiusY": radius_px}
            for number, finger in enumerate(fingers)
        ]
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def press(self, key: str, *, modifiers: int = 0) -> None:
        """Press and release a key."""
        code = KEYS.get(key, ord(key[0].upper()))
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        text = {"text": "\r"} if key == "Enter" else {}
        if key == "a" and modifiers == CONTROL:
            text = {"commands": ["selectAll"]}  # type: ignore[dict-item]
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def give_file(self, event: str, path: Path) -> None:
        """Drop or paste a file."""
        content = base64.b64encode(path.read_bytes()).decode()
        self.run(f"""{{
            const bytes = Uint8Array.from(atob("{content}"), (one) => one.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "{path.name}", {{ type: "image/png" }}));
            const options = {{ dataTransfer: data, clipboardData: data, bubbles: true }};
            document.body.dispatchEvent("{event}" === "drop"
                ? new DragEvent("drop", options) : new ClipboardEvent("paste", options));
        }}""")

    def set_network(
        self, *, offline: bool = False, latency_ms: float = 0, bytes_per_s: float = -1
    ) -> None:
        """Cut the network or slow it down; without arguments it is as fast as it is."""
        speed = {"downloadThroughput": bytes_per_s, "uploadThroughput": -1}
        given = {"offline": offline, "latency": latency_ms, **speed}
        self.call("Network.emulateNetworkConditions", **given)


class FirefoxPage(PageInBrowser, Firefox):
    """The page in Firefox."""

    def show(self, url: str, *, status: str = "empty") -> None:
        """Load the page on a desktop, and wait for a kind of answer."""
        self.call("WebDriver:SetWindowRect", width=1280, height=985)
        self.open(url)
        self.wait_for_status(status)

    def draw(self, *strokes: Sequence[Point], pointer: str = "mouse", hold_ms: int = 0) -> None:
        """Draw with the mouse; or with fingers, all at once. Each is held before it moves."""
        fingers = []
        for number, points in enumerate(strokes):
            start, *moves = [{"type": "pointerMove", **self.pixel(point)} for point in points]
            down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
            pause = {"type": "pause", "duration": hold_ms}
            timed = [{**move, "duration": 20} for move in moves]
            given = {"type": "pointer", "parameters": {"pointerType": pointer}}
            actions = [start, down, pause, *timed, up]
            fingers.append({"id": f"{pointer} {number}", "actions": actions, **given})
        self.call("WebDriver:PerformActions", actions=fingers)

    def press(self, *keys: str) -> None:
        """Press and release keys; several at once if they are joined by +."""
        actions = []
        for key in keys:
            codes = [WEBDRIVER_KEYS.get(one, one) for one in key.split("+")]
            actions += [{"type": "keyDown", "value": code} for code in codes]
            actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        keyboard = {"type": "key", "id": "keys", "actions": actions}
        self.call("WebDriver:PerformActions", actions=[keyboard])

    def pixel(self, point: Point) -> dict[str, int]:
        """Return where a point of the canvas is in the window, as WebDriver takes it."""
        return {axis: round(place) for axis, place in self.place(point).items()}


def between(points: Sequence[Point], steps: int) -> list[Point]:
    """Return points of a line, as many from each corner to the next."""
    return [
        (x + (to_x - x) * step / steps, y + (to_y - y) * step / steps)
        for (x, y), (to_x, to_y) in itertools.pairwise(points)
        for step in range(1, steps + 1)
    ]
