"""The picture of a benchmark."""

from typing import TYPE_CHECKING

from edge_mnist.plots.style import PALETTE, label_log_axis, to_png

if TYPE_CHECKING:
    from edge_mnist.bench.benchmark import BenchReport


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
    label_log_axis(left.xaxis)
    right.set(xlabel="batch size", ylabel="images per second", xscale="log", yscale="log")
    label_log_axis(right.yaxis)
    sizes = sorted({size for one in report.models for size in one.images_per_s})
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.xaxis.minorticks_off()
    figure.suptitle(f"{report.processor}, {report.threads} thread(s)", fontsize=9)
    return to_png(figure)
