"""Draw the figure of docs/pictures.md: ``python benchmarks/make_pictures.py``."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edge_mnist.exporting.golden import draw_digit
from edge_mnist.picture import read_picture
from edge_mnist.picture.digit import measure_ink

FIGURE = Path(__file__).parents[1] / "docs" / "pictures.png"
SIDE_PX = 480  # of each picture
Grey = NDArray[np.float32]


def draw_ink(digit: int, seed: int) -> Grey:
    """Draw the ink of a digit, 0..1."""
    drawing = draw_digit(digit, np.random.default_rng(seed)).resize((SIDE_PX, SIDE_PX))
    return 1 - np.asarray(drawing, np.float32) / 255


def photograph(ink: Grey, *, shadow: float, ruling_px: int, darkness: float, seed: int) -> Grey:
    """Photograph ink on paper: ruled lines, uneven light, the edge of a shadow, noise."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    paper = 225 - 40 * np.hypot(x - 150, y - 120) / SIDE_PX
    if ruling_px:
        paper[ruling_px // 2 :: ruling_px] -= 45
        paper[ruling_px // 2 + 1 :: ruling_px] -= 45
    paper *= 1 - shadow / (1 + np.exp(-(x + 0.6 * y - 520) / 10))
    noise = np.random.default_rng(seed).normal(0, 4, ink.shape)
    return np.clip(paper * (1 - darkness * ink) + noise, 0, 255).astype(np.float32)


def make_examples() -> dict[str, Grey]:
    """Draw one picture for each difficulty."""
    framed = Image.fromarray((255 * (1 - draw_ink(4, 5))).astype(np.uint8))
    ImageDraw.Draw(framed).rectangle((12, 12, 468, 468), outline=60, width=5)
    shape = (SIDE_PX, SIDE_PX)
    chalk = draw_ink(9, 4) * np.random.default_rng(0).uniform(0.6, 1, shape) * 190 + 30
    return {
        "pen, shadow": photograph(draw_ink(3, 1), shadow=0.5, ruling_px=0, darkness=0.8, seed=1),
        "pencil, ruled paper": photograph(
            draw_ink(5, 2), shadow=0.2, ruling_px=60, darkness=0.4, seed=2
        ),
        "chalk on a blackboard": np.clip(chalk, 0, 255).astype(np.float32),
        "printed frame": np.asarray(framed, np.float32),
        "blank paper, shadow": photograph(
            np.zeros(shape, np.float32), shadow=0.4, ruling_px=0, darkness=0, seed=3
        ),
    }


def main() -> None:
    """Draw for each example the picture, its ink and the model's input."""
    examples = make_examples()
    figure = Figure(figsize=(1.9 * len(examples), 6.2), layout="constrained")
    grid = figure.subplots(3, len(examples))
    for column, (name, levels) in zip(grid.T, examples.items(), strict=True):
        picture = levels.astype(np.uint8)
        model_input = read_picture(picture)
        column[0].imshow(picture, cmap="gray", vmin=0, vmax=255)
        column[0].set_title(name, fontsize=9)
        column[1].imshow(measure_ink(picture), cmap="gray_r", vmin=0)
        column[2].imshow(model_input.image, cmap="gray", vmin=0, vmax=255)
        rejection = f"rejected: {model_input.reason}" if model_input.reason else ""
        column[2].set_title(rejection, fontsize=9)
    rows = ("picture", "ink (background subtracted)", "model input, 28 x 28")
    for axes, label in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(label, fontsize=9)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    figure.savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
