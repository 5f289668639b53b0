"""The page: its picture path is Python's, its answers are the Predictor's, in a real browser."""

import base64
import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import PROGRAM
from conftest import Command, serve
from numpy.typing import NDArray
from page_driver import MODEL, SEVEN, Page, PageInBrowser
from PIL import Image
from web_pictures import CASES, REASONS, write_pictures

from edge_mnist.errors import ModelError, OutputError
from edge_mnist.exporting.c.data import write_data
from edge_mnist.exporting.c.layers import read_network
from edge_mnist.exporting.web import PAGE, choose_model, export_web
from edge_mnist.model_file import FLOAT32_NAME, INT8_NAME, read_model, shipped_folder
from edge_mnist.picture import ModelInput, read_picture
from edge_mnist.picture.decode import to_grey
from edge_mnist.predictor import Predictor
from edge_mnist.session import open_session

SCRIPT = Path(__file__).with_name("read_pictures.mjs")
# Pictures whose pixels may differ from Python's, though not label and reason: transparent ones of
# more than 1,024 pixels a side, which Pillow averages down to that; and 16 bits of which a part is
# used, because a browser decodes 8.
DIFFERING = {"large-03", "large-05", "large-07"}
SHALLOW = {"odd_modes-07", "odd_modes-11", "odd_modes-15", "odd_modes-19"}
needs_clang = pytest.mark.skipif(not shutil.which("clang-14"), reason="clang-14 is not installed")
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
needs_npm = pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def read_with_node(
    pictures: list[Path], folder: Path, framing: str, model: Path = MODEL / INT8_NAME
) -> tuple[list[ModelInput], NDArray[np.float32]]:
    """Read pictures with the page's JavaScript and WebAssembly; return the logits, too."""
    web = folder / "web"
    shutil.copytree(PAGE, web)
    (web / "package.json").write_text('{"type": "module"}')  # the page itself needs none
    with (folder / "pictures").open("wb") as file:
        for path in pictures:
            with Image.open(path) as picture:
                if picture.mode.startswith("I"):  # the browser has 8 bits
                    pixels = Image.fromarray(to_grey(path)).convert("RGBA")
                else:
                    pixels = picture.convert("RGBA")
            file.write(struct.pack("<2I", *pixels.size) + pixels.tobytes())
    (folder / "network").write_bytes(write_data(read_network(read_model(model))))
    command = ["node", SCRIPT, web, folder / "pictures", framing, folder / "network"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    inputs = [ModelInput(decode(row["image"]), row["reason"]) for row in rows]
    logits = [np.frombuffer(base64.b64decode(row["logits"]), np.float32) for row in rows]
    assert len(inputs) == len(pictures)
    return inputs, np.stack(logits)


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
    """And the WebAssembly the logits of onnxruntime."""
    inputs, logits = read_with_node(pictures, tmp_path, "digit")
    with np.load(CASES) as cases:
        assert [model_input.reason or "" for model_input in inputs] == [
            REASONS[n] for n in cases["reasons"]
        ]
        alike = [path.stem not in DIFFERING for path in pictures]
        assert_alike(images_of(inputs)[alike], cases["images"][alike])
    assert_equal_logits(logits, inputs, MODEL / INT8_NAME)


def assert_equal_logits(logits: NDArray[np.float32], inputs: list[ModelInput], model: Path) -> None:
    session = open_session(read_model(model).content)
    (expected,) = session.run(["logits"], {"images": images_of(inputs)})
    assert logits.tobytes() == expected.tobytes()


@needs_node
@pytest.mark.parametrize("framing", ["ink", "whole"])
def test_the_other_framings_too(pictures: list[Path], tmp_path: Path, framing: str) -> None:
    some = pictures[::9]
    inputs, _ = read_with_node(some, tmp_path, framing)
    assert_alike(
        images_of(inputs), images_of([read_picture(path, framing=framing) for path in some])
    )


def test_the_page_asks_nothing_of_anybody(site: Path) -> None:
    page = (site / "below" / "digits" / "index.html").read_text()
    urls = {"http://www.w3.org/2000/svg", "http://localhost:8000/."}  # to be read by a person
    assert set(re.findall(r"https?://[^\s\"']+", page)) <= urls
    policy = re.findall(r'Policy" content="([^"]+)"', page)[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy.replace("'wasm-unsafe-eval'", "")
    assert not re.search(r"\b(on[a-z]+|style)=\"", page)  # the policy would refuse them
    assert not re.search(r"\b(src|href)=\"(?!data:|#)", page)


@pytest.mark.parametrize(("model", "most"), [("nano", 100_000), ("default", 150_000)])
def test_one_file_of_bounded_size(tmp_path: Path, model: str, most: int) -> None:
    result = export_web(model, tmp_path)
    assert result.page_bytes == (tmp_path / "index.html").stat().st_size <= most
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "index.html",
        "manifest.webmanifest",
        "service_worker.js",
    ]


@needs_clang
def test_the_wasm_file_is_what_the_script_builds(tmp_path: Path) -> None:
    subprocess.run(["sh", PAGE / "wasm" / "build.sh", tmp_path / "built.wasm"], check=True)
    packed = (PAGE / "edge_mnist.wasm").read_bytes()
    assert (tmp_path / "built.wasm").read_bytes() == packed
    assert len(packed) < 40_000


def test_a_float32_file_needs_the_runtime(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("export", "--target", "web", MODEL / FLOAT32_NAME)
    assert done.returncode == 3
    assert "is float32; expected an int8 file" in done.stderr
    assert "--runtime ort computes it" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "web").exists()


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
    (tmp_path / "index.html").unlink()
    (tmp_path / "service_worker.js").write_text("mine")
    with pytest.raises(OutputError, match=r"service_worker.js exists and is not from edge-mnist"):
        export_web(MODEL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["service_worker.js"]


def test_no_npm_is_one_line(edge_mnist: Command, tmp_path: Path) -> None:
    done = edge_mnist("export", "--target", "web", "--runtime", "ort", env={"PATH": str(tmp_path)})
    assert done.returncode == 3
    assert done.stderr.startswith("edge-mnist: npm is not installed")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "web").exists()


@needs_npm
def test_no_network_is_one_line(edge_mnist: Command, tmp_path: Path) -> None:
    empty = {"npm_config_cache": str(tmp_path / "empty")}
    done = edge_mnist("export", "--target=web", "--runtime=ort", "--offline", env=empty)
    assert done.returncode == 3
    assert done.stderr.startswith("edge-mnist: npm cannot get onnxruntime-web@")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "moon"), "no target named 'moon'"),
        (("--target", "web", "--quantize"), "--quantize has no effect with --target web"),
        (("--target", "web", "--runtime", "tf"), "--runtime: expected wasm or ort, got tf"),
        (("--target", "c", "--runtime", "ort"), "--runtime has no effect with --target c"),
        (("--max-accuracy-lost", "0.1"), "--max-accuracy-lost has no effect without --quantize"),
    ],
)
def test_wrong_usage(edge_mnist: Command, options: tuple[str, ...], words: str) -> None:
    done = edge_mnist("export", *options)
    assert done.returncode == 2
    assert words in done.stderr


@needs_npm
def test_the_command(edge_mnist: Command, runtime_site: Path, tmp_path: Path) -> None:
    float32 = MODEL / FLOAT32_NAME
    done = edge_mnist(
        "export", "--target", "web", "--runtime", "ort", "-o", "page", float32, "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    files = [path for path in (tmp_path / "page").rglob("*") if path.is_file()]
    assert result["files"] == len(files)
    assert result["size_bytes"] == sum(path.stat().st_size for path in files)
    assert (tmp_path / "page" / FLOAT32_NAME).read_bytes() == float32.read_bytes()
    again = edge_mnist("export", "--target", "web", "-o", "page")
    assert again.returncode == 0, again.stderr
    assert "model.int8.onnx" in again.stdout
    assert f"webbrowser file://{tmp_path}/page/index.html" in again.stderr


def test_it_needs_neither_torch_nor_onnx() -> None:
    code = (
        "import sys, edge_mnist.exporting.web\n"
        "print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.fixture(scope="module")
def page(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, opened as a file."""
    if not PROGRAM:
        pytest.skip("chromium is not installed")
    with Page(tmp_path_factory.mktemp("profile")) as page:
        page.show((site / "below" / "digits" / "index.html").as_uri())
        yield page


def assert_same_answers(page: PageInBrowser, paths: list[Path]) -> None:
    """Compare the page's answers with those of the Predictor."""
    predictor = Predictor(MODEL / INT8_NAME)
    for path in paths:
        answer, expected = page.read_picture(path), predictor.predict(path)
        assert (answer["status"], answer["name"]) == (expected.status, expected.name), path
        assert answer["reason"] == expected.reason, path
        if path.stem in DIFFERING | SHALLOW:
            continue
        assert (np.abs(answer["image"].astype(int) - expected.image) <= 2).mean() >= 0.99, path
        if answer["probabilities"] is not None:
            distance = np.abs(np.array(answer["probabilities"]) - np.array(expected.probabilities))
            assert distance.max() < 0.02, path


def test_answers_in_the_browser_are_the_predictors(page: Page, pictures: list[Path]) -> None:
    assert_same_answers(page, pictures[::6])


def test_transparent_and_deep_pictures(page: Page, pictures: list[Path]) -> None:
    """Those whose pixels may differ have the same answers."""
    assert_same_answers(page, [path for path in pictures if path.stem in DIFFERING | SHALLOW])


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


def assert_wasm_gives_onnxruntimes_logits(page: PageInBrowser) -> None:
    """Compare the logits of the stored cases' images, bit for bit."""
    model = read_model(MODEL / INT8_NAME)
    with np.load(CASES) as cases, serve(PAGE) as address:
        images = cases["images"]
        found = page.compute_logits(address, write_data(read_network(model)), images.tobytes())
    (expected,) = open_session(model.content).run(["logits"], {"images": images})
    assert found == expected.tobytes()


def test_logits_in_the_browser_are_onnxruntimes(tmp_path: Path) -> None:
    if not PROGRAM:
        pytest.skip("chromium is not installed")
    with Page(tmp_path) as page:
        assert_wasm_gives_onnxruntimes_logits(page)


def test_a_file_that_is_no_picture(page: Page, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("only text, of more than thirty characters")
    answer = page.read_picture(tmp_path / "text.png")
    assert answer["status"] == "error"
    assert answer["error"].startswith("Not a picture that this browser can read, or damaged.")


def test_a_side_that_is_too_long(page: Page, tmp_path: Path) -> None:
    """Python refuses it, too; Chromium's canvas would be blank."""
    Image.new("1", (65_536, 3)).save(tmp_path / "long.png")
    answer = page.read_picture(tmp_path / "long.png")
    assert answer["error"].startswith("65536 x 3 pixels are too many.")


def test_nothing_was_asked_of_the_network(page: Page) -> None:
    asked = [event["request"]["url"] for event in page.named("Network.requestWillBeSent")]
    assert len(asked) == 1
    assert asked[0].startswith("file://")
    assert page.faults == []


def test_a_hosted_page_is_installed_and_opens_offline(
    site: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not PROGRAM:
        pytest.skip("chromium is not installed")
    other = site / "below" / "digits" / "other.html"
    other.write_text("<title>another page</title>")
    with Page(tmp_path_factory.mktemp("installed")) as page:
        with serve(site) as address:
            page.show(f"{address}below/digits/")
            page.run("navigator.serviceWorker.ready.then(() => true)")
            assert page.call("Page.getInstallabilityErrors")["installabilityErrors"] == []
            assert page.faults == []
            page.open(f"{address}below/digits/other.html")
            assert page.run("document.title") == "another page"
        for name in ("", "index.html?from=home#top"):
            page.open("about:blank")
            page.open(f"{address}below/digits/{name}")  # the server is gone
            page.wait_for_status("empty")
            page.draw(SEVEN)
            page.wait_for_digit("7")
    other.unlink()
