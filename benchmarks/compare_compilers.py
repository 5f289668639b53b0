r"""Compare exported C of many compilers with onnxruntime, on MNIST's test images.

gcc and clang with -O0, -O2, -O3 and -Os, for x86-64, for 32 bits, and for a big-endian processor in
qemu; and with clang's sanitizers. Prints on how many images all logits are equal, bit for bit.

    apt-get install --no-install-recommends gcc clang gcc-i686-linux-gnu libc6-dev-i386-cross \
        gcc-powerpc-linux-gnu libc6-dev-powerpc-cross qemu-user
    python benchmarks/compare_compilers.py nano default max --images 1000
"""

import argparse
import itertools
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist import load_dataset
from edge_mnist.exporting.c import export_c
from edge_mnist.model_file import INT8_NAME, read_model
from edge_mnist.session import open_session
from edge_mnist.validation.c_code import SOURCES, run_program

FLAGS = ("-O0", "-O2", "-O3", "-Os")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
SANITIZERS = ("-O1", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Machine:
    """What a program is compiled for.

    Attributes:
        name: For the table.
        gcc: The command of gcc, which links for clang too.
        clang: The command of clang.
        emulator: What runs the program, if not this machine.
        image_share: Of the images, how many an emulator has the time for.
    """

    name: str
    gcc: tuple[str, ...]
    clang: tuple[str, ...]
    emulator: str = ""
    image_share: float = 1.0


MACHINES = (
    Machine("x86-64", ("gcc",), ("clang",)),
    Machine(
        "32 bits, x86",
        ("i686-linux-gnu-gcc", "-static"),
        # Without SSE clang adds up in the 80 bits of x87, which main.c's logits show.
        ("clang", "--target=i686-linux-gnu", "-msse2"),
    ),
    Machine(
        "32 bits, big-endian PowerPC",
        ("powerpc-linux-gnu-gcc", "-static"),
        ("clang", "--target=powerpc-linux-gnu"),
        "qemu-ppc",
        0.1,
    ),
)


def count_equal(
    folder: Path,
    command: tuple[str, ...],
    linker: tuple[str, ...],
    emulator: str,
    images: NDArray[np.uint8],
) -> int:
    """Compile a folder, run its self-test, and count the images whose logits are onnxruntime's."""
    (expected,) = open_session(read_model(folder / INT8_NAME).content).run(
        ["logits"], {"images": images}
    )
    with tempfile.TemporaryDirectory() as name:
        program, wrapper = Path(name) / "program", Path(name) / "run"
        objects = []
        for source in SOURCES:
            objects.append(str(Path(name) / f"{source}.o"))
            options = [*command, "-std=c99", *WARNINGS, "-c", str(folder / source)]
            subprocess.run([*options, "-o", objects[-1]], check=True)
        subprocess.run([*linker, *objects, "-o", str(program)], check=True)
        wrapper.write_text(f'#!/bin/sh\nexec {emulator} {program} "$@"\n')
        wrapper.chmod(0o755)
        subprocess.run([wrapper, "selftest"], check=True, stdout=subprocess.DEVNULL)
        _, _, logits = run_program(wrapper, images, tuple("0123456789"))
    return int((logits.view(np.uint32) == expected.view(np.uint32)).all(axis=1).sum())


def main() -> None:
    """Print a row for each model and machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    images = load_dataset("mnist", data_dir=options.data_dir).test_images[: options.images]
    print("model", "machine", "images", *map(" ".join, itertools.product(("gcc", "clang"), FLAGS)))
    for model, optimize in itertools.product(options.models, ("size", "speed")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            export_c(model, folder, optimize=optimize)
            for machine in MACHINES:
                some = images[: max(1, round(machine.image_share * len(images)))]
                counts = [
                    count_equal(folder, (*compiler, flag), machine.gcc, machine.emulator, some)
                    for compiler, flag in itertools.product((machine.gcc, machine.clang), FLAGS)
                ]
                print(model, optimize, machine.name, len(some), *counts, flush=True)
            some = images[: max(1, len(images) // 10)]
            sanitizing = ("clang", *SANITIZERS)
            found = count_equal(folder, sanitizing, sanitizing, "", some)
            print(model, optimize, "x86-64, clang's sanitizers", len(some), found, flush=True)


if __name__ == "__main__":
    main()
