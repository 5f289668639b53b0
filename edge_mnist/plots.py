"""Pictures for people: curves of a training, grids of predicted digits."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from edge_mnist.training.loop import Epoch

# Okabe and Ito's palette: told apart by the colour-blind, and in grey print.
BLUE, VERMILION = "#0072B2", "#D55E00"


def plot_curves(history: Sequence["Epoch"]) -> bytes:
    """Draw loss and error rate over the epochs of one training.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    epochs = [epoch.epoch for epoch in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [e.loss for e in history], color=BLUE, marker="o", ms=4, label="train")
    left.plot(
        epochs,
        [e.validation_loss for e in history],
        color=VERMILION,
        marker="s",
        ms=4,
        ls="--",
        label="validation",
    )
    left.set(xlabel="epoch", ylabel="loss (cross entropy)", yscale="log")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    left.legend(frameon=False)
    errors = [100 * (1 - epoch.validation_accuracy) for epoch in history]
    right.plot(epochs, errors, color=VERMILION, marker="s", ms=4, ls="--")
    right.set(xlabel="epoch", ylabel="validation error (%)", ylim=(0, max([*errors, 0.1]) * 1.1))
    return _to_png(figure)


def plot_predictions(
    images: NDArray[np.uint8],
    predicted_names: Sequence[str],
    true_names: Sequence[str],
    confidences: Sequence[float],
    *,
    columns: int = 10,
) -> bytes:
    """Draw a grid of images, each with the predicted class; wrong ones are framed and named.

    Args:
        images: Shape (N, 28, 28), uint8.
        predicted_names: N names of the predicted classes.
        true_names: N names of the true classes.
        confidences: N probabilities of the predicted classes.
        columns: Images in a row.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 0.95, rows * 1.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    cells = zip(grid, images, predicted_names, true_names, confidences, strict=False)
    for axes, image, predicted, true, confidence in cells:
        axes.imshow(255 - image, cmap="gray", vmin=0, vmax=255)
        wrong = predicted != true
        title = f"{predicted}, not {true}" if wrong else f"{predicted}  {confidence:.0%}"
        color = VERMILION if wrong else "black"
        axes.set_title(title, fontsize=8, color=color, weight="bold" if wrong else "normal", pad=3)
        if wrong:
            axes.add_patch(_frame())
    return _to_png(figure)


def _frame() -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), 28, 28, fill=False, edgecolor=VERMILION, linewidth=3)


def _to_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
