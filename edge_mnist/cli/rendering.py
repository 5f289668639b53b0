"""Progress bars and tables for people; only commands import this module."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from edge_mnist.cli.streams import escape
from edge_mnist.model_file import shell_path

if TYPE_CHECKING:
    from edge_mnist.quickstart import QuickstartResult
    from edge_mnist.training.catalogue import NetworkEntry, RecipeEntry
    from edge_mnist.training.cross_validation import FoldsResult
    from edge_mnist.training.run import RunResult
    from edge_mnist.training.trainer import Progress as TrainingProgress
    from edge_mnist.validation.benchmark import BenchReport, Regression
    from edge_mnist.validation.robustness import Robustness
    from edge_mnist.validation.validate import Float32Comparison, ModelReport, ValidationReport


MIN_TEXT_WIDTH = 20  # characters, of a column that is wrapped
# Without markup and emoji codes: names of files and classes are printed as they are.
OUT = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
ERR = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(text: str) -> None:
    """Print a line of progress on stderr."""
    ERR.print(escape(text))


def print_line(text: str, style: str | None = None) -> None:
    """Print a line on stdout."""
    OUT.print(escape(text), style=style)


def print_table(table: Table) -> None:
    """Print a table; where the terminal is too narrow for it, a line for each cell.

    Only a last column of text is wrapped: everything else could not be read any more.
    """
    last = table.columns[-1]
    for column in table.columns:
        column.no_wrap = column is not last or column.justify == "right"
    width = Measurement.get(OUT, OUT.options.update(max_width=1000), table).maximum
    if not last.no_wrap:
        width -= max(0, max(map(cell_len, map(str, last.cells))) - MIN_TEXT_WIDTH)
    if width <= OUT.width:
        OUT.print(table)
        return
    rows = zip(*(column.cells for column in table.columns), strict=True)
    for row, cells in zip(table.rows, rows, strict=True):
        named = zip((column.header for column in table.columns), map(str, cells), strict=True)
        texts = [f"{header} {cell.strip()}".strip() for header, cell in named if cell.strip()]
        OUT.print(texts[0], style=row.style or "bold", soft_wrap=False)
        for text in texts[1:]:
            OUT.print(Padding(text, (0, 0, 0, 2)), soft_wrap=False)


def warn_of_skipped(skipped: "Sequence[str]") -> None:
    """Name everything in a data set's folder that was left out, and count these lines."""
    for line in skipped:
        say(f"skipped {line}")
    if skipped:
        say(f"{len(skipped)} skipped, each named above")


@contextlib.contextmanager
def training_bar(*, quiet: bool) -> Iterator[Callable[["TrainingProgress"], None]]:
    """Show a training's progress on stderr: a bar on a terminal, a line an epoch elsewhere."""
    if quiet:
        yield lambda progress: None
    elif not sys.stderr.isatty():
        yield _print_epoch
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        with Progress(*columns, console=ERR) as bar:
            task = bar.add_task("epoch", total=None, text="")

            def draw(progress: "TrainingProgress") -> None:
                done = (progress.epoch - 1) * progress.steps + progress.step
                bar.update(
                    task,
                    description=_name_epoch(progress),
                    completed=done,
                    total=progress.epochs * progress.steps,
                    text=_describe(progress),
                )

            yield draw


def _describe(progress: "TrainingProgress") -> str:
    accuracy = progress.validation_accuracy
    shown = "  -   " if accuracy is None else f"{accuracy:.2%}"
    minutes, seconds = divmod(round(progress.left_s), 60)
    return (
        f"loss {progress.loss:.3f}  validation {shown}  "
        f"{progress.images_per_s:,.0f} images/s  {minutes}:{seconds:02d} left"
    )


def _print_epoch(progress: "TrainingProgress") -> None:
    if progress.step == progress.steps:
        say(f"{_name_epoch(progress)}  {_describe(progress)}")


def _name_epoch(progress: "TrainingProgress") -> str:
    fold = f"fold {progress.fold}/{progress.folds}  " if progress.folds else ""
    return f"{fold}epoch {progress.epoch}/{progress.epochs}"


def print_training(result: "RunResult | FoldsResult", *, carried: str = "") -> None:
    """Print what one training or all folds measured, and what to type next.

    Args:
        result: Of the training.
        carried: Options that the next command needs too.
    """
    from edge_mnist.training.cross_validation import FoldsResult

    if isinstance(result, FoldsResult):
        print_folds(result)
        trained = Path(result.folder) / "fold-1"
    else:
        print_run(result)
        trained = Path(result.folder or "")
    say(f"next: edge-mnist export {shell_path(trained)} --quantize{carried}")


def print_folds(result: "FoldsResult") -> None:
    """Print a line for each fold, their mean and standard deviation."""
    table = Table("fold", box=None, pad_edge=False)
    for column in ("validation", "test", "seconds"):
        table.add_column(column, justify="right")
    for one in result.folds:
        accuracies = (f"{one.validation_accuracy:.2%}", f"{one.test_accuracy:.2%}")
        table.add_row(str(one.recipe.fold), *accuracies, f"{one.train_s:.0f}")
    table.add_row("mean", f"{result.validation_mean:.2%}", f"{result.test_mean:.2%}")
    table.add_row("std", f"{result.validation_std:.2%}", f"{result.test_std:.2%}")
    print_line(f"{result.folder}: recipe {result.recipe.name}, {len(result.folds)} folds")
    print_table(table)


def print_run(result: "RunResult") -> None:
    """Print what a training measured."""
    threads = f"{result.threads} thread" + "s" * (result.threads != 1)
    rejected = f", {result.test_rejected:.2%} rejected" if result.test_rejected else ""
    print_line(
        f"{result.folder}: {result.test_accuracy:.2%} of {result.n_test_images:,} test images"
        f"{rejected} (validation {result.validation_accuracy:.2%}), {result.n_weights:,} weights, "
        f"{result.train_s:.0f} s on {result.device}, {threads}"
    )


def print_validation(report: "ValidationReport") -> None:
    """Print every check of a validation, the missed ones in red."""
    for model in report.models:
        print_model_report(model)
    if report.passed:
        print_line("passed", "bold green")
    else:
        print_line("FAILED", "bold red")


def print_model_report(model: "ModelReport") -> None:
    """Print what was found out about one model file."""
    providers = ", ".join(model.providers)
    print_line(f"{model.path}  {model.size_bytes:,} bytes, on {providers}", "bold")
    print_line(f"  against {model.reference}")
    if model.data_note:
        print_line(f"  note: {model.data_note}", "yellow")
    table = Table("", "check", "measured", "limit", box=None, pad_edge=False)
    for check in model.checks:
        mark, style = ("ok", None) if check.passed else ("MISSED", "bold red")
        cells = (f"  {mark}", check.name, f"{check.measured:.3g}", f"{check.limit:.3g}")
        table.add_row(*cells, style=style)
    print_table(table)
    if model.accuracy:
        by_class = "  ".join(
            f"{name} {value:.1%}" for name, value in model.accuracy.by_class.items()
        )
        print_line(
            f"  accuracy {model.accuracy.accuracy:.2%} of {model.accuracy.n_images:,} "
            f"test images: {by_class}"
        )
        print_line(
            f"  expected calibration error {model.accuracy.calibration_error:.4f}, "
            f"{model.accuracy.rejected:.2%} rejected"
        )
    if model.robustness:
        print_table(_robustness_table(model.robustness))
    print_line(f"  p50 for one image {model.latency.p50_us:.1f} us")
    if model.against_float32:
        _print_comparison(model.against_float32)


def _robustness_table(robustness: "Robustness") -> Table:
    table = Table(f"  {robustness.n_images:,} test images, corrupted", box=None, pad_edge=False)
    table.add_column("as images", justify="right")
    table.add_column("as pictures", justify="right")
    pictures = robustness.pictures or {}
    for name, share in robustness.images.items():
        table.add_row(f"  {name}", f"{share:.1%}", f"{pictures.get(name, 0):.1%}")
    means = (robustness.images_mean, robustness.pictures_mean or 0)
    table.add_row("  mean", *(f"{mean:.1%}" for mean in means), style="bold")
    return table


def _print_comparison(comparison: "Float32Comparison") -> None:
    text = f"  against float32: {comparison.size_ratio:.0%} of its bytes, "
    if comparison.accuracy_lost is not None:
        text += f"{comparison.accuracy_lost * 100:.2f} points of accuracy lost, "
        text += f"{comparison.labels_changed} labels changed, "
    print_line(f"{text}p50 {comparison.p50_ratio:.2f} times its own, timed in turns")
    if comparison.slower:
        print_line("  slower than float32 on this machine: prefer model.onnx", "yellow")


def print_benchmark(report: "BenchReport", worse: "Sequence[Regression] | None") -> None:
    """Print a benchmark, what to use here, and what got worse since an earlier one."""
    print_line(f"{report.processor}, {report.threads} thread(s), provider {_providers(report)}")
    print_table(_latency_table(report))
    print_table(_throughput_table(report))
    if report.recommendation:
        print_line(f"use here: {report.recommendation.name}", "bold")
        for reason in report.recommendation.reasons:
            print_line(f"  {reason}")
    for loss in worse or ():
        print_line(
            f"WORSE {loss.name}, {loss.measure}: {loss.now:,.1f}, "
            f"expected {loss.base:,.1f}, {loss.ratio - 1:.0%} worse",
            "bold red",
        )
    if worse is not None and not worse:
        print_line("no regression", "bold green")


def _latency_table(report: "BenchReport") -> Table:
    table = Table("one image, us", box=None, pad_edge=False)
    for column in ("p50", "p90", "p99", "ratio", "bytes", "accuracy"):
        table.add_column(column, justify="right")
    first = report.models[0].latency.p50_us
    for one in report.models:
        latency = one.latency
        table.add_row(
            one.name,
            *(f"{value:.1f}" for value in (latency.p50_us, latency.p90_us, latency.p99_us)),
            f"{latency.p50_us / first:.2f}",
            f"{one.size_bytes:,}",
            "-" if one.accuracy is None else f"{one.accuracy:.2%}",
        )
    return table


def _throughput_table(report: "BenchReport") -> Table:
    sizes = sorted({size for one in report.models for size in one.images_per_s})
    table = Table("images/s at batch", box=None, pad_edge=False)
    for column in (*map(str, sizes), "open ms", "start ms", "MB"):
        table.add_column(column, justify="right")
    for one in report.models:
        rates = (one.images_per_s.get(size) for size in sizes)
        table.add_row(
            one.name,
            *("-" if rate is None else f"{rate:,.0f}" for rate in rates),
            f"{one.session_start_ms:.1f}",
            f"{one.process_start_ms:.0f}",
            f"{one.peak_memory_mb:.0f}",
        )
    return table


def _providers(report: "BenchReport") -> str:
    return ", ".join(sorted({one.provider for one in report.models}))


def print_networks(entries: "Sequence[NetworkEntry]") -> None:
    """Print a table of networks."""
    table = Table("network", box=None, pad_edge=False)
    for column in ("weights", "multiply-adds", "accuracy"):
        table.add_column(column, justify="right")
    table.add_column("by")
    table.add_column("")
    for entry in entries:
        sizes = (f"{entry.n_weights:,}", f"{entry.n_multiply_adds:,}")
        accuracy = "-" if entry.accuracy is None else f"{entry.accuracy:.2%}"
        table.add_row(entry.name, *sizes, accuracy, entry.best_recipe or "", entry.about)
    print_table(table)


def print_recipes(entries: "Sequence[RecipeEntry]") -> None:
    """Print a table of recipes."""
    table = Table("recipe", "network", "data set", box=None, pad_edge=False)
    for column in ("epochs", "weights", "multiply-adds", "accuracy"):
        table.add_column(column, justify="right")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.network,
            entry.dataset,
            str(entry.epochs),
            f"{entry.n_weights:,}",
            f"{entry.n_multiply_adds:,}",
            "-" if entry.accuracy is None else f"{entry.accuracy:.2%}",
        )
    print_table(table)


def print_quickstart(result: "QuickstartResult") -> None:
    """Print all that a quickstart made."""
    print_run(result.run)
    print("\n".join(map(escape, result.export.to_text().splitlines())))
    print_validation(result.validation)
    print_line(
        f"{result.picture_path} reads {result.prediction.name} ({result.prediction.confidence:.1%})"
    )
    print_line(f"predicted test digits, wrong ones framed: {result.grid_path}")
