"""The picture path in C: as a module of Python, as a library, as WebAssembly."""

import ctypes
import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import edge_mnist.picture
from edge_mnist import model_file
from edge_mnist.errors import PictureError, UsageError
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.picture import FRAMINGS, READERS, REASONS, digit, frame, read_picture
from edge_mnist.predictor import Predictor

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "edge_mnist" / "picture"
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror"]
Grey = NDArray[np.uint8]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed")


def draw_picture(seed: int) -> Grey:
    """Draw noise, strokes, ruled paper, frames, shadows, of any size; no two alike."""
    generator = np.random.default_rng(seed)
    height, width = np.exp(generator.uniform(np.log(3), np.log(420), 2)).astype(int).tolist()
    if generator.random() < 0.6:
        width = max(1, int(height * generator.uniform(0.6, 1.6)))
    draw = (draw_noise, draw_specks, draw_strokes, draw_ruled, draw_frame, *[photograph] * 3)[
        generator.integers(8)
    ]
    picture = draw(generator, height, width)
    return 255 - picture if generator.random() < 0.3 else picture


def draw_noise(generator: np.random.Generator, height: int, width: int) -> Grey:
    return generator.integers(0, 256, (height, width), dtype=np.uint8)


def draw_specks(generator: np.random.Generator, height: int, width: int) -> Grey:
    return np.uint8(255) * (generator.random((height, width)) < generator.random() / 2)


def draw_strokes(generator: np.random.Generator, height: int, width: int) -> Grey:
    sheet = Image.new("L", (width, height), 255)
    for _ in range(generator.integers(1, 6)):
        points = generator.uniform(-0.1, 1.1, (4, 2)) * (width, height)
        thick = max(1, int(generator.uniform(0, 0.1) * min(height, width)))
        level = int(generator.integers(0, 200))
        ImageDraw.Draw(sheet).line(points.ravel().tolist(), fill=level, width=thick)
    return np.array(sheet)


def draw_ruled(generator: np.random.Generator, height: int, width: int) -> Grey:
    picture = draw_strokes(generator, height, width)
    picture[:: max(3, height // 12)] = 150
    return picture


def draw_frame(generator: np.random.Generator, height: int, width: int) -> Grey:
    sheet = Image.fromarray(draw_strokes(generator, height, width))
    box = (width // 8, height // 8, width - width // 8, height - height // 8)
    ImageDraw.Draw(sheet).rectangle(box, outline=50, width=max(1, height // 60))
    return np.asarray(sheet)


def photograph(generator: np.random.Generator, height: int, width: int) -> Grey:
    """Draw strokes in a shadow, with noise."""
    levels = draw_strokes(generator, height, width).astype(np.float32)
    edge, soft = width * generator.random(), max(1, 0.1 * width * generator.random())
    levels *= 0.5 + 0.5 / (1 + np.exp((np.arange(width) - edge) / soft))
    levels += generator.normal(0, generator.uniform(0, 12), levels.shape)
    return np.clip(levels, 0, 255).astype(np.uint8)


def assert_both_alike(picture: Grey, framing: str = "digit") -> str | None:
    found = read_picture(picture, framing=framing, reader="compiled")
    expected = read_picture(picture, framing=framing, reader="numpy")
    assert found.reason == expected.reason
    assert (found.image == expected.image).all()
    return found.reason


def test_the_module_was_compiled_with_the_package() -> None:
    assert edge_mnist.picture.HAS_COMPILED, "a C compiler is installed: pip install -e . again"
    assert Predictor().reader == "compiled"
    assert Predictor(reader="numpy").reader == "numpy"
    with pytest.raises(UsageError, match="there are: compiled, numpy"):
        Predictor(reader="fortran")


def test_constants_are_those_of_python() -> None:
    source = (FOLDER / "reader.c").read_text() + (FOLDER / "reader.h").read_text()
    constants = dict(re.findall(r"#define (\w+) (\d+)u?\b", source))
    names = [name for name in constants if hasattr(digit, name) or hasattr(frame, name)]
    assert len(names) == 15
    for name in names:
        assert int(constants[name]) == getattr(digit, name, getattr(frame, name, None)), name
    assert constants["EDGE_MNIST_SIDE_PX"] == "28"
    for prefix, words in (("EDGE_MNIST_FRAME_", FRAMINGS), ("EDGE_MNIST_", REASONS)):
        for number, word in enumerate(words):
            name = prefix + (word or "one digit").upper().replace(" ", "_")
            assert re.search(rf"\b{name}(_DIGIT)? = {number}\b", source), name
    assert model_file.FRAMINGS == FRAMINGS
    page = (ROOT / "edge_mnist" / "web" / "wasm.js").read_text()
    assert f"const FRAMINGS = {json.dumps(FRAMINGS)};" in page
    assert f"const REASONS = {json.dumps(REASONS)};" in page
    with pytest.raises(UsageError, match="no framing named 'half'"):
        read_picture(np.zeros((9, 9), np.uint8), framing="half")


def test_both_readers_give_the_same() -> None:
    reasons = [
        assert_both_alike(draw_picture(seed), FRAMINGS[seed % 3 if seed % 4 == 0 else 0])
        for seed in range(500)
    ]
    assert min(map(reasons.count, REASONS)) >= 3


@pytest.mark.parametrize("framing", FRAMINGS)
def test_both_readers_give_the_same_of_the_smallest_and_the_longest(framing: str) -> None:
    generator = np.random.default_rng(0)
    for shape in [(1, 1), (1, 65_535), (65_535, 2), (3, 3), (2048, 32), (31, 2049), (28, 28)]:
        assert_both_alike(generator.integers(0, 256, shape, dtype=np.uint8), framing)


def test_views_are_read_as_copies_are() -> None:
    picture = np.asarray(draw_digit(4, np.random.default_rng(0)))
    for view in (picture[::-1], picture[:, ::-1], picture[::2, ::3], picture.T, picture[5:, 7:-3]):
        assert (read_picture(view).image == read_picture(view.copy()).image).all()


def test_a_side_that_is_too_long_is_refused() -> None:
    for reader in READERS:
        with pytest.raises(PictureError, match="65536 x 3 pixels, a side is longer than 65,535"):
            read_picture(np.zeros((3, 65_536), np.uint8), reader=reader)


def test_other_threads_run_meanwhile() -> None:
    picture = np.full((6000, 6000), 255, np.uint8)
    is_reading, n_counted = threading.Event(), 0

    def read() -> None:
        is_reading.set()
        read_picture(picture, reader="compiled")
        is_reading.clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)  # a thread keeps the lock until it gives it up
    try:
        thread = threading.Thread(target=read)
        thread.start()
        while thread.is_alive():
            n_counted += is_reading.is_set()
            thread.join(0.0001)
    finally:
        sys.setswitchinterval(interval)
    assert n_counted > 5


class Answer(ctypes.Structure):
    _fields_ = (("image", ctypes.c_uint8 * 784), ("reason", ctypes.c_int32))


@needs("gcc")
def test_the_shared_library_is_freestanding(tmp_path: Path) -> None:
    """It needs no symbol of any library, and Python's ctypes reads pictures with it."""
    command = ["gcc", "-std=c99", "-O2", *WARNINGS, "-ffreestanding", "-shared", "-fPIC"]
    library = tmp_path / "libreader.so"
    options = ["-nostdlib", "-fno-tree-loop-distribute-patterns", "-Wl,--no-undefined"]
    source = str(FOLDER / "reader.c")
    subprocess.run([*command, *options, source, "-o", str(library)], check=True)
    functions = ctypes.CDLL(str(library))
    functions.edge_mnist_scratch_size.restype = ctypes.c_size_t
    picture, answer = np.asarray(draw_digit(6, np.random.default_rng(1))), Answer()
    height, width = picture.shape
    size = functions.edge_mnist_scratch_size(width, height)

    def read(size: int, framing: int = 0) -> int:
        scratch = ctypes.create_string_buffer(size)
        grey = picture.ctypes.data_as(ctypes.c_void_p)
        error: int = functions.edge_mnist_read_framed(
            grey,
            width,
            height,
            width,
            framing,
            ctypes.byref(answer),
            scratch,
            ctypes.c_size_t(size),
        )
        return error

    assert read(size) == 0
    expected = read_picture(picture)
    assert (np.frombuffer(answer.image, np.uint8).reshape(28, 28) == expected.image).all()
    assert REASONS[answer.reason] == expected.reason
    assert read(100) == -2
    assert read(size, framing=3) == -3
    assert functions.edge_mnist_scratch_size(0, 5) == 0
    assert functions.edge_mnist_scratch_size(65_536, 5) == 0


@needs("clang-14")
def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    """A short run of fuzz_reader.c, whose head says how to run a long one."""
    sanitizers = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    sources = [ROOT / "tests" / "fuzz_reader.c", FOLDER / "reader.c"]
    program = tmp_path / "fuzz_reader"
    subprocess.run(["clang-14", "-O2", *sanitizers, *sources, "-o", program], check=True)
    command = [program, "-seed=1", "-runs=5000", "-max_len=512"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@needs("clang-14")
def test_static_analysis_finds_nothing(tmp_path: Path) -> None:
    command = ["clang-14", "--analyze", "-std=c99", "-Xclang", "-analyzer-werror"]
    command += ["--analyzer-output", "text", str(FOLDER / "reader.c")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_wheel_without_a_compiler_is_pure_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".pyd"))]
