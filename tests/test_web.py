"""The page: its picture path is Python's, its answers are the Predictor's, in a real browser."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM
from conftest import Command, serve
from numpy.typing import NDArray
from page_driver import MODEL, Page
from PIL import Image
from web_pictures import CASES, REASONS, write_pictures

from edge_mnist.errors import ModelError, OutputError
from edge_mnist.exporting.web import PAGE, choose_model, export_web, read_page
from edge_mnist.model_file import FLOAT32_NAME, INT8_NAME, shipped_folder
from edge_mnist.picture import ModelInput, read_picture
from edge_mnist.predictor import Predictor

SCRIPT = Path(__file__).with_name("read_pictures.mjs")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
needs_npm = pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


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
    files = read_page()
    text = b"\n".join(files[name] for name in files if not name.endswith(".wasm")).decode()
    urls = {"http://www.w3.org/2000/svg", "http://localhost:8000/."}  # to be read by a person
    assert set(re.findall(r"https?://[^\s\"']+", text)) == urls
    policy = re.findall(r'Policy" content="([^"]+)"', text)[0]
    sources = set(re.findall(r"'[a-z-]+'", policy))
    assert policy.startswith("default-src 'none'")
    assert sources == {"'none'", "'self'", "'wasm-unsafe-eval'"}
    assert not re.search(r"\b(on[a-z]+|style)=\"", text)  # the policy would refuse them


def test_the_model_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    float32 = MODEL / FLOAT32_NAME
    assert choose_model() == MODEL / INT8_NAME
    assert choose_model(MODEL) == MODEL / INT8_NAME
    assert choose_model(float32) == float32
    assert choose_model("nano") == shipped_folder() / "nano" / INT8_NAME
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
        (("--target", "web", "--quantize"), "--quantize has no effect with --target web"),
        (("--max-accuracy-lost", "0.1"), "--max-accuracy-lost has no effect without --quantize"),
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
def page(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, in a folder of a site, with the network cut once it was loaded."""
    if not PROGRAM:
        pytest.skip("chromium is not installed")
    with serve(site) as address, Page(tmp_path_factory.mktemp("profile")) as page:
        page.show(f"{address}below/digits/index.html")
        page.open_backend()
        page.set_network(offline=True)
        yield page


def assert_same_answers(page: Page, paths: list[Path]) -> None:
    """Compare the page's answers with those of the Predictor."""
    predictor = Predictor(MODEL / INT8_NAME)
    for path in paths:
        answer, expected = page.read_picture(path), predictor.predict(path)
        assert (answer["status"], answer["name"]) == (expected.status, expected.name), path
        assert answer["reason"] == expected.reason, path
        assert (np.abs(answer["image"].astype(int) - expected.image) <= 2).mean() >= 0.99, path
        distance = np.abs(np.array(answer["probabilities"]) - np.array(expected.probabilities))
        assert distance.max() < 0.02, path


def test_answers_in_the_browser_are_the_predictors(page: Page, pictures: list[Path]) -> None:
    assert_same_answers(page, pictures[::6])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP"])
def test_other_formats_in_the_browser(
    page: Page, drawings: list[Path], tmp_path: Path, kind: str
) -> None:
    paths = [tmp_path / f"{digit}.{kind.lower()}" for digit in (2, 5, 7)]
    for digit, path in zip((2, 5, 7), paths, strict=True):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees for viewing
        sheet = Image.open(drawings[digit]).resize((1200, 1040))
        if kind == "JPEG":
            sheet.rotate(90, expand=True).save(path, kind, exif=exif)
        else:
            sheet.save(path, kind)
    assert_same_answers(page, paths)


def test_a_file_that_is_no_picture(page: Page, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("only text")
    answer = page.read_picture(tmp_path / "text.png")
    assert answer["status"] == "error"
    assert answer["error"] == "not a picture that this browser can read, or damaged"


def test_pictures_are_read_outside_the_pages_thread(page: Page, drawings: list[Path]) -> None:
    page.run("window.decoder = DecompressionStream, DecompressionStream = undefined, null")
    assert page.read_picture(drawings[7])["name"] == "7"  # a PNG, which takes that decoder
    page.run("DecompressionStream = decoder, null")


def test_nothing_was_asked_of_the_network(page: Page) -> None:
    asked = [event["request"]["url"] for event in page.named("Network.requestWillBeSent")]
    assert len(asked) > 10
    assert all("/below/digits/" in url for url in asked if url.startswith("http"))
    assert page.faults == []
