"""Export as C as a library of apps: installed by CMake, and used from several languages."""

import ctypes
import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from test_reader import Answer, draw_picture
from web_pictures import CASES, draw_pictures

from edge_mnist import Prediction, Predictor
from edge_mnist.exporting.c import export_c
from edge_mnist.model_file import FRAMINGS, INT8_NAME, find_model
from edge_mnist.picture import REASONS
from edge_mnist.picture.decode import to_grey

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "native"
CONFIDENCE_ATOL = 0.001
MAX_DISTANCE = 2  # grey levels, as between any two implementations
LANGUAGES = ("c", "cpp", "rust", "python", "node")
WASM = ("clang-14", "--target=wasm32", "-std=c99", "-O3", "-ffreestanding", "-nostdlib")
WASM_LINK = ("-mbulk-memory", "-Wl,--no-entry", "-Wl,--export-all")
Grey = NDArray[np.uint8]


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a command, which must succeed, and return what it prints."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def build_with_cmake(source: Path, folder: Path, *options: str) -> None:
    if not shutil.which("cmake"):
        pytest.skip("apt-get install cmake")
    run("cmake", "-S", source, "-B", folder, *options)
    run("cmake", "--build", folder)


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("native") / "code"
    export_c("default", folder, optimize="speed")
    return folder


@pytest.fixture(scope="session")
def prefix(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the library is installed."""
    folder = tmp_path_factory.mktemp("prefix")
    build_with_cmake(code, folder / "build")
    run("cmake", "--install", folder / "build", "--prefix", folder)
    return folder


@pytest.fixture(scope="session")
def pictures() -> list[Grey]:
    """Every sixth of the stored cases, blank ones too, and drawn ones of any size."""
    cases = [to_grey(picture) for _, picture in list(draw_pictures())[::6]]
    return cases + [draw_picture(seed) for seed in range(40)]


@pytest.fixture(scope="session")
def expected(code: Path, pictures: list[Grey]) -> list[Prediction]:
    predictor = Predictor(code / INT8_NAME)
    return [predictor.predict(picture) for picture in pictures]


@pytest.fixture(scope="session")
def files(pictures: list[Grey], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pgm")
    paths = [folder / f"{number}.pgm" for number in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


@pytest.fixture(scope="session")
def examples(prefix: Path) -> Path:
    """The examples in C and C++, which find the library as any project with CMake does."""
    folder = prefix / "examples"
    build_with_cmake(EXAMPLES, folder, f"-DCMAKE_PREFIX_PATH={prefix}")
    return folder


def build_example(language: str, code: Path, prefix: Path, examples: Path) -> tuple[object, ...]:
    """Return the command of an example, without the names of files."""
    if language in ("c", "cpp"):
        return (examples / f"predict_{language}",)
    library = find_library(prefix)
    if language == "python":
        return (sys.executable, EXAMPLES / "predict.py", library)
    if language == "rust":
        return (build_rust(library.parent),)
    return ("node", EXAMPLES / "predict.mjs", build_wasm(code))


@functools.cache
def build_rust(folder: Path) -> Path:
    if not shutil.which("rustc"):
        pytest.skip("apt-get install rustc")
    path = ["-L", folder, "-C", f"link-arg=-Wl,-rpath,{folder}"]
    program = folder / "predict_rs"
    run("rustc", "--edition", "2021", "-O", EXAMPLES / "predict.rs", *path, "-o", program)
    return program


@functools.cache
def build_wasm(code: Path) -> Path:
    if not (shutil.which("clang-14") and shutil.which("node")):
        pytest.skip("apt-get install clang-14 lld-14 nodejs")
    sources = [code / f"edge_mnist{name}.c" for name in ("", "_reader", "_predict")]
    run(*WASM, *WASM_LINK, *sources, "-o", code.parent / "edge_mnist.wasm")
    return code.parent / "edge_mnist.wasm"


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_example_answers_as_the_predictor_does(
    code: Path,
    prefix: Path,
    examples: Path,
    files: list[Path],
    expected: list[Prediction],
    language: str,
) -> None:
    lines = run(*build_example(language, code, prefix, examples), *files).splitlines()
    assert {one.reason for one in expected} == {*REASONS, "not a digit"}
    for path, line, one in zip(files, lines, expected, strict=True):
        name, _, confidence = line.rpartition(" ")
        assert name == (f"rejected: {one.reason}" if one.reason else one.name), path
        assert one.confidence is not None
        assert abs(float(confidence) - one.confidence) < CONFIDENCE_ATOL, path


def test_an_example_names_a_file_that_it_cannot_read(
    code: Path, prefix: Path, examples: Path, tmp_path: Path
) -> None:
    (tmp_path / "cut.pgm").write_bytes(b"P5 30 30 255 ")
    for language in LANGUAGES:
        command = [*build_example(language, code, prefix, examples), tmp_path / "cut.pgm"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 1, language
        assert "cut.pgm" in done.stderr, language


def find_library(prefix: Path) -> Path:
    (path,) = prefix.glob("lib*/libedge_mnist.so")
    return path


def read(library: ctypes.CDLL, grey: Grey) -> tuple[NDArray[np.uint8], int]:
    """Read a picture by ``edge_mnist_read``; returns the image and the reason's number."""
    height, width = grey.shape
    library.edge_mnist_scratch_size.restype = ctypes.c_size_t
    size, answer = library.edge_mnist_scratch_size(width, height), Answer()
    levels, scratch = grey.ctypes.data_as(ctypes.c_void_p), ctypes.create_string_buffer(size)
    error = library.edge_mnist_read(
        levels, width, height, width, ctypes.byref(answer), scratch, ctypes.c_size_t(size)
    )
    assert error == 0
    return np.frombuffer(answer.image, np.uint8).reshape(28, 28), answer.reason


def test_the_installed_library_reads_the_stored_cases(prefix: Path) -> None:
    library = ctypes.CDLL(str(find_library(prefix)))
    with np.load(CASES) as cases:
        stored = zip(cases["images"], cases["reasons"], strict=True)
        named = sorted(draw_pictures(), key=lambda pair: f"{pair[0]}.png")
        for (name, picture), (image, reason) in zip(named, stored, strict=True):
            found, number = read(library, np.ascontiguousarray(to_grey(picture)))
            assert number == reason, name
            assert np.abs(found.astype(int) - image).max() <= MAX_DISTANCE, name


def test_the_library_has_a_version_and_its_functions(prefix: Path) -> None:
    path = find_library(prefix)
    assert re.search(r"SONAME.*libedge_mnist\.so\.0\]", run("readelf", "-d", path))
    names = set(re.findall(r" T (\w+)", run("nm", "-D", path)))
    assert names >= {"edge_mnist_predict", "edge_mnist_read", "edge_mnist_classify"}
    assert all(name.startswith("edge_mnist_") for name in names - {"_init", "_fini"})


def test_a_project_may_include_the_folder(code: Path, tmp_path: Path) -> None:
    """Its library then is static, unless the project says otherwise."""
    (tmp_path / "main.c").write_text(
        '#include "edge_mnist_predict.h"\nint main(void) { return edge_mnist_selftest(); }\n'
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(app C)\n"
        f"add_subdirectory({code} digits)\nadd_executable(app main.c)\n"
        "target_link_libraries(app edge_mnist::edge_mnist)\n"
    )
    build_with_cmake(tmp_path, tmp_path / "build")
    assert (tmp_path / "build" / "digits" / "libedge_mnist.a").is_file()
    run(tmp_path / "build" / "app")


def test_esp_idf_and_zephyr_find_their_sources(code: Path, tmp_path: Path) -> None:
    """With functions of the same names, which print what they are given."""
    if not shutil.which("cmake"):
        pytest.skip("apt-get install cmake")
    script = tmp_path / "component.cmake"
    names = ("idf_component_register", "zephyr_library_sources", "zephyr_include_directories")
    lines = [f"function({name})\nmessage(STATUS ${{ARGV}})\nendfunction()" for name in names]
    lines += ["function(zephyr_library)\nendfunction()", "set(CONFIG_EDGE_MNIST y)"]
    lines += ["set(ESP_PLATFORM 1)"]
    for folder in (code, code / "zephyr"):
        script.write_text("\n".join([*lines, f"include({folder / 'CMakeLists.txt'})"]))
        printed = run("cmake", "-P", script)
        sources = re.findall(r"(?:\.\./)?edge_mnist\w*\.c", printed)
        assert len(sources) == 4
        assert all((folder / source).is_file() for source in sources)


def test_any_names_of_classes(tmp_path: Path) -> None:
    """In C99 ??/ is a backslash."""
    names = [
        "what??/",
        'quoted "',
        "back\\slash",
        "naïve",
        "二",
        "😀",
        "%s",
        "*/",
        "@version@",
        "x",
    ]
    change_model(tmp_path / INT8_NAME, class_names=json.dumps(names))
    export_c(tmp_path / INT8_NAME, tmp_path / "code")
    library = build_library(tmp_path / "code", load_example())
    assert [library.edge_mnist_class_name(label).decode() for label in range(10)] == names


@pytest.mark.parametrize("framing", FRAMINGS[1:])
def test_pictures_are_framed_as_the_model_asks(
    code: Path, tmp_path: Path, pictures: list[Grey], framing: str
) -> None:
    change_model(tmp_path / INT8_NAME, framing=framing)
    export_c(tmp_path / INT8_NAME, tmp_path / "code")
    example = load_example()
    library = build_library(tmp_path / "code", example)
    predictor = Predictor(tmp_path / INT8_NAME)
    for picture in pictures[::4]:
        found = example.predict(library, picture.tobytes(), picture.shape[1], picture.shape[0])
        one = predictor.predict(picture)
        assert found.label == (-1 if one.digit is None else one.digit)
        if one.reason:
            assert library.edge_mnist_reason_name(found.reason).decode() == one.reason


def change_model(path: Path, **metadata: str) -> None:
    """Write the released nano with other metadata."""
    model = onnx.load(find_model("nano/model.int8.onnx"))
    found = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, found | metadata)
    onnx.save(model, path)


def build_library(code: Path, example: ModuleType) -> ctypes.CDLL:
    """Compile an export as a shared library and open it as the example in Python does."""
    sources = [code / f"edge_mnist{name}.c" for name in ("", "_reader", "_predict")]
    run("gcc", "-std=c99", "-shared", "-fPIC", *sources, "-o", code / "library.so")
    library: ctypes.CDLL = example.open_library(str(code / "library.so"))
    return library


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("predict", EXAMPLES / "predict.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_errors_are_told(prefix: Path) -> None:
    example = load_example()
    library = example.open_library(str(find_library(prefix)))
    assert library.edge_mnist_predict_scratch_size(0, 5) == 0
    assert library.edge_mnist_predict_scratch_size(65_536, 5) == 0
    found, scratch = example.Prediction(), ctypes.create_string_buffer(3000)
    picture = np.full((28, 28), 255, np.uint8).tobytes()
    assert library.edge_mnist_predict(picture, 28, 0, 28, found, scratch, 3000) == -1
    assert library.edge_mnist_predict(picture, 28, 28, 28, found, scratch, 3000) == -2
    assert library.edge_mnist_class_name(10) is None
    assert library.edge_mnist_reason_name(4) is None


def test_the_document_s_c_compiles(code: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "native.md").read_text()
    (snippet,) = re.findall(r"```c\n(.*?)```", page, flags=re.DOTALL)
    readme = re.findall(r"```c\n(.*?)```", (code / "README.md").read_text(), flags=re.DOTALL)
    for number, text in enumerate([snippet, *readme]):
        path = tmp_path / f"snippet{number}.c"
        path.write_text(text)
        run("gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{code}", "-fsyntax-only", path)
