"""Pictures for people: curves of a training, grids of predicted digits."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from edge_mnist.bench.benchmark import BenchReport
    from edge_mnist.training.loop import Epoch

# Okabe and Ito's palette: told apart by the colour-blind, and in grey print.
BLUE, VERMILION = "#0072B2", "#D55E00"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


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


def plot_folds(accuracies: Sequence[float]) -> bytes:
    """Draw the accuracy of each fold; returns a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(accuracies) + 1), accuracies, color=BLUE, marker="o", ls="")
    axes.set(xlabel="fold", ylabel="validation accuracy")
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


def plot_benchmark(report: "BenchReport") -> bytes:
    """Draw the latency of one image, and throughput over batch sizes, of every variant.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.6 + 0.5 * max(4, len(report.models))), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row, one in enumerate(report.models):
        color, marker = PALETTE[row % len(PALETTE)], "osD^vPX*"[row % 8]
        latency = one.latency
        left.plot([latency.p50_us, latency.p99_us], [row, row], color=color, lw=2)
        left.plot(latency.p50_us, row, color=color, marker=marker, ms=9)
        left.plot([latency.p90_us, latency.p99_us], [row, row], color=color, marker="|", ls="")
        label = f"{latency.p50_us:.0f} us"
        left.annotate(label, (latency.p50_us, row), (0, 8), textcoords="offset points", fontsize=8)
        sizes = list(one.images_per_s)
        right.plot(sizes, list(one.images_per_s.values()), color=color, marker=marker)
    left.set(xlabel="one image: p50, p90 and p99 (us)", xscale="log", ylim=(len(report.models), -1))
    left.set_yticks(range(len(report.models)), [one.name for one in report.models])
    _label_log_axis(left.xaxis)
    right.set(xlabel="batch size", ylabel="images per second", xscale="log", yscale="log")
    _label_log_axis(right.yaxis)
    sizes = sorted({size for one in report.models for size in one.images_per_s})
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.xaxis.minorticks_off()
    figure.suptitle(f"{report.processor}, {report.threads} thread(s)", fontsize=9)
    return _to_png(figure)


def _label_log_axis(axis: "Axis") -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each decade, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _frame() -> "Rectangle":
    from matplotlib.patches import Rectangle

    return Rectangle((-0.5, -0.5), 28, 28, fill=False, edgecolor=VERMILION, linewidth=3)


def _to_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
