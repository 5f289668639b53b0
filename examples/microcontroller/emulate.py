"""Builds exported C code for a microcontroller, and runs it in an emulator.

    edge-mnist export --target c nano -o c
    python examples/microcontroller/emulate.py c --board microbit

Prints what the program found on each image, its self-test, and the memory that it took.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
COMMON = ("-ffreestanding", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections")
BARE = ("-std=c99", "-nostdlib")
TIMEOUT_S = 600  # of an emulator; a program that runs astray prints without end
# What the programs print, each with a hexadecimal number.
PRINTED = (
    "class", "score", "confidence", "instructions", "stack", "selftest", "error", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Board:
    """An emulated microcontroller.

    Attributes:
        compiler: For its processor.
        flags: That say which processor.
        emulator: The command, without the program.
        start: The C file that starts a program there.
        script: Linker script, or None for the compiler's own.
        packages: Debian packages of compiler and emulator.
        max_images: How many images its program memory has room for.
    """

    compiler: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...]
    start: str
    script: str | None
    packages: str
    max_images: int = 200


def _cortex(cpu: str, machine: str) -> Board:
    # With icount every instruction takes a nanosecond of the machine's time.
    emulator = ("qemu-system-arm", "-M", machine, "-icount", "shift=0", "-nographic")
    emulator += ("-semihosting", "-kernel")
    flags = (f"-mcpu={cpu}", "-mthumb", *BARE)
    packages = "gcc-arm-none-eabi qemu-system-arm"
    return Board("arm-none-eabi-gcc", flags, emulator, "start.c", "cortex-m.ld", packages)


BOARDS = {
    "microbit": _cortex("cortex-m0", "microbit"),
    "mps2-an385": _cortex("cortex-m3", "mps2-an385"),
    "mps2-an386": _cortex("cortex-m4", "mps2-an386"),
    "mps2-an500": _cortex("cortex-m7", "mps2-an500"),
    "rv32imc": Board(
        "riscv64-unknown-elf-gcc",
        ("-march=rv32imc", "-mabi=ilp32", *BARE),
        ("qemu-riscv32",),
        "start.c",
        "riscv.ld",
        "gcc-riscv64-unknown-elf qemu-user",
    ),
    "atmega2560": Board(
        "avr-gcc",
        ("-mmcu=atmega2560", "-std=gnu99"),
        ("simavr", "-m", "atmega2560", "-f", "16000000"),
        "avr.c",
        None,
        "gcc-avr avr-libc simavr",
        25,
    ),
}


@dataclass(frozen=True)
class Run:
    """What a program printed.

    Attributes:
        labels: Class of each image.
        scores: Scores of each image, int32.
        confidences: In units of 1 / 65536.
        instructions: For each image; counted on mps2 boards only.
        self_test: 0 if it passed; None if it was left out.
        stack_bytes: Largest depth of the stack; 0 where it is not measured.
        flash_bytes: Code and constants of the linked program, images included.
        ram_bytes: Static memory of the linked program.
    """

    labels: list[int]
    scores: NDArray[np.int32]
    confidences: list[int]
    instructions: list[int]
    self_test: int | None
    stack_bytes: int
    flash_bytes: int
    ram_bytes: int


@dataclass(frozen=True)
class CameraRun:
    """What a program printed that read frames of a camera.

    Attributes:
        errors: Of each frame, 0 if it was read.
        labels: Class of each frame; -1 if it was rejected.
        confidences: In units of 1 / 65536.
        reasons: Of each frame, as edge_mnist_predict.h numbers them.
        stack_bytes: Largest depth of the stack.
        ram_bytes: Static memory of the linked program.
    """

    errors: list[int]
    labels: list[int]
    confidences: list[int]
    reasons: list[int]
    stack_bytes: int
    ram_bytes: int


def find_missing(board: Board) -> str | None:
    """Return a line that installs what a board needs, or None if all is there."""
    if all(shutil.which(name) for name in (board.compiler, board.emulator[0])):
        return None
    return f"apt-get install --no-install-recommends {board.packages}"


def emulate(
    folder: Path,
    board: Board,
    images: NDArray[np.uint8],
    *,
    optimize: str = "-Os",
    defines: tuple[str, ...] = (),
) -> Run:
    """Build a folder's code with a few images, and run it.

    Args:
        folder: What ``export --target c`` wrote.
        board: Where to run it.
        images: Shape (N, 28, 28), uint8.
        optimize: The compiler's option.
        defines: ``NO_SELFTEST`` leaves it out; ``COUNT_INSTRUCTIONS`` counts them (mps2 only).
    """
    sources = (HERE / "main.c", folder / "edge_mnist.c", folder / "edge_mnist_selftest.c")
    options = (optimize, f"-I{folder}", *(f"-D{one}" for one in defines))
    values, flash_bytes, ram_bytes = _run(
        board, sources, options, {"images.h": _write_images(images)}
    )
    scores = np.array(values["score"], np.uint32).view(np.int32).reshape(len(images), -1)
    return Run(
        labels=values["class"],
        scores=scores,
        confidences=values["confidence"],
        instructions=values.get("instructions", []),
        self_test=values.get("selftest", [None])[0],
        stack_bytes=values["stack"][0],
        flash_bytes=flash_bytes,
        ram_bytes=ram_bytes,
    )


def emulate_camera(
    folder: Path, board: Board, frames: NDArray[np.uint8], *, ram_bytes: int, optimize: str = "-O2"
) -> CameraRun:
    """Build a folder's code with frames of a camera, and run it on a Cortex-M.

    Args:
        folder: What ``export --target c`` wrote.
        board: Where to run it; one of the mps2 boards, which have megabytes of flash.
        frames: Shape (N, H, W), uint8, grey levels.
        ram_bytes: The RAM that the program is linked for, its stack included.
        optimize: The compiler's option.
    """
    names = ("edge_mnist.c", "edge_mnist_reader.c", "edge_mnist_predict.c")
    memory = f"-Wl,--defsym=ram_bytes={ram_bytes},--defsym=flash_bytes=4M"
    values, _, static_bytes = _run(
        board,
        (HERE / "camera.c", *(folder / name for name in names)),
        (optimize, f"-I{folder}", memory, "-fno-tree-loop-distribute-patterns"),
        {"frames.h": _write_frames(frames)},
    )
    numbers = {
        name: np.array(values[name], np.uint32).view(np.int32).tolist()
        for name in ("error", "class", "confidence", "reason")
    }
    return CameraRun(
        errors=numbers["error"],
        labels=numbers["class"],
        confidences=numbers["confidence"],
        reasons=numbers["reason"],
        stack_bytes=values["stack"][0],
        ram_bytes=static_bytes,
    )


def _run(
    board: Board, sources: tuple[Path, ...], options: tuple[str, ...], headers: dict[str, str]
) -> tuple[dict[str, list[int]], int, int]:
    """Compile and run; return what was printed, by name, and the bytes of flash and static RAM."""
    with tempfile.TemporaryDirectory() as name:
        target = Path(name)
        for header, text in headers.items():
            (target / header).write_text(text)
        program = target / "program.elf"
        command = [board.compiler, *board.flags, *COMMON, *options, f"-I{HERE}", f"-I{target}"]
        command += ["-T", str(HERE / board.script)] if board.script else []
        command += [str(HERE / board.start), *map(str, sources), "-lgcc", "-o", str(program)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        size = subprocess.run(
            [board.compiler.replace("gcc", "size"), program], check=True, capture_output=True
        )
        text_bytes, data, bss = map(int, size.stdout.decode().splitlines()[1].split()[:3])
        printed = subprocess.run(
            [*board.emulator, str(program)],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
    values: dict[str, list[int]] = {}
    for line in (printed.stdout + printed.stderr).decode(errors="replace").splitlines():
        plain = line.replace("\x1b[32m", "").replace("\x1b[0m", "").rstrip(".")
        name, _, number = plain.partition(" ")
        if name in PRINTED:
            values.setdefault(name, []).append(int(number, 16))
    return values, text_bytes + data, data + bss


def _write_images(images: NDArray[np.uint8]) -> str:
    rows = [f"{{{', '.join(map(str, image.ravel().tolist()))}}}," for image in images]
    head = f"static FLASH const uint8_t images[N_IMAGES][{images[0].size}] = {{"
    return "\n".join([f"#define N_IMAGES {len(images)}", head, *rows, "};", ""])


def _write_frames(frames: NDArray[np.uint8]) -> str:
    n_frames, height, width = frames.shape
    rows = [f"{{{', '.join(map(str, frame.ravel().tolist()))}}}," for frame in frames]
    lines = [
        f"#define {name} {value}"
        for name, value in (
            ("N_FRAMES", n_frames), ("FRAME_HEIGHT", height), ("FRAME_WIDTH", width),
        )
    ]  # fmt: skip
    lines.append("static const uint8_t frames[N_FRAMES][FRAME_HEIGHT * FRAME_WIDTH] = {")
    return "\n".join([*lines, *rows, "};", ""])


def main() -> int:
    """Run one folder on one board."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--board", choices=BOARDS, default="microbit")
    parser.add_argument("--images", type=Path, help="784 bytes for each; else ten drawn digits")
    parser.add_argument("--optimize", default="-Os")
    options = parser.parse_args()
    board = BOARDS[options.board]
    if missing := find_missing(board):
        print(f"this needs a compiler and an emulator: {missing}", file=sys.stderr)
        return 3
    if options.images:
        images = np.fromfile(options.images, np.uint8).reshape(-1, 28, 28)[: board.max_images]
    else:
        from edge_mnist.exporting.golden import draw_golden_images

        images = draw_golden_images()[0][:10]
    defines = ("COUNT_INSTRUCTIONS",) if options.board.startswith("mps2") else ()
    run = emulate(options.folder, board, images, optimize=options.optimize, defines=defines)
    for number, label in enumerate(run.labels):
        confidence = run.confidences[number] / 65536
        count = f", {run.instructions[number]:,} instructions" if run.instructions else ""
        print(f"image {number}: {label}, confidence {confidence:.4f}{count}")
    print("self-test passed" if run.self_test == 0 else f"self-test FAILED: {run.self_test}")
    print(
        f"flash {run.flash_bytes:,} bytes, static RAM {run.ram_bytes:,}, stack {run.stack_bytes:,}"
    )
    return int(run.self_test != 0)


if __name__ == "__main__":
    sys.exit(main())
