"""Grids of images with a caption each: samples, predictions, the worst mistakes.

A grid is one mosaic in one axes: a hundred axes take seconds to lay out.


The filters of a network's first layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.plots.style import DPI, GREY, VERMILION, draw_message, shorten, to_png, write_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SIDE = 28
MAX_SHOWN = 200  # images in a grid; more make a sheet that no viewer shows whole
N_WORST = 40
# All lengths below are in pixels of an image, each drawn as 5 x 5 of the PNG file.
PNG_PIXELS = 5
FONT_POINTS = 8.5
POINTS = 72 * PNG_PIXELS / DPI  # of an image's pixel
CHARACTER = 0.602 * FONT_POINTS / POINTS  # every character of the monospaced font is as wide
LINE = 1.4 * FONT_POINTS / POINTS
GAP, HEAD = 3, 9
SHEET_WIDTH, LEAST_WIDTH = 346, 190


@dataclass(frozen=True)
class Caption:
    """What stands below an image.

    Attributes:
        lines: As many for each image of a grid.
        wrong: Whether to frame the image.
    """

    lines: tuple[str, ...]
    wrong: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the images of a grid lie, in pixels of an image."""

    columns: int
    rows: int
    cell_width: int
    cell_height: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the grid."""
        width = max(LEAST_WIDTH, self.columns * self.cell_width + GAP)
        return HEAD + self.rows * self.cell_height, width

    def corner(self, number: int) -> tuple[int, int]:
        """Return the row and column of the upper left pixel of an image."""
        row, column = divmod(number, self.columns)
        indent = (self.cell_width - SIDE) // 2 + GAP // 2
        return HEAD + row * self.cell_height, column * self.cell_width + indent


def plot_samples(images: NDArray[np.uint8], names: Sequence[str]) -> bytes:
    """Draw a grid of images with their labels.

    Args:
        images: Shape (N, 28, 28), uint8.
        names: N names of the true classes.

    Returns:
        A PNG file; it shows the first 200.
    """
    if not len(images):
        return draw_message("no images")
    length = _fit(names)
    captions = [Caption((shorten(name, length),)) for name in names]
    return _draw_grid(
        images, captions, f"{write_count(len(images), 'sample')}, with the true class"
    )


def plot_predictions(
    images: NDArray[np.uint8],
    predicted_names: Sequence[str],
    true_names: Sequence[str],
    confidences: Sequence[float],
) -> bytes:
    """Draw a grid of images, each with the predicted class; wrong ones are framed and named.

    Args:
        images: Shape (N, 28, 28), uint8.
        predicted_names: N names of the predicted classes.
        true_names: N names of the true classes.
        confidences: N probabilities of the predicted classes.

    Returns:
        A PNG file; it shows the first 200.
    """
    if not len(images):
        return draw_message("no images")
    answers = zip(predicted_names, true_names, confidences, strict=True)
    length = _fit([*predicted_names, *true_names])
    captions = [_caption_answer(*answer, length) for answer in answers]
    n_wrong = sum(caption.wrong for caption in captions)
    title = f"how {write_count(len(images), 'image')} are read, {n_wrong:,} wrong (framed)"
    return _draw_grid(images, captions, title)


def plot_mistakes(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> bytes:
    """Draw the worst mistakes, the most confident first.

    Args:
        images: Shape (N, 28, 28), uint8.
        labels: True classes, shape (N,).
        probabilities: Shape (N, classes).
        class_names: What each label means.

    Returns:
        A PNG file; without a mistake it says so.
    """
    wrong = find_mistakes(labels, probabilities)
    if not len(wrong):
        return draw_message(f"no mistakes among {write_count(len(images), 'image')}")
    worst = wrong[:N_WORST]
    predicted_labels = probabilities[worst].argmax(axis=1)
    predicted = [class_names[label] for label in predicted_labels]
    true = [class_names[label] for label in labels[worst]]
    confidences = probabilities[worst].max(axis=1).tolist()
    length = _fit([*predicted, *true])
    answers = zip(predicted, true, confidences, strict=True)
    captions = [_caption_answer(*answer, length) for answer in answers]
    title = f"{write_count(len(wrong), 'mistake')} among {write_count(len(images), 'image')}, "
    title += "the most confident first" if len(worst) == len(wrong) else f"the {N_WORST} worst"
    return _draw_grid(images[worst], captions, title)


def find_mistakes(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the rows that are read wrong, the most confident mistake first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def arrange(n_images: int, captions: Sequence[Caption]) -> Layout:
    """Choose columns and rows so that captions never meet and the sheet is not too wide."""
    longest = max(len(line) for caption in captions for line in caption.lines)
    n_lines = max(len(caption.lines) for caption in captions)
    cell_width = max(SIDE + 2 * GAP, int(np.ceil(longest * CHARACTER)) + 2 * GAP)
    columns = min(n_images, (SHEET_WIDTH - GAP) // cell_width)
    cell_height = SIDE + GAP + int(np.ceil(n_lines * LINE)) + GAP
    return Layout(columns, -(-n_images // columns), cell_width, cell_height)


def _fit(names: Sequence[str]) -> int:
    """Return the length that names are cut to: what the longest needs, within a limit."""
    return min(18, max(map(len, names)))


def _caption_answer(predicted: str, true: str, confidence: float, length: int) -> Caption:
    if predicted == true:
        return Caption((f"{shorten(true, length)} {confidence:.0%}", ""))
    read = f"{shorten(predicted, length)} {_floor_percent(confidence)}"
    return Caption((read, f"not {shorten(true, length)}"), wrong=True)


def _floor_percent(confidence: float) -> str:
    """Write a percentage that never rounds up to 100: a mistake was not that sure."""
    return f"{np.floor(confidence * 1000) / 10:.1f}%"


def _draw_grid(images: NDArray[np.uint8], captions: Sequence[Caption], title: str) -> bytes:
    """Draw images with captions of equally many lines below a title."""
    from matplotlib.figure import Figure

    if len(images) > MAX_SHOWN:
        images, captions = images[:MAX_SHOWN], captions[:MAX_SHOWN]
        title += f"; the first {MAX_SHOWN}"
    layout = arrange(len(images), captions)
    height, width = layout.size
    figure = Figure(figsize=(width * PNG_PIXELS / DPI, height * PNG_PIXELS / DPI))
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    mosaic = _build_mosaic(images, layout)
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.text(GAP, HEAD / 2, title, fontsize=9, va="center", ha="left")
    for number, caption in enumerate(captions):
        _draw_caption(axes, layout.corner(number), caption)
    return to_png(figure)


def _build_mosaic(images: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """Lay images, dark ink on white with a thin grey edge, into one."""
    mosaic = np.full(layout.size, 255, np.uint8)
    for number, image in enumerate(images):
        row, column = layout.corner(number)
        mosaic[row - 1 : row + SIDE + 1, column - 1 : column + SIDE + 1] = 215
        mosaic[row : row + SIDE, column : column + SIDE] = 255 - image
    return mosaic


def _draw_caption(axes: "Axes", corner: tuple[int, int], caption: Caption) -> None:
    from matplotlib.patches import Rectangle

    row, column = corner
    middle = column + SIDE / 2
    for number, line in enumerate(caption.lines):
        axes.text(
            middle,
            row + SIDE + GAP / 2 + number * LINE,
            line,
            fontsize=FONT_POINTS,
            family="monospace",
            color=VERMILION if caption.wrong else "black" if number == 0 else GREY,
            weight="bold" if caption.wrong else "normal",
            ha="center",
            va="top",
        )
    if caption.wrong:
        corner_xy = (column - 1.5, row - 1.5)
        axes.add_patch(
            Rectangle(corner_xy, SIDE + 2, SIDE + 2, fill=False, edgecolor=VERMILION, lw=2.5)
        )


MAX_FILTERS = 64
MAX_SIGNS = 2500  # weights that get a plus or minus sign drawn; more would be a blur


def plot_filters(weights: NDArray[np.floating]) -> bytes:
    """Draw the filters of a first layer, negative to positive around 0.

    Args:
        weights: Shape (n, channels, height, width), or (n, 784) of a dense layer.

    Returns:
        A PNG file; it shows the first 64 filters.
    """
    from matplotlib.figure import Figure

    tiles = split_filters(weights)
    shown = tiles[:MAX_FILTERS]
    mosaic = build_mosaic(shown)
    limit = float(np.abs(shown).max()) or 1.0
    rows, columns = mosaic.shape
    weight_inches = min(7.4 / columns, 0.25)
    size = max(4.2, 1.3 + columns * weight_inches), max(2.0, 0.6 + rows * weight_inches)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    # Blue and red are equally dark: in grey print the signs tell them apart.
    drawn = axes.imshow(mosaic, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    if shown.size <= MAX_SIGNS:
        for sign, marker in ((1, "+"), (-1, "_")):
            y, x = np.nonzero(np.sign(np.nan_to_num(mosaic)) == sign)
            axes.scatter(
                x, y, s=(24 * weight_inches) ** 2, marker=marker, color="black", lw=0.6, alpha=0.6
            )
    figure.colorbar(drawn, ax=axes, label="weight", shrink=0.95)
    height, width = shown.shape[1:]
    title = f"first layer: {write_count(len(tiles), 'filter')}, {height} x {width}"
    title += f", the first {len(shown)}" if len(shown) < len(tiles) else ""
    axes.set_title(title, fontsize=11)
    return to_png(figure)


def split_filters(weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a first layer's weights as pictures, shape (filters, height, width).

    Each channel of a convolution is a picture of its own. Weights that are not finite become 0.
    """
    shape = (SIDE, SIDE) if weights.ndim == 2 else weights.shape[2:]
    return np.where(np.isfinite(weights), weights, 0).reshape(-1, *shape)


def build_mosaic(tiles: NDArray[np.floating]) -> NDArray[np.floating]:
    """Lay pictures, shape (n, height, width), into one that is about twice as wide as high.

    The gaps are NaN, which stays white.
    """
    n_tiles, height, width = tiles.shape
    gap = max(1, width // 14)
    columns = min(n_tiles, max(1, int(np.ceil(np.sqrt(2 * n_tiles)))))
    rows = -(-n_tiles // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    mosaic = np.full(shape, np.nan, np.float64)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        mosaic[top : top + height, left : left + width] = tile
    return mosaic
