"""Measure exported C on emulated chips: ``python benchmarks/measure_c.py``.

Needs gcc-arm-none-eabi and qemu-system-arm. Flash and RAM are those of a linked program for
Cortex-M0 that classifies one image: code and constants, without the image and the self-test; static
memory (scratch, image) and the depth of the stack. Instructions are counted on Cortex-M3.
"""

import sys
import tempfile
from pathlib import Path

from edge_mnist.exporting.c import FLAGS, export_c
from edge_mnist.exporting.golden import draw_golden_images

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "microcontroller"))
from emulate import BOARDS, Run, emulate

HEAD = ("model", "optimize", "flash", "self-test", "RAM", "instructions", "per multiply-add")


def measure(model: str, optimize: str, folder: Path) -> tuple[str, ...]:
    """Return a row of the table."""
    result = export_c(model, folder, optimize=optimize)
    images = draw_golden_images()[0][:3]

    def run(board: str, n_images: int, *defines: str) -> Run:
        flags = {"optimize": FLAGS[optimize], "defines": defines}
        return emulate(folder, BOARDS[board], images[:n_images], **flags)

    alone, tested = run("microbit", 1, "NO_SELFTEST"), run("microbit", 1)
    counted = run("mps2-an385", 3, "NO_SELFTEST", "COUNT_INSTRUCTIONS")
    instructions = sum(counted.instructions) / len(counted.instructions)
    return (
        f"`{model}`",
        optimize,
        f"{alone.flash_bytes - images[0].size:,}",
        f"{tested.flash_bytes - alone.flash_bytes:,}",
        f"{alone.ram_bytes + alone.stack_bytes:,}",
        f"{instructions:,.0f}",
        f"{instructions / result.multiply_adds:.2f}",
    )


if __name__ == "__main__":
    print(f"| {' | '.join(HEAD)} |")
    print("|---" * len(HEAD) + "|")
    for name in ("nano", "default"):
        for way in FLAGS:
            with tempfile.TemporaryDirectory() as scratch:
                print(f"| {' | '.join(measure(name, way, Path(scratch)))} |")
