"""Charts: training curves, folds, confusion matrix, reliability diagram, benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.plots.style import (
    BLUE,
    GREY,
    LIGHT_GREY,
    PALETTE,
    VERMILION,
    format_count,
    label_integers,
    label_log_axis,
    shorten,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edge_mnist.training.trainer import Epoch
    from edge_mnist.validation.benchmark import BenchReport

LOG_RATIO = 5.0  # largest value over smallest, from which an axis is logarithmic
MAX_CLASSES, N_MOST_CONFUSED = 30, 20  # of more classes than 30, the most confused 20 are drawn
MAX_NAME_LENGTH = 18  # characters
Z_95 = 1.96  # standard deviations of a 95 % interval


def plot_curves(history: Sequence["Epoch"]) -> bytes:
    """Draw loss, error and learning rate over the epochs of one training.

    Args:
        history: The epochs, in order; at least one.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    loss, error, rate = figure.subplots(1, 3)
    epochs = [epoch.epoch for epoch in history]
    marks = {"ms": 4, "markevery": max(1, len(epochs) // 25)}
    validation = {"color": VERMILION, "marker": "s", "ls": "--", **marks}
    loss.plot(epochs, [e.loss for e in history], color=BLUE, marker="o", label="training", **marks)
    loss.plot(epochs, [e.validation_loss for e in history], label="validation", **validation)
    loss.legend(frameon=False)
    errors = [100 * (1 - epoch.validation_accuracy) for epoch in history]
    train_errors = [100 * (1 - epoch.accuracy) for epoch in history]
    error.plot(epochs, train_errors, color=BLUE, marker="o", label="training, augmented", **marks)
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
    loss.set(title="loss", ylabel="cross-entropy")
    error.set(title=f"error: {errors[-1]:.2f} % after the last epoch", ylabel="error rate (%)")
    rate.set(title="learning rate", ylabel="at the end of the epoch")
    for axes in (loss, error, rate):
        axes.set(xlabel="epoch", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        label_integers(axes.xaxis)
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

    mean, deviation = summarize_folds(accuracies)
    numbers = np.arange(1, len(accuracies) + 1)
    figure = Figure(figsize=(max(5.0, 2.5 + 0.45 * len(accuracies)), 3.6), layout="constrained")
    axes = figure.subplots()
    percents = 100 * np.asarray(accuracies)
    low, high = 100 * (mean - deviation), 100 * (mean + deviation)
    bottom, top = min(low, *percents), max(high, *percents)
    margin = max(0.1, 0.1 * (top - bottom))  # percentage points; one fold has no deviation
    axes.axhspan(low, high, color=BLUE, alpha=0.15, lw=0, label="mean \u00b1 standard deviation")
    axes.axhline(100 * mean, color=BLUE, ls="--", label="mean")
    axes.plot(numbers, percents, "D", color=VERMILION, ms=7, label="fold")
    axes.set_title(
        f"{format_count(len(accuracies), 'fold')}: "
        f"{100 * mean:.2f} % \u00b1 {100 * deviation:.2f} points",
        fontsize=11,
    )
    axes.set(xlabel="fold", xlim=(0.5, len(accuracies) + 0.5))
    axes.set(ylabel="accuracy (%)", ylim=(bottom - margin, top + margin))
    label_integers(axes.xaxis)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    return to_png(figure)


def plot_confusion(
    labels: NDArray[np.int64], predicted_labels: NDArray[np.int64], class_names: Sequence[str]
) -> bytes:
    """Draw a confusion matrix in which the mistakes are coloured and the diagonal is not.

    Args:
        labels: True classes, shape (N,).
        predicted_labels: The model's, shape (N,).
        class_names: Name of each class; of more than 30 the most confused 20 are drawn.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    counts = confusion_matrix(labels, predicted_labels, len(class_names))
    shown = find_most_confused(counts)
    n_wrong = len(labels) - int(np.trace(counts))
    title = f"{format_count(len(labels), 'image')}, "
    title += f"{n_wrong:,} misclassified ({n_wrong / len(labels):.2%})"
    if len(shown) < len(class_names):
        title += f"\nthe {len(shown)} most confused of {len(class_names):,} classes"
    names = [shorten(class_names[label], MAX_NAME_LENGTH) for label in shown]
    totals = counts.sum(axis=1)
    recalls = [f"{counts[i, i] / totals[i]:.1%}" if totals[i] else "-" for i in shown]
    cells = 0.28 * len(shown) + 2.2
    margin = 0.085 * max(map(len, names))
    figure = Figure(figsize=(cells + 1.2 + margin, cells + margin), layout="constrained")
    axes = figure.subplots()
    _draw_matrix(axes, counts[np.ix_(shown, shown)])
    ticks = range(len(shown))
    axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title, fontsize=11)
    right = axes.secondary_yaxis("right")
    right.set_yticks(ticks, recalls)
    right.set_ylabel("recall")
    for axis in (axes, right):
        axis.tick_params(length=0, labelsize=_cell_font(len(shown)) + 1)
    return to_png(figure)


def plot_reliability(confidences: NDArray[np.float32], correct: NDArray[np.bool_]) -> bytes:
    """Draw a reliability diagram: accuracy over confidence, and a histogram below it.

    Args:
        confidences: Probability of each prediction, shape (N,), 0..1.
        correct: Whether each prediction is correct, shape (N,).

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    bins = bin_confidences(confidences, correct)
    figure = Figure(figsize=(6.4, 7.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 3))
    _draw_accuracies(upper, bins)
    _draw_counts(lower, bins)
    predictions = format_count(len(correct), "prediction")
    figure.suptitle(f"{predictions}, expected calibration error {bins.calibration_error:.4f}")
    return to_png(figure)


def plot_benchmark(report: "BenchReport") -> bytes:
    """Draw the latency of one image, and the throughput over the batch size, of every model.

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
    label_log_axis(left.xaxis)
    right.set(xlabel="batch size", ylabel="images per second", xscale="log", yscale="log")
    label_log_axis(right.yaxis)
    sizes = sorted({size for one in report.models for size in one.images_per_s})
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.xaxis.minorticks_off()
    figure.suptitle(f"{report.processor}, {report.threads} thread(s)", fontsize=9)
    return to_png(figure)


def summarize_folds(accuracies: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation of accuracies; the latter is 0 for one fold."""
    deviation = np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0.0
    return float(np.mean(accuracies)), float(deviation)


def confusion_matrix(
    labels: NDArray[np.int64], predicted_labels: NDArray[np.int64], n_classes: int
) -> NDArray[np.int64]:
    """Return the confusion matrix, shape (classes, classes): true classes in the rows."""
    pairs = np.bincount(labels * n_classes + predicted_labels, minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes)


def find_most_confused(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the classes to draw, in order: all, or those of the most frequent confusions.

    Args:
        counts: Confusion matrix, shape (classes, classes), true classes in the rows.
    """
    if len(counts) <= MAX_CLASSES:
        return np.arange(len(counts))
    errors = counts - np.diag(np.diag(counts))
    order = np.argsort(-errors, axis=None, kind="stable")
    # Pairs of true and predicted class, so that the cells of these mistakes are drawn. With few
    # mistakes, classes without one fill up the rest.
    chosen: set[int] = set()
    for pair in zip(*np.unravel_index(order, errors.shape), strict=True):
        if len(chosen | {*pair}) <= N_MOST_CONFUSED:
            chosen |= {*pair}
        if len(chosen) == N_MOST_CONFUSED:
            break
    return np.array(sorted(chosen), np.int64)


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of equal width over their confidence.

    Attributes:
        counts: Predictions in each bin, shape (bins,).
        n_correct: Correct predictions in each bin.
        confidences: Mean confidence in each bin; NaN in an empty one.
        calibration_error: Expected calibration error, 0 where confidence equals accuracy.
    """

    counts: NDArray[np.int64]
    n_correct: NDArray[np.int64]
    confidences: NDArray[np.float64]
    calibration_error: float


def bin_confidences(
    confidences: NDArray[np.float32], correct: NDArray[np.bool_], *, n_bins: int = 15
) -> Reliability:
    """Bin predictions by confidence, as ``validate`` does for the calibration error."""
    bins = np.minimum((confidences * n_bins).astype(int), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    n_correct = np.bincount(bins[correct], minlength=n_bins)
    sums = np.bincount(bins, weights=confidences, minlength=n_bins)
    with np.errstate(invalid="ignore"):  # an empty bin has no mean
        means = sums / counts
    error = float(np.abs(sums - n_correct).sum() / max(1, len(correct)))
    return Reliability(counts, n_correct, means, error)


def wilson_interval(n_correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a proportion, valid for small n too.

    By hand, because scipy.stats takes 0.6 s to import.

    Source: E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
    1927.
    """
    share, z2 = n_correct / n, Z_95**2 / n
    middle = (share + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _choose_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Scale an axis logarithmically if its values differ much, else linearly from 0."""
    finite = [value for value in values if np.isfinite(value)] or [0.0]  # a loss may be infinite
    if min(finite) > 0 and max(finite) / min(finite) > LOG_RATIO:
        axes.set_yscale("log")
        label_log_axis(axes.yaxis)
    else:
        axes.set_ylim(0, max(*finite, 0.1) * 1.1)


def _draw_matrix(axes: "Axes", counts: NDArray[np.int64]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    diagonal = np.eye(len(counts), dtype=bool)
    errors = np.ma.masked_array(counts, diagonal | (counts == 0))
    n_max = max(3, int(np.where(diagonal, 0, counts).max()))  # a single mistake stays light
    colors = LinearSegmentedColormap.from_list("errors", ["#FBE6D4", VERMILION, "#5C2700"])
    grey = LinearSegmentedColormap.from_list("correct", [LIGHT_GREY, LIGHT_GREY])
    axes.imshow(np.ma.masked_array(counts, ~diagonal), cmap=grey)
    axes.imshow(errors, cmap=colors, vmin=0, vmax=n_max)
    edges = np.arange(len(counts) + 1) - 0.5
    axes.hlines(edges, -0.5, len(counts) - 0.5, color=LIGHT_GREY, lw=0.5)
    axes.vlines(edges, -0.5, len(counts) - 0.5, color=LIGHT_GREY, lw=0.5)
    font = _cell_font(len(counts))
    for row, column in np.argwhere(counts > 0):
        count, is_correct = int(counts[row, column]), row == column
        color = GREY if is_correct else "white" if count > 0.45 * n_max else "black"
        text = axes.text(column, row, str(count), fontsize=font, color=color)
        text.set(ha="center", va="center", weight="normal" if is_correct else "bold")


def _cell_font(n_classes: int) -> float:
    return float(np.interp(n_classes, (10, 30), (9.0, 6.0)))


def _draw_accuracies(axes: "Axes", bins: Reliability) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", label="perfect calibration")
    filled = np.flatnonzero(bins.counts)
    shares = bins.n_correct[filled] / bins.counts[filled]
    limits = [wilson_interval(bins.n_correct[one], bins.counts[one]) for one in filled]
    lows, highs = np.array(limits).reshape(-1, 2).T
    reach = np.abs([shares - lows, highs - shares])
    axes.errorbar(
        bins.confidences[filled],
        shares,
        reach,
        color=BLUE,
        marker="o",
        capsize=3,
        ls="",
        label="accuracy, 95 % interval",
    )
    axes.set(ylabel="accuracy", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(color=GREY, alpha=0.2)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _draw_counts(axes: "Axes", bins: Reliability) -> None:
    n_bins = len(bins.counts)
    middles = (np.arange(n_bins) + 0.5) / n_bins
    wrong = bins.counts - bins.n_correct
    width = 0.42 / n_bins
    correct_bars = axes.bar(middles - width / 2, bins.n_correct, width, color=BLUE, label="correct")
    wrong_bars = axes.bar(
        middles + width / 2,
        wrong,
        width,
        facecolor="white",
        edgecolor=VERMILION,
        hatch="////",
        label="wrong",
    )
    for bars, counts in ((correct_bars, bins.n_correct), (wrong_bars, wrong)):
        texts = [f"{count:,}" if count else "" for count in counts]
        axes.bar_label(bars, texts, fontsize=7, padding=1, rotation=90)
    n_max = int(max(1, bins.counts.max()))
    axes.set(xlabel="confidence", ylabel="predictions", yscale="log", ylim=(0.5, n_max * 15))
    axes.legend(frameon=False, loc="upper left", ncols=2)
