"""The page: its picture path is Python's, its answers are the Predictor's, in a real browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from conftest import Command, serve
from numpy.typing import NDArray
from web_pictures import CASES, REASONS, write_pictures

from edge_mnist.errors import MissingPackageError, ModelError, OutputError
from edge_mnist.exporting.web import PAGE, choose_model, export_web, read_page
from edge_mnist.model_file import FLOAT32_NAME, INT8_NAME, shipped_folder
from edge_mnist.picture.frame import ModelInput, read_picture
from edge_mnist.predictor import Prediction, Predictor

MODEL = shipped_folder() / "default"
SCRIPT = Path(__file__).with_name("read_pictures.mjs")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
needs_npm = pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with the page in a folder of it."""
    root = tmp_path_factory.mktemp("site")
    try:
        export_web(MODEL, root / "below" / "digits")
    except MissingPackageError as error:
        pytest.skip(str(error))
    return root


def read_with_node(pictures: list[Path], folder: Path, framing: str) -> list[ModelInput]:
    """Read pictures, all those in one folder, with the page's JavaScript."""
    web = folder / "web"
    shutil.copytree(PAGE, web)
    (web / "package.json").write_text('{"type": "module"}')  # the page itself needs none
    command = ["node", str(SCRIPT), str(web), str(pictures[0].parent), framing]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == [path.name for path in pictures]
    return [ModelInput(decode(row["image"]), row["reason"]) for row in rows]


def decode(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(28, 28)


def assert_alike(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> None:
    """Hold images to others: 99 % of each one's pixels within two levels, and all labels equal."""
    distance = np.abs(found.astype(int) - expected)
    shares = (distance <= 2).mean(axis=(1, 2))
    assert shares.min() >= 0.99, np.flatnonzero(shares < 0.99)
    predictor = Predictor(MODEL / INT8_NAME)
    assert (predictor.predict_images(found)[0] == predictor.predict_images(expected)[0]).all()


def images_of(inputs: list[ModelInput]) -> NDArray[np.uint8]:
    return np.stack([model_input.image for model_input in inputs])


def test_python_still_gives_the_stored_cases(pictures: list[Path]) -> None:
    with np.load(CASES) as cases:
        inputs = [read_picture(path) for path in pictures]
        assert len(inputs) == len(cases["images"]) >= 200
        assert [model_input.reason or "" for model_input in inputs] == [
            REASONS[n] for n in cases["reasons"]
        ]
        assert_alike(images_of(inputs), cases["images"])


@needs_node
def test_javascript_gives_the_stored_cases(pictures: list[Path], tmp_path: Path) -> None:
    inputs = read_with_node(pictures, tmp_path, "digit")
    with np.load(CASES) as cases:
        assert [model_input.reason or "" for model_input in inputs] == [
            REASONS[n] for n in cases["reasons"]
        ]
        assert_alike(images_of(inputs), cases["images"])


@needs_node
@pytest.mark.parametrize("framing", ["ink", "whole"])
def test_the_other_framings_too(pictures: list[Path], tmp_path: Path, framing: str) -> None:
    (tmp_path / "some").mkdir()
    some = [Path(shutil.copy(path, tmp_path / "some")) for path in pictures[::9]]
    found = images_of(read_with_node(some, tmp_path, framing))
    assert_alike(found, images_of([read_picture(path, framing=framing) for path in some]))


def test_the_page_asks_nothing_of_anybody() -> None:
    text = b"\n".join(read_page().values()).decode()
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}
    policy = re.findall(r'Policy" content="([^"]+)"', text)[0]
    sources = set(re.findall(r"'[a-z-]+'", policy))
    assert policy.startswith("default-src 'none'")
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'"}
    assert not re.search(r"\b(on[a-z]+|style)=\"", text)  # the policy would refuse them


def test_every_room_of_the_picture_path_has_its_twin() -> None:
    rooms = {path.stem for path in (PAGE.parent / "picture").glob("*.py")} - {"__init__", "finding"}
    assert rooms <= {path.stem for path in (PAGE / "picture").glob("*.js")}


def test_scripts_stay_short() -> None:
    for path in [*PAGE.rglob("*.js"), SCRIPT]:
        lines = path.read_text(encoding="ascii").splitlines()
        assert len(lines) <= 300, path
        assert max(map(len, lines)) <= 100, path


def test_the_model_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    float32 = MODEL / FLOAT32_NAME
    assert choose_model() == MODEL / INT8_NAME
    assert choose_model(MODEL) == MODEL / INT8_NAME
    assert choose_model(float32) == float32
    assert choose_model("nano") == MODEL / "nano" / INT8_NAME
    assert choose_model(shutil.copy(float32, tmp_path / "other.onnx")) == tmp_path / "other.onnx"
    shutil.copy(float32, tmp_path / FLOAT32_NAME)
    assert choose_model(tmp_path) == tmp_path / FLOAT32_NAME
    monkeypatch.setenv("EDGE_MNIST_MODEL", str(float32))
    assert choose_model() == float32
    with pytest.raises(ModelError):
        choose_model("nowhere")


def test_another_page_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(OutputError, match="is not from edge-mnist"):
        export_web(MODEL, tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"


def test_no_npm_is_one_line(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("export", "--target", "web", env={"PATH": str(tmp_path)})
    assert done.returncode == 3
    assert done.stderr.startswith("edge-mnist: npm is not installed")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "web").exists()


@needs_npm
def test_no_network_is_one_line(edge_mnist: Command, tmp_path: Path) -> None:
    empty = {"npm_config_cache": str(tmp_path / "empty")}
    done = edge_mnist("export", "--target", "web", "--offline", env=empty)
    assert done.returncode == 3
    assert done.stderr.startswith("edge-mnist: npm cannot get onnxruntime-web@")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "moon"), "no target named 'moon'"),
        (("--target", "web", "--quantize"), "--quantize is for checkpoints"),
    ],
)
def test_wrong_usage(edge_mnist: Command, options: tuple[str, ...], words: str) -> None:
    done = edge_mnist("export", *options)
    assert done.returncode == 2
    assert words in done.stderr


@needs_npm
def test_the_command(edge_mnist: Command, site: Path, tmp_path: Path) -> None:
    float32 = MODEL / FLOAT32_NAME
    done = edge_mnist("export", "--target", "web", "-o", "page", float32, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    files = [path for path in (tmp_path / "page").rglob("*") if path.is_file()]
    assert result["files"] == len(files)
    assert result["size_bytes"] == sum(path.stat().st_size for path in files)
    assert (tmp_path / "page" / FLOAT32_NAME).read_bytes() == float32.read_bytes()
    again = edge_mnist("export", "--target", "web", "-o", "page")
    assert again.returncode == 0, again.stderr
    assert "model.int8.onnx" in again.stdout
    assert "http.server" in again.stderr


def test_it_needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, edge_mnist.exporting.web\n"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def browser(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser on the page, which is a folder of a site, with the network cut after loading."""
    if not PROGRAM:
        pytest.skip("chromium is not installed")
    profile = tmp_path_factory.mktemp("profile")
    with serve(site) as address, Chromium(profile) as browser:
        browser.call("Emulation.setEmulatedMedia", features=[])
        browser.open(f"{address}below/digits/index.html")
        browser.wait_for("document.body.dataset.status === 'empty'")
        cut = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.call("Network.emulateNetworkConditions", offline=True, **cut)
        yield browser


def read_page_answer(browser: Chromium) -> dict[str, Any]:
    """Wait for an answer and read it off the page."""
    browser.wait_for("document.body.dataset.status !== 'empty'")
    answer = browser.run("""({
        status: document.body.dataset.status,
        reason: document.body.dataset.reason || null,
        name: document.body.dataset.name || null,
        text: document.getElementById("answer").textContent,
        shares: [...document.querySelectorAll("td.number")].map((one) => +one.textContent),
        seen: [...document.getElementById("seen").getContext("2d").getImageData(0, 0, 28, 28).data],
    })""")
    answer["seen"] = np.array(answer["seen"]).reshape(28, 28, 4)[:, :, 0]
    return dict(answer)


def ask_by_file(browser: Chromium, path: Path) -> dict[str, Any]:
    browser.run("document.getElementById('clear').click()")
    browser.choose_file("#file", path)
    return read_page_answer(browser)


def assert_same_answer(answer: dict[str, Any], expected: Prediction) -> None:
    assert (answer["status"], answer["name"]) == (expected.status, expected.name)
    assert answer["reason"] == expected.reason
    assert (expected.name or f"Rejected: {expected.reason}") in answer["text"]
    assert (np.abs(answer["seen"] - expected.image) <= 2).mean() >= 0.99
    probabilities = np.array(expected.probabilities)
    assert np.abs(np.array(answer["shares"]) / 100 - probabilities).max() < 0.02


def test_answers_in_the_browser_are_the_predictors(browser: Chromium, pictures: list[Path]) -> None:
    predictor = Predictor(MODEL / INT8_NAME)
    for path in pictures[::6]:
        assert_same_answer(ask_by_file(browser, path), predictor.predict(path))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP"])
def test_other_formats_in_the_browser(
    browser: Chromium, drawings: list[Path], tmp_path: Path, kind: str
) -> None:
    from PIL import Image

    predictor = Predictor(MODEL / INT8_NAME)
    for digit in (2, 5, 7):
        path = tmp_path / f"{digit}.{kind.lower()}"
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees for viewing
        sheet = Image.open(drawings[digit]).resize((1200, 1040))
        if kind == "JPEG":
            sheet.rotate(90, expand=True).save(path, kind, exif=exif)
        else:
            sheet.save(path, kind)
        assert_same_answer(ask_by_file(browser, path), predictor.predict(path))


def test_a_file_that_is_no_picture(browser: Chromium, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("only text")
    answer = ask_by_file(browser, tmp_path / "text.png")
    assert answer["status"] == "error"
    assert "Cannot be read" in answer["text"]


def test_a_picture_is_dropped(browser: Chromium, drawings: list[Path]) -> None:
    browser.run("document.getElementById('clear').click()")
    content = base64.b64encode(drawings[4].read_bytes()).decode()
    browser.run(f"""{{
        const bytes = Uint8Array.from(atob("{content}"), (one) => one.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], "4.png", {{ type: "image/png" }}));
        document.body.dispatchEvent(new DragEvent("drop", {{ dataTransfer, bubbles: true }}));
    }}""")
    expected = Predictor(MODEL / INT8_NAME).predict(drawings[4])
    assert_same_answer(read_page_answer(browser), expected)


def test_a_seven_is_drawn(browser: Chromium) -> None:
    browser.run("document.getElementById('clear').click()")
    left, top, side = browser.run(
        "(({ left, top, width }) => [left, top, width])"
        "(document.getElementById('sheet').getBoundingClientRect())"
    )
    places = [(0.25, 0.25), (0.5, 0.2), (0.72, 0.25), (0.6, 0.5), (0.45, 0.8)]
    for number, (x, y) in enumerate([*places, places[-1]]):
        kind = "mousePressed" if not number else "mouseMoved"
        kind = "mouseReleased" if number == len(places) else kind
        place = {"x": left + x * side, "y": top + y * side}
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    browser.wait_for("document.getElementById('spoken').textContent.startsWith('7')")
    assert not browser.run("document.getElementById('spoken').textContent").startswith("Nothing")
    browser.run("document.getElementById('undo').click()")
    assert browser.run("document.body.dataset.status") == "empty"


def test_a_one_is_drawn_with_keys(browser: Chromium) -> None:
    browser.run("document.getElementById('clear').click()")
    browser.run("document.getElementById('sheet').focus()")
    for _ in range(12):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowDown", modifiers=8)
    browser.call("Input.dispatchKeyEvent", type="keyUp", key="Shift")
    browser.wait_for("document.getElementById('spoken').textContent.startsWith('1')")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert browser.run("document.body.dataset.status") == "empty"


def test_nothing_was_asked_of_the_network(browser: Chromium) -> None:
    asked = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert len(asked) > 10
    assert all("/below/digits/" in url for url in asked if url.startswith("http"))
    entries = [event["entry"] for event in browser.named("Log.entryAdded")]
    assert [entry for entry in entries if entry["level"] == "error"] == []
    assert browser.named("Runtime.exceptionThrown") == []
