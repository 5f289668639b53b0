"""Grids of images with captions (samples, predictions, mistakes), and the first layer's filters.

A grid is one mosaic in one matplotlib axes: a hundred axes take seconds to lay out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.picture.digit import SIDE_PX
from edge_mnist.plots.style import (
    DPI,
    GREY,
    VERMILION,
    draw_message,
    format_count,
    shorten,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_SHOWN = 200  # images in a grid; more do not fit a viewer
N_WORST = 40  # mistakes
MAX_NAME_LENGTH = 18  # characters
# Lengths of a grid are in pixels of an image, each drawn as 5 x 5 pixels of the PNG file.
ZOOM = 5
FONT_PT = 8.5
PIXEL_PT = 72 * ZOOM / DPI
CHARACTER_WIDTH = 0.602 * FONT_PT / PIXEL_PT  # of the monospaced font
LINE_HEIGHT = 1.4 * FONT_PT / PIXEL_PT
GAP, TITLE_HEIGHT = 3, 9
MIN_GRID_WIDTH, MAX_GRID_WIDTH = 190, 346
MAX_FILTERS = 64
MAX_SIGNS = 2500  # weights that are marked with their sign; more would be illegible
MAX_FILTERS_INCHES, MAX_WEIGHT_INCHES = 7.4, 0.25


def plot_samples(images: NDArray[np.uint8], names: Sequence[str]) -> bytes:
    """Draw a grid of images with their classes.

    Args:
        images: Shape (N, 28, 28), uint8.
        names: N names of the true classes.

    Returns:
        A PNG file; it shows the first 200.
    """
    if not len(images):
        return draw_message("no images")
    length = _fit_length(names)
    captions = [Caption((shorten(name, length),)) for name in names]
    return _draw_grid(images, captions, f"{format_count(len(images), 'sample')}, with true class")


def plot_predictions(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> bytes:
    """Draw a grid of images with predicted class and confidence; wrong predictions are framed.

    Args:
        images: Shape (N, 28, 28), uint8.
        labels: True classes, shape (N,).
        probabilities: Shape (N, classes), float32.
        class_names: Name of each class.

    Returns:
        A PNG file; it shows the first 200.
    """
    if not len(images):
        return draw_message("no images")
    n_wrong = len(find_mistakes(labels, probabilities))
    title = f"{format_count(len(images), 'prediction')}, {n_wrong:,} wrong (framed)"
    return _draw_grid(images, _caption_predictions(labels, probabilities, class_names), title)


def plot_mistakes(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    class_names: Sequence[str],
) -> bytes:
    """Draw the wrong predictions, the most confident first; see ``plot_predictions``.

    Returns:
        A PNG file; it shows the first 40, or says that there is none.
    """
    mistakes = find_mistakes(labels, probabilities)
    if not len(mistakes):
        return draw_message(f"no mistakes among {format_count(len(images), 'image')}")
    worst = mistakes[:N_WORST]
    title = f"{format_count(len(mistakes), 'mistake')} among {format_count(len(images), 'image')}, "
    title += "most confident first"
    title += f": the first {N_WORST}" if len(worst) < len(mistakes) else ""
    captions = _caption_predictions(labels[worst], probabilities[worst], class_names)
    return _draw_grid(images[worst], captions, title)


def plot_filters(weights: NDArray[np.floating]) -> bytes:
    """Draw the filters of a first layer, coloured by sign and size of each weight.

    Args:
        weights: Shape (n, channels, height, width) of a convolution, or (n, 784) of a dense layer.

    Returns:
        A PNG file; it shows the first 64 filters.
    """
    from matplotlib.figure import Figure

    filters = split_filters(weights)
    shown = filters[:MAX_FILTERS]
    mosaic = tile_filters(shown)
    limit = float(np.abs(shown).max()) or 1.0
    rows, columns = mosaic.shape
    weight_inches = min(MAX_FILTERS_INCHES / columns, MAX_WEIGHT_INCHES)
    size = max(4.2, 1.3 + columns * weight_inches), max(2.0, 0.6 + rows * weight_inches)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(mosaic, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    if shown.size <= MAX_SIGNS:  # blue and red are equally dark in grey print
        for sign, marker in ((1, "+"), (-1, "_")):
            y, x = np.nonzero(np.sign(np.nan_to_num(mosaic)) == sign)
            area = (24 * weight_inches) ** 2
            axes.scatter(x, y, s=area, marker=marker, color="black", lw=0.6, alpha=0.6)
    figure.colorbar(drawn, ax=axes, label="weight", shrink=0.95)
    height, width = shown.shape[1:]
    title = f"first layer: {format_count(len(filters), 'filter')}, {height} x {width}"
    title += f", the first {len(shown)}" if len(shown) < len(filters) else ""
    axes.set_title(title, fontsize=11)
    return to_png(figure)


def find_mistakes(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the rows of the wrong predictions, the most confident first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")]


def split_filters(weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return a first layer's weights as images, shape (filters, height, width).

    Each input channel of a convolution gives an image. Weights that are not finite become 0.
    """
    shape = (SIDE_PX, SIDE_PX) if weights.ndim == 2 else weights.shape[2:]
    return np.where(np.isfinite(weights), weights, 0).reshape(-1, *shape)


def tile_filters(filters: NDArray[np.floating]) -> NDArray[np.floating]:
    """Tile images, shape (n, height, width), into one that is about twice as wide as high.

    Gaps between them are NaN, which is drawn white.
    """
    n_filters, height, width = filters.shape
    gap = max(1, width // 14)
    columns = min(n_filters, max(1, int(np.ceil(np.sqrt(2 * n_filters)))))
    rows = -(-n_filters // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    mosaic = np.full(shape, np.nan, np.float64)
    for number, one in enumerate(filters):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        mosaic[top : top + height, left : left + width] = one
    return mosaic


@dataclass(frozen=True)
class Caption:
    """The text below an image.

    Attributes:
        lines: The same number for every image of a grid.
        is_wrong: Whether to frame the image.
    """

    lines: tuple[str, ...]
    is_wrong: bool = False


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
        width = max(MIN_GRID_WIDTH, self.columns * self.cell_width + GAP)
        return TITLE_HEIGHT + self.rows * self.cell_height, width

    def corner(self, number: int) -> tuple[int, int]:
        """Return row and column of an image's upper left pixel."""
        row, column = divmod(number, self.columns)
        indent = (self.cell_width - SIDE_PX) // 2 + GAP // 2
        return TITLE_HEIGHT + row * self.cell_height, column * self.cell_width + indent


def arrange(n_images: int, captions: Sequence[Caption]) -> Layout:
    """Choose columns and rows so that captions do not overlap and the grid is not too wide."""
    n_characters = max(len(line) for caption in captions for line in caption.lines)
    n_lines = max(len(caption.lines) for caption in captions)
    cell_width = max(SIDE_PX, int(np.ceil(n_characters * CHARACTER_WIDTH))) + 2 * GAP
    columns = min(n_images, (MAX_GRID_WIDTH - GAP) // cell_width)
    cell_height = SIDE_PX + GAP + int(np.ceil(n_lines * LINE_HEIGHT)) + GAP
    return Layout(columns, -(-n_images // columns), cell_width, cell_height)


def _caption_predictions(
    labels: NDArray[np.int64], probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> list[Caption]:
    predicted_labels = probabilities.argmax(axis=1)
    predicted_names = [class_names[label] for label in predicted_labels]
    true_names = [class_names[label] for label in labels]
    length = _fit_length([*predicted_names, *true_names])
    captions = []
    for row, confidence in enumerate(probabilities.max(axis=1).tolist()):
        predicted, true = shorten(predicted_names[row], length), shorten(true_names[row], length)
        if predicted_labels[row] == labels[row]:
            captions.append(Caption((f"{true} {confidence:.0%}", "")))
        else:
            percent = np.floor(confidence * 1000) / 10  # never rounded up to 100
            lines = (f"{predicted} {percent:.1f}%", f"not {true}")
            captions.append(Caption(lines, is_wrong=True))
    return captions


def _fit_length(names: Sequence[str]) -> int:
    """Return the number of characters that the longest name needs, within the limit."""
    return min(MAX_NAME_LENGTH, max(map(len, names)))


def _draw_grid(images: NDArray[np.uint8], captions: Sequence[Caption], title: str) -> bytes:
    """Draw images, dark ink on white, with their captions and a title."""
    from matplotlib.figure import Figure

    if len(images) > MAX_SHOWN:
        images, captions = images[:MAX_SHOWN], captions[:MAX_SHOWN]
        title += f"; the first {MAX_SHOWN}"
    layout = arrange(len(images), captions)
    height, width = layout.size
    mosaic = np.full(layout.size, 255, np.uint8)
    for number, image in enumerate(images):
        row, column = layout.corner(number)
        mosaic[row - 1 : row + SIDE_PX + 1, column - 1 : column + SIDE_PX + 1] = 215  # grey edge
        mosaic[row : row + SIDE_PX, column : column + SIDE_PX] = 255 - image
    figure = Figure(figsize=(width * ZOOM / DPI, height * ZOOM / DPI))
    axes = figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
    axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.text(GAP, TITLE_HEIGHT / 2, title, fontsize=9, va="center", ha="left")
    for number, caption in enumerate(captions):
        _draw_caption(axes, layout.corner(number), caption)
    return to_png(figure)


def _draw_caption(axes: "Axes", corner: tuple[int, int], caption: Caption) -> None:
    from matplotlib.patches import Rectangle

    row, column = corner
    for number, line in enumerate(caption.lines):
        axes.text(
            column + SIDE_PX / 2,
            row + SIDE_PX + GAP / 2 + number * LINE_HEIGHT,
            line,
            fontsize=FONT_PT,
            family="monospace",
            color=VERMILION if caption.is_wrong else "black" if number == 0 else GREY,
            weight="bold" if caption.is_wrong else "normal",
            ha="center",
            va="top",
        )
    if caption.is_wrong:
        frame = Rectangle((column - 1.5, row - 1.5), SIDE_PX + 2, SIDE_PX + 2, fill=False)
        frame.set(edgecolor=VERMILION, lw=2.5)
        axes.add_patch(frame)
