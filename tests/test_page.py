"""The page in a real browser, with both of its backends: the server, and the model in the page."""

import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM
from conftest import SilentHandler, serve
from page_driver import CONTROL, SEVEN, SHIFT, Page, Point, between, fetch_axe
from test_serving import run_server

EIGHT: list[Point] = [
    (0.5 + 0.2 * math.sin(2 * angle), 0.5 - 0.32 * math.cos(angle))
    for angle in np.linspace(0, 2 * math.pi, 60)
]
SCREENS = {
    "desktop": (1280, 900),
    "phone": (390, 844),
    "landscape": (844, 390),
    "small": (320, 568),
}
EXAMPLES = "document.querySelectorAll('.example')"


@pytest.fixture(scope="module")
def urls(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with run_server(tmp_path_factory.mktemp("server")) as server, serve(site) as address:
        yield {"server": f"{server.url}/", "web": f"{address}below/digits/"}


@pytest.fixture(scope="module")
def runtime_url(runtime_site: Path) -> Iterator[str]:
    """The page with onnxruntime-web."""
    with serve(runtime_site) as address:
        yield f"{address}below/digits/"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if not PROGRAM:
        pytest.skip("chromium is not installed")
    with Page(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(params=["server", "web"])
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


@pytest.fixture
def page(browser: Page, url: str) -> Iterator[Page]:
    """The page, loaded anew on a desktop; whatever a test does, the browser must not complain."""
    browser.show(url)
    yield browser
    assert browser.faults == []


@pytest.fixture
def phone(browser: Page, url: str) -> Iterator[Page]:
    browser.show(url, width=390, height=844)
    yield browser
    assert browser.faults == []


def test_drawing_undo_redo_and_clear(page: Page) -> None:
    page.draw(SEVEN)
    page.wait_for_digit("7")
    assert not page.run(f"{page.find('canvas')}.matches(':focus-visible')")
    assert page.text("headline").endswith("% sure")
    assert np.argmax(page.shares()) == 7
    assert page.seen().max() > 200
    page.draw(((0.1, 0.9), (0.9, 0.9)))
    page.draw(((0.1, 0.1), (0.1, 0.9)))
    page.wait_for(f"{page.find('digit')}.textContent !== '7'")
    page.click("undo")
    page.press("z", modifiers=CONTROL)
    page.wait_for_digit("7")
    page.click("clear")
    assert page.status == "empty"
    assert not page.ink().any()
    page.click("undo")  # what was cleared comes back
    page.wait_for_digit("7")
    page.press("z", modifiers=CONTROL | SHIFT)
    assert page.status == "empty"
    page.click("undo")
    page.click("redo")
    assert page.status == "empty"
    assert page.run(f"{page.find('redo')}.disabled")


def test_pen_and_eraser_have_sizes(page: Page) -> None:
    line = ((0.2, 0.5), (0.8, 0.5))
    inks = []
    for size in ("thin", "medium", "thick"):
        page.run(f"document.querySelector('[value={size}]').click()")
        page.draw(line)
        inks.append(int(page.ink().sum()))
        page.click("clear")
    assert inks[0] < inks[1] < inks[2]
    page.draw(line)
    page.run("document.querySelector('[value=eraser]').click()")
    page.draw(((0.5, 0.2), (0.5, 0.8)))
    ink = page.ink()
    assert not ink[50, 50]
    assert ink[50, 25]
    page.draw(line)
    assert not page.ink().any()
    page.wait_for_status("empty")  # and no rejection of a blank canvas


@pytest.mark.parametrize("start", [(0.5, -0.015), (0.5, -0.1), (-0.02, 0.3)])
def test_a_stroke_that_begins_outside(page: Page, start: Point) -> None:
    """It draws from where it comes in, selects nothing, and the next strokes are whole."""
    page.draw((start, (0.5, 0.5)))
    assert page.ink()[49, 49]
    assert page.run("getSelection().toString()") == ""
    page.click("clear")
    page.draw(SEVEN)
    assert page.ink()[78:82, 43:47].any()  # down to its last point
    page.wait_for_digit("7")


def test_drawing_after_select_all(page: Page) -> None:
    page.press("a", modifiers=CONTROL)
    page.draw(SEVEN)
    assert page.ink()[78:82, 43:47].any()
    page.wait_for_digit("7")


def test_a_press_on_a_button_does_not_draw(page: Page) -> None:
    box = page.run(f"(({{ x, y }}) => [x, y])({page.find('choose')}.getBoundingClientRect())")
    press = {"button": "left", "buttons": 1, "clickCount": 1}
    page.call("Input.dispatchMouseEvent", type="mousePressed", x=box[0] + 5, y=box[1] + 5, **press)
    page.mouse("mouseMoved", (0.5, 0.5))
    page.mouse("mouseMoved", (0.7, 0.5))
    page.mouse("mouseReleased", (0.7, 0.5))
    assert page.status == "empty"
    assert not page.ink().any()


def test_the_right_button_and_a_long_press_do_nothing(page: Page) -> None:
    page.run(
        "document.addEventListener('contextmenu',"
        " (event) => (document.title = `prevented: ${event.defaultPrevented}`))"
    )
    page.mouse("mousePressed", (0.5, 0.5), button="right")
    page.mouse("mouseMoved", (0.6, 0.6), button="right")
    page.mouse("mouseReleased", (0.6, 0.6), button="right")
    page.wait_for("document.title === 'prevented: true'")
    assert not page.ink().any()


def test_a_second_finger_is_ignored(phone: Page) -> None:
    phone.touch("touchStart", (0.5, 0.2))
    for y in np.linspace(0.2, 0.5, 8):
        phone.touch("touchMove", (0.5, float(y)))
    phone.touch("touchStart", (0.5, 0.5), (0.2, 0.2))
    for y in np.linspace(0.5, 0.8, 8):
        phone.touch("touchMove", (0.5, float(y)), (0.2, 1 - float(y)))
    phone.touch("touchEnd")
    ink = phone.ink()
    assert ink[25:75, 49:51].all()
    assert not ink[:, :44].any()
    phone.wait_for_digit("1")
    assert phone.run("scrollY") == 0


def test_a_palm_is_ignored(phone: Page) -> None:
    phone.touch("touchStart", (0.8, 0.8), radius_px=60)
    phone.touch("touchMove", (0.7, 0.8), radius_px=60)
    phone.touch("touchEnd")
    assert not phone.ink().any()
    # Of a hand that came down before the pen nothing is kept, and the pen draws.
    phone.touch("touchStart", (0.8, 0.8))
    phone.draw(SEVEN, pointer="pen")
    phone.touch("touchEnd")
    assert not phone.ink()[78:, 75:].any()
    phone.wait_for_digit("7")


def test_drawing_by_touch(phone: Page) -> None:
    phone.touch("touchStart", SEVEN[0])
    for point in between(SEVEN, 8):
        phone.touch("touchMove", point)
    phone.touch("touchEnd")
    phone.wait_for_digit("7")
    assert not phone.run(f"{phone.find('canvas')}.matches(':focus-visible')")
    assert phone.run("scrollY") == 0


def test_drawing_with_keys(page: Page) -> None:
    page.run("document.activeElement.blur()")
    page.press("Tab")
    assert page.run("document.activeElement.id") == "canvas"
    for _ in range(7):
        page.press("ArrowUp")
    assert page.status == "empty"
    page.press(" ")
    for _ in range(14):
        page.press("ArrowDown")
    page.press(" ")
    page.wait_for_digit("1")
    page.wait_for(f"{page.find('spoken')}.textContent.startsWith('1, ')")
    page.press("ArrowDown", modifiers=SHIFT)  # lifted, it draws no more
    assert page.ink()[:, :44].sum() == 0
    page.press("Delete")
    assert page.status == "empty"
    assert page.run("scrollY") == 0


def test_an_answer_is_steady_while_drawing(page: Page) -> None:
    page.run("""{
        window.shown = [];
        const answer = document.getElementById("answer");
        const note = () => shown.push(
            `${answer.dataset.status} ${document.getElementById("digit").textContent}`);
        new MutationObserver(note).observe(answer, { subtree: true, attributes: true,
            characterData: true, childList: true, attributeFilter: ["data-status"] });
    }""")
    page.mouse("mousePressed", EIGHT[0])
    for point in EIGHT:
        page.mouse("mouseMoved", point)
        time.sleep(0.03)
    during = page.run("shown")
    page.mouse("mouseReleased", EIGHT[-1])
    page.wait_for_digit("8")
    assert {text.split()[0] for text in during} <= {"ok", "empty"}
    changes = page.run(
        "shown.filter((text, at) => text.startsWith('ok') && text !== shown[at - 1])"
    )
    assert len(changes) <= 4, changes


def test_a_rejection_says_what_to_do(page: Page) -> None:
    page.run(f"{EXAMPLES}[0].click()")
    page.wait_for_digit("2")
    page.run(f"{EXAMPLES}[4].click()")
    page.wait_for_status("rejected")
    assert page.text("headline") == "More than one digit"
    assert "one digit at a time" in page.text("advice")
    assert max(page.shares()) == 0
    assert "%" not in page.text("bars")
    assert page.seen().max() > 200
    page.wait_for(f"{page.find('spoken')}.textContent.startsWith('More than one digit')")


@pytest.mark.parametrize(("number", "name"), [*enumerate("2579")])
def test_examples(page: Page, number: int, name: str) -> None:
    page.run(f"{EXAMPLES}[{number}].click()")
    page.wait_for_digit(name)


def test_a_tap_is_a_dot_and_no_digit(phone: Page) -> None:
    phone.touch("touchStart", (0.4, 0.4))
    phone.touch("touchEnd")
    phone.wait_for_status("rejected")
    assert phone.text("headline") == "Draw larger"
    assert phone.ink()[40, 40]
    phone.click("clear")
    phone.draw(SEVEN)
    phone.wait_for_digit("7")


def test_both_backends_read_the_same(
    browser: Page, urls: dict[str, str], drawings: list[Path]
) -> None:
    answers = []
    for url in urls.values():
        browser.show(url)
        answers.append([browser.read_picture(path) for path in drawings])
    for number, (first, second) in enumerate(zip(*answers, strict=True)):
        assert first["name"] == second["name"] == str(number)
        assert np.abs(first["image"].astype(int) - second["image"]).max() <= 2
        assert first["probabilities"] == pytest.approx(second["probabilities"], abs=0.01)


def test_classes_that_are_no_digits(browser: Page, site: Path, tmp_path: Path) -> None:
    """A model of clothes, say, has names that are words, and no digits to try."""
    text = (site / "below" / "digits" / "index.html").read_text()
    names = [f"Ankle boot {number}" for number in range(10)]
    digits = json.dumps([str(number) for number in range(10)])
    assert digits in text
    (tmp_path / "index.html").write_text(text.replace(digits, json.dumps(names)))
    browser.show((tmp_path / "index.html").as_uri())
    assert browser.text("title") == "Draw or choose a picture"
    assert browser.run(f"{browser.find('examples')}.hidden")
    browser.draw(SEVEN)
    browser.wait_for_digit("Ankle boot 7")
    result = browser.find("result")
    assert browser.run(f"{result}.scrollWidth <= {result}.clientWidth")
    assert browser.faults == []


def test_files(page: Page, drawings: list[Path], tmp_path: Path) -> None:
    page.choose_file("#file", drawings[4])
    page.wait_for_digit("4")
    assert page.ink().any()
    page.give_file("drop", drawings[3])
    page.wait_for_digit("3")
    page.give_file("paste", drawings[6])
    page.wait_for_digit("6")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    page.choose_file("#camera", text)
    page.wait_for_status("error")
    assert page.text("headline") == "This file cannot be read"
    page.click("undo")
    page.wait_for_digit("6")
    page.draw(SEVEN)  # takes the picture's place
    page.wait_for_digit("7")


def test_text_that_is_pasted_is_no_picture(page: Page) -> None:
    page.run("""{
        const clipboardData = new DataTransfer();
        clipboardData.setData("text/plain", "7");
        document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    }""")
    assert page.text("headline") == "That is not a picture file"


def test_the_camera_is_offered_on_a_phone(browser: Page, url: str) -> None:
    for screen, is_offered in (("phone", True), ("desktop", False)):
        width, height = SCREENS[screen]
        browser.show(url, width=width, height=height)
        assert browser.run(f"{browser.find('photograph')}.offsetWidth > 0") == is_offered
    assert browser.run(f"{browser.find('camera')}.getAttribute('capture')") == "environment"


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("example", [3, 4, 5])
def test_canvas_and_answer_are_on_the_first_screen(
    browser: Page, url: str, screen: str, example: int
) -> None:
    width, height = SCREENS[screen]
    browser.show(url, width=width, height=height)
    browser.run(f"{EXAMPLES}[{example}].click()")
    browser.wait_for_status("ok" if example == 3 else "rejected")
    boxes = browser.run(
        "['canvas', 'result'].map((id) => document.getElementById(id).getBoundingClientRect())"
        ".map(({ top, bottom, left, right }) => [top, bottom, left, right])"
    )
    for top, bottom, left, right in boxes:
        assert top >= 0
        assert left >= 0
        assert bottom <= height
        assert right <= width
    assert browser.run("scrollY") == 0
    assert browser.run("document.documentElement.scrollWidth") <= width
    if example == 3:
        size = browser.run(f"parseFloat(getComputedStyle({browser.find('digit')}).fontSize)")
        assert size >= 100


def test_no_connection(browser: Page, urls: dict[str, str]) -> None:
    browser.show(urls["server"])
    browser.set_network(offline=True)
    browser.draw(SEVEN)
    browser.wait_for_status("error")
    assert browser.text("headline") == "No connection to the server"
    assert browser.ink().any()
    browser.set_network()  # the page tries again by itself, or when asked
    browser.wait_for(
        f"{browser.find('retry')}.click(), {browser.find('digit')}.textContent === '7'"
    )


def test_the_key_is_asked_for(browser: Page, tmp_path: Path) -> None:
    with run_server(tmp_path, EDGE_MNIST_API_KEY="open-sesame") as server:
        browser.show(f"{server.url}/")
        browser.draw(SEVEN)
        browser.wait_for_status("error")
        assert browser.text("headline") == "This server asks for a key"
        for key in ("wrong", "schlüssel ☃"):
            type_key(browser, key)
            browser.wait_for(f"{browser.find('headline')}.textContent.includes('not accepted')")
            browser.run(f"{browser.find('headline')}.textContent = ''")
        type_key(browser, " open-sesame ")
        browser.wait_for_digit("7")
        assert not browser.run(f"{browser.find('key-form')}.offsetWidth")


def type_key(browser: Page, key: str) -> None:
    browser.run(f"{{const key = {browser.find('key')}; key.value = ''; key.focus(); }}")
    browser.call("Input.insertText", text=key)
    browser.press("Enter")


def test_onnxruntime_opened_as_a_file(browser: Page, runtime_site: Path) -> None:
    page = runtime_site / "below" / "digits" / "index.html"
    browser.show(page.as_uri(), status="error")
    assert browser.text("headline") == "This page needs a web server"
    assert "python3 -m http.server" in browser.text("advice")


class SandboxedHandler(SilentHandler):
    """Sends pages that run in a sandbox, as in a frame of a notebook or of documentation."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", "sandbox allow-scripts")
        super().end_headers()


def test_in_a_sandbox(browser: Page, site: Path) -> None:
    """There a page may not even ask whether there are service workers."""
    with serve(site, SandboxedHandler) as address:
        browser.show(f"{address}below/digits/")
        browser.draw(SEVEN)
        browser.wait_for_digit("7")


def test_without_webassembly(browser: Page, urls: dict[str, str]) -> None:
    script = {"source": "delete globalThis.WebAssembly"}
    remove = functools.partial(browser.call, "Page.addScriptToEvaluateOnNewDocument", **script)
    browser.show(urls["web"], first=remove, status="error")
    assert browser.text("headline") == "WebAssembly is switched off"


@pytest.mark.parametrize("name", ["model.int8.onnx", "ort/ort.js", "ort/ort.wasm"])
def test_a_file_that_does_not_arrive(browser: Page, runtime_url: str, name: str) -> None:
    def block() -> None:
        browser.call("Network.setCacheDisabled", cacheDisabled=True)
        browser.call("Network.setBlockedURLs", urls=[f"*/{name}"])

    browser.show(runtime_url, first=block, status="error")
    assert browser.text("headline") == "Part of this page did not load"


def test_progress_while_loading(browser: Page, runtime_url: str) -> None:
    """On a slow line the bytes are counted, and what is drawn meanwhile is read in the end."""

    def slow_down() -> None:
        browser.call("Network.setCacheDisabled", cacheDisabled=True)
        browser.set_network(bytes_per_s=2_000_000)

    browser.show(runtime_url, first=slow_down, status="loading")
    browser.wait_for(f"{browser.find('progress')}.value > 0.1")
    assert browser.status == "loading"
    assert re.search(r"\d\.\d of 14\.\d MB", browser.text("advice"))
    browser.draw(SEVEN)
    browser.set_network()
    browser.wait_for_digit("7")


def test_a_slow_answer_is_announced(browser: Page, urls: dict[str, str]) -> None:
    browser.show(urls["server"])
    waiting = "getComputedStyle(document.querySelector('.waiting')).visibility"
    assert browser.run(waiting) == "hidden"
    browser.set_network(latency_ms=2000)
    browser.draw(SEVEN)
    browser.wait_for(f"{waiting} === 'visible'")
    browser.wait_for_digit("7")
    browser.wait_for(f"{waiting} === 'hidden'")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fetch_axe(tmp_path_factory.mktemp("axe"))


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("screen", ["desktop", "phone"])
def test_axe_finds_nothing(browser: Page, url: str, axe: str, screen: str, is_dark: bool) -> None:
    width, height = SCREENS[screen]
    browser.show(url, width=width, height=height, is_dark=is_dark)
    browser.run(axe)
    states: dict[str, Callable[[], object]] = {
        "empty": lambda: browser.run("document.querySelector('details').open = true"),
        "ok": lambda: browser.run(f"{EXAMPLES}[0].click()"),
        "rejected": lambda: browser.run(f"{EXAMPLES}[4].click()"),
        "error": lambda: browser.run(
            f"{browser.find('answer')}.dataset.status = 'error', "
            f"{browser.find('key-form')}.hidden = false"
        ),
    }
    for status, reach in states.items():
        reach()
        browser.wait_for_status(status)
        found = browser.run("axe.run().then(({ violations }) => violations)")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_names_for_a_screen_reader(page: Page) -> None:
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    }
    assert {
        ("button", "Undo"),
        ("button", "Clear"),
        ("radio", "Eraser"),
        ("radio", "Thick"),
    } <= named
    assert ("button", "Choose picture") in named
    assert ("application", "Canvas to draw a digit on") in named
