"""The filters of a network's first layer."""

import numpy as np
from numpy.typing import NDArray

from edge_mnist.plots.style import to_png, write_count

MAX_FILTERS = 64
SIDE = 28  # a dense layer's 784 weights are an image
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
