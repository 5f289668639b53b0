"""The exported page in a real Firefox: drawing, and the answers of the Predictor."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from firefox import PROGRAM
from page_driver import SEVEN, FirefoxPage, between
from test_web import assert_same_answers, assert_wasm_gives_onnxruntimes_logits
from web_pictures import write_pictures

STROKE = [SEVEN[0], *between(SEVEN, 3)]


@pytest.fixture(scope="module")
def url(site: Path) -> str:
    return (site / "below" / "digits" / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirefoxPage]:
    if not PROGRAM:
        pytest.skip("firefox is not installed")
    with FirefoxPage(tmp_path_factory.mktemp("firefox")) as running:
        yield running


@pytest.fixture
def page(browser: FirefoxPage, url: str) -> FirefoxPage:
    browser.show(url)
    return browser


def test_drawing_undo_redo_and_clear(page: FirefoxPage) -> None:
    page.press("Control+a")
    page.draw(STROKE)
    page.wait_for_digit("7")
    page.press("Control+z")
    page.wait_for_status("empty")
    page.press("Control+y")
    page.wait_for_digit("7")
    page.click("clear")
    page.wait_for_status("empty")


def test_a_stroke_that_begins_outside(page: FirefoxPage) -> None:
    page.draw([(0.5, -0.1), (0.5, 0.2), (0.5, 0.6)])
    assert page.ink()[20:58, 50].all()
    assert page.run("getSelection().toString()") == ""
    page.click("clear")
    page.draw(STROKE)
    page.wait_for_digit("7")


def test_two_fingers_and_a_long_press(page: FirefoxPage) -> None:
    """One finger draws: what it does while it rests, and what another one does, is nothing."""
    first, second = [(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)], [(0.2, 0.8), (0.2, 0.5), (0.2, 0.2)]
    page.draw(first, second, pointer="touch", hold_ms=800)
    assert not page.ink()[:, :44].any()
    page.wait_for_digit("1")
    assert page.run("[scrollY, getSelection().toString()]") == [0, ""]


def test_drawing_with_keys(page: FirefoxPage) -> None:
    page.press("Tab")
    assert page.run("document.activeElement.id") == "canvas"
    page.press(*["ArrowUp"] * 7, " ", *["ArrowDown"] * 14, " ")
    page.wait_for_digit("1")
    page.press("Delete")
    page.wait_for_status("empty")


def test_answers_are_the_predictors(page: FirefoxPage, tmp_path: Path) -> None:
    assert_same_answers(page, write_pictures(tmp_path)[::8])


def test_logits_are_onnxruntimes(page: FirefoxPage) -> None:
    assert_wasm_gives_onnxruntimes_logits(page)


def test_a_hidden_canvas_is_reported(browser: FirefoxPage, url: str) -> None:
    """As Tor Browser does; what the page would read of a drawing is noise."""
    browser.set_preference("privacy.resistFingerprinting", enabled=True)
    try:
        browser.show(url, status="error")
        assert browser.text("headline") == "This browser hides what is drawn"
    finally:
        browser.set_preference("privacy.resistFingerprinting", enabled=False)
