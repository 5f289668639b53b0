"""Draw the figures of docs/pictures.md: ``python benchmarks/make_pictures.py``."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edge_mnist.exporting.golden import draw_digit
from edge_mnist.picture.digit import blur, is_ink_dark, shrink, subtract_sheet
from edge_mnist.picture.frame import read_picture

HERE = Path(__file__).parent
Grey = NDArray[np.float32]


def draw_ink(digit: int, seed: int) -> Grey:
    """Draw how much ink a pen leaves, 0..1, on a sheet of 480 x 480."""
    sheet = draw_digit(digit, np.random.default_rng(seed)).resize((480, 480))
    return 1 - np.asarray(sheet, np.float32) / 255


def photograph(ink: Grey, *, shadow: float, rule: int, darkness: float, seed: int) -> Grey:
    """Photograph ink on paper: ruled lines, uneven light, the edge of a shadow, noise."""
    y, x = np.mgrid[0:480, 0:480]
    paper = 225 - 40 * np.hypot(x - 150, y - 120) / 480
    if rule:
        paper[rule // 2 :: rule] -= 45
        paper[rule // 2 + 1 :: rule] -= 45
    paper *= 1 - shadow / (1 + np.exp(-(x + 0.6 * y - 520) / 10))
    noise = np.random.default_rng(seed).normal(0, 4, ink.shape)
    return np.clip(paper * (1 - darkness * ink) + noise, 0, 255).astype(np.float32)


def make_examples() -> dict[str, Grey]:
    """Draw one picture for each difficulty."""
    boxed = Image.fromarray((255 * (1 - draw_ink(4, 5))).astype(np.uint8))
    ImageDraw.Draw(boxed).rectangle((12, 12, 468, 468), outline=60, width=5)
    chalk = draw_ink(9, 4) * np.random.default_rng(0).uniform(0.6, 1, (480, 480)) * 190 + 30
    return {
        "pen, half in shadow": photograph(draw_ink(3, 1), shadow=0.5, rule=0, darkness=0.8, seed=1),
        "pencil on ruled paper": photograph(
            draw_ink(5, 2), shadow=0.2, rule=60, darkness=0.4, seed=2
        ),
        "chalk on a board": np.clip(chalk, 0, 255).astype(np.float32),
        "a printed box": np.asarray(boxed, np.float32),
        "blank paper": photograph(np.zeros((480, 480)), shadow=0.4, rule=0, darkness=0, seed=3),
    }


def main() -> None:
    """Draw each example's way: picture, sheet taken away, what the model sees."""
    examples = make_examples()
    figure = Figure(figsize=(1.9 * len(examples), 6.2), layout="constrained")
    grid = figure.subplots(3, len(examples))
    for column, (name, picture) in zip(grid.T, examples.items(), strict=True):
        levels = blur(shrink(picture.astype(np.uint8)))
        ink = subtract_sheet(levels if is_ink_dark(levels) else 255 - levels)
        model_input = read_picture(picture.astype(np.uint8))
        column[0].imshow(picture, cmap="gray", vmin=0, vmax=255)
        column[0].set_title(name, fontsize=9)
        column[1].imshow(ink, cmap="gray_r", vmin=0)
        column[2].imshow(model_input.image, cmap="gray", vmin=0, vmax=255)
        column[2].set_title(
            f"rejected: {model_input.reason}" if model_input.reason else "", fontsize=9
        )
    rows = ("the picture", "its ink", "what the model sees")
    for axes, label in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(label, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    figure.savefig(HERE / "pictures.png", dpi=110)


if __name__ == "__main__":
    main()
