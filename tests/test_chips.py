"""Export as C on emulated microcontrollers: equal scores, sizes, instructions."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.exporting.c import export_c
from edge_mnist.exporting.c.layers import read_network
from edge_mnist.exporting.c.simulation import compute_scores
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.model_file import INT8_NAME, read_model
from edge_mnist.training.datasets import Dataset

EXAMPLE = Path(__file__).parents[1] / "examples" / "microcontroller" / "emulate.py"
CAMERA_RAM_BYTES = 40_000
REASONS = (None, "blank", "more than one digit", "not a digit")
MULTIPLY_ADDS = {"nano": 284_864, "default": 1_773_712}


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("emulate", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["emulate"] = module  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


emulate = load_example()


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folders = {}
    for model in MULTIPLY_ADDS:
        for optimize in ("size", "speed"):
            folder = tmp_path_factory.mktemp(f"{model}-{optimize}")
            export_c(model, folder, optimize=optimize)
            folders[model, optimize] = folder
    return folders


def find_board(name: str) -> object:
    board = emulate.BOARDS[name]
    if missing := emulate.find_missing(board):
        pytest.skip(missing)
    return board


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *(("nano", name) for name in emulate.BOARDS),
        # Too large for avr-gcc, see test_a_compiler_s_limit_on_arrays_counts.
        *(("default", name) for name in emulate.BOARDS if name != "atmega2560"),
    ],
)
def test_an_emulated_chip_computes_the_scores(
    code: dict[tuple[str, str], Path], mnist: Dataset, model: str, name: str
) -> None:
    """The nano network as small as it gets, the default one as fast."""
    board = find_board(name)
    optimize, option = ("size", "-Os") if model == "nano" else ("speed", "-O2")
    folder = code[model, optimize]
    images = mnist.test_images[: board.max_images]  # type: ignore[attr-defined]
    run = emulate.emulate(folder, board, images, optimize=option)
    assert run.self_test == 0
    expected = compute_scores(read_network(read_model(folder / INT8_NAME)), images)
    assert np.array_equal(run.scores, expected)
    assert max(run.confidences) <= 65536


def take_frames(width: int, height: int) -> NDArray[np.uint8]:
    """Draw what a camera sees: ten digits, an empty sheet, two digits; in shadow, with noise."""
    generator = np.random.default_rng(width)
    frames = []
    for digits in (*((digit,) for digit in range(10)), (), (3, 4)):
        paper = Image.new("L", (width, height), 255)
        side = min(height, width // max(1, len(digits)))
        for place, digit in enumerate(digits):
            sheet = draw_digit(digit, generator).resize((side, side), Image.Resampling.BOX)
            paper.paste(sheet, (place * side, (height - side) // 2))
        edge = generator.uniform(0.3, 0.9) * width
        light = 0.7 + 0.3 / (1 + np.exp((np.arange(width) - edge) / (0.1 * width)))
        noise = generator.normal(0, 4, (height, width))
        levels = (np.asarray(paper, np.float32) * 0.6 + 60) * light + noise
        frames.append(np.clip(levels, 0, 255).astype(np.uint8))
    return np.stack(frames)


@pytest.mark.parametrize("size", [(160, 120), (96, 96)])
@pytest.mark.parametrize("name", ["mps2-an386", "mps2-an500"])
def test_a_camera_s_frames_are_read_in_40_kilobytes(
    code: dict[tuple[str, str], Path], name: str, size: tuple[int, int]
) -> None:
    """The program is linked for that much RAM; stack and working memory stay within it."""
    board, frames, folder = find_board(name), take_frames(*size), code["default", "speed"]
    run = emulate.emulate_camera(folder, board, frames, ram_bytes=CAMERA_RAM_BYTES)
    assert run.ram_bytes + run.stack_bytes < CAMERA_RAM_BYTES
    assert run.errors == [0] * len(frames)
    expected = [Predictor(folder / INT8_NAME).predict(frame) for frame in frames]
    assert [REASONS[reason] for reason in run.reasons] == [one.reason for one in expected]
    assert {None, "more than one digit"} <= {one.reason for one in expected}
    digits = [-1 if one.digit is None else one.digit for one in expected]
    assert run.labels == digits
    assert digits[:10] == list(range(10))
    confidences = np.array([one.confidence for one in expected])
    assert np.abs(np.array(run.confidences) / 65536 - confidences).max() < 0.001


def test_a_fault_ends_the_program(tmp_path: Path) -> None:
    """Not a start all over again, which would never end."""
    board = emulate.BOARDS["microbit"]
    find_board("microbit")
    source, program = tmp_path / "fault.c", tmp_path / "fault.elf"
    source.write_text("int main(void) { return *(volatile int *)0xF0000001; }\n")
    script, start = EXAMPLE.with_name(board.script), EXAMPLE.with_name(board.start)
    command = [board.compiler, *board.flags, "-T", script, start, source, "-o", program]
    subprocess.run(command, check=True)
    ended = subprocess.run([*board.emulator, program], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert "fault" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("model", "flash", "ram"), [("nano", 12_288, 2_560), ("default", 54_000, 8_000)]
)
def test_a_linked_image_for_cortex_m0_is_small(
    code: dict[tuple[str, str], Path], mnist: Dataset, model: str, flash: int, ram: int
) -> None:
    """One image in flash, another in RAM, and the program around the network count, too."""
    board = find_board("microbit")
    images = mnist.test_images[:1]
    run = emulate.emulate(code[model, "size"], board, images, defines=("NO_SELFTEST",))
    assert run.flash_bytes - images.size <= flash
    assert run.ram_bytes + run.stack_bytes <= ram


@pytest.mark.parametrize(("model", "most"), [("nano", 5.2), ("default", 4.1)])
def test_a_multiply_add_takes_few_instructions(
    code: dict[tuple[str, str], Path], mnist: Dataset, model: str, most: float
) -> None:
    board = find_board("mps2-an385")
    images = mnist.test_images[:3]
    defines = ("NO_SELFTEST", "COUNT_INSTRUCTIONS")
    run = emulate.emulate(code[model, "speed"], board, images, optimize="-O2", defines=defines)
    assert max(run.instructions) / MULTIPLY_ADDS[model] <= most


def test_the_documented_commands_run(
    code: dict[tuple[str, str], Path], mnist: Dataset, tmp_path: Path
) -> None:
    """The commands by hand, the C of the document, and the sketch of Arduino."""
    find_board("microbit")
    page = (EXAMPLE.parents[2] / "docs" / "microcontrollers.md").read_text()
    shutil.copytree(code["nano", "size"], tmp_path / "digits")
    folder = tmp_path / "examples" / "microcontroller"
    shutil.copytree(EXAMPLE.parent, folder)
    rows = ", ".join(map(str, mnist.test_images[0].ravel().tolist()))
    head = "#define N_IMAGES 1\nstatic FLASH const uint8_t images[N_IMAGES][784] = {{"
    (folder / "images.h").write_text(f"{head}{rows}}}}};\n")
    (by_hand,) = re.findall(r"```sh\n(arm-none-eabi-gcc.*?)```", page, flags=re.DOTALL)
    result = subprocess.run(
        ["bash", "-ec", by_hand], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert "class 00000007" in result.stdout + result.stderr
    assert "selftest 00000000" in result.stdout + result.stderr
    (snippet,) = re.findall(r"```c\n(.*?)```", page, flags=re.DOTALL)
    (folder / "snippet.c").write_text(snippet)
    (sketch,) = re.findall(r"```cpp\n(.*?)```", page, flags=re.DOTALL)
    serial = "struct Port { void begin(long); void println(const char *); void println(int);\n"
    serial += "unsigned long readBytes(unsigned char *, unsigned long); };\nextern Port Serial;\n"
    (folder / "sketch.cpp").write_text(serial + sketch)
    for name in ("snippet.c", "sketch.cpp"):
        command = ["gcc", "-Wall", "-Werror", f"-I{tmp_path / 'digits'}", "-c", name]
        subprocess.run(command, cwd=folder, check=True)
