"""Curves of trainings: loss, error and learning rate over the epochs; accuracy of folds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edge_mnist.plots.style import (
    BLUE,
    GREY,
    PALETTE,
    VERMILION,
    label_log_axis,
    label_whole_numbers,
    to_png,
    write_count,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edge_mnist.training.loop import Epoch

LOG_PAYS = 5.0  # largest value over smallest, from which a linear axis flattens the end


def plot_curves(history: Sequence["Epoch"]) -> bytes:
    """Draw loss, error and learning rate over the epochs of one training.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, error, rate = figure.subplots(1, 3)
    epochs = [epoch.epoch for epoch in history]
    marks = {"ms": 4, "markevery": max(1, len(epochs) // 25)}
    validation = {"color": VERMILION, "marker": "s", "ls": "--", **marks}
    loss.plot(epochs, [e.loss for e in history], color=BLUE, marker="o", label="train", **marks)
    loss.plot(epochs, [e.validation_loss for e in history], label="validation", **validation)
    loss.legend(frameon=False)
    errors = [100 * (1 - epoch.validation_accuracy) for epoch in history]
    train_errors = [100 * (1 - epoch.accuracy) for epoch in history]
    error.plot(epochs, train_errors, color=BLUE, marker="o", label="train, changed", **marks)
    error.plot(epochs, errors, label="validation", **validation)
    error.legend(frameon=False)
    rate.plot(
        epochs,
        [e.learning_rate for e in history],
        color=PALETTE[2],
        marker="^",
        **marks,
        clip_on=False,
    )
    _choose_scale(loss, [value for e in history for value in (e.loss, e.validation_loss)])
    _choose_scale(error, [*errors, *train_errors])
    rate.set_ylim(bottom=0)
    loss.set(title="loss", ylabel="cross entropy")
    error.set(title=f"error: {errors[-1]:.2f} % after the last epoch", ylabel="error (%)")
    rate.set(title="learning rate", ylabel="at the end of the epoch")
    for axes in (loss, error, rate):
        axes.set(xlabel="epoch", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        label_whole_numbers(axes.xaxis)
        axes.grid(color=GREY, alpha=0.2)
    return to_png(figure)


def plot_folds(accuracies: Sequence[float]) -> bytes:
    """Draw the accuracy of each fold of a cross-validation, with mean and standard deviation.

    Args:
        accuracies: Fractions, one for each fold, in order; at least one.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    mean, deviation = measure_spread(accuracies)
    numbers = np.arange(1, len(accuracies) + 1)
    figure = Figure(figsize=(max(5.0, 2.5 + 0.45 * len(accuracies)), 3.6), layout="constrained")
    axes = figure.subplots()
    percents = 100 * np.asarray(accuracies)
    low, high = 100 * (mean - deviation), 100 * (mean + deviation)
    bottom, top = min(low, *percents), max(high, *percents)
    spare = max(0.1, 0.1 * (top - bottom))  # points; a lone fold has no spread
    axes.axhspan(low, high, color=BLUE, alpha=0.15, lw=0, label="mean +- standard deviation")
    axes.axhline(100 * mean, color=BLUE, ls="--", label="mean")
    axes.plot(numbers, percents, "D", color=VERMILION, ms=7, label="fold")
    axes.set_title(
        f"{write_count(len(accuracies), 'fold')}: "
        f"{100 * mean:.2f} % +- {100 * deviation:.2f} points",
        fontsize=11,
    )
    axes.set(xlabel="fold", xlim=(0.5, len(accuracies) + 0.5))
    axes.set(ylabel="accuracy (%)", ylim=(bottom - spare, top + spare))
    label_whole_numbers(axes.xaxis)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return to_png(figure)


def measure_spread(accuracies: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; the latter is 0 for a single fold."""
    deviation = np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0.0
    return float(np.mean(accuracies)), float(deviation)


def _choose_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Take a logarithmic scale where that shows more, else a linear one from 0."""
    finite = [value for value in values if np.isfinite(value)] or [0.0]  # a loss may overflow
    if min(finite) > 0 and max(finite) / min(finite) > LOG_PAYS:
        axes.set_yscale("log")
        label_log_axis(axes.yaxis)
    else:
        axes.set_ylim(0, max(*finite, 0.1) * 1.1)
