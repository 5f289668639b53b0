"""The command ``predict``: one answer for each picture, in order.

Prints plain text: importing rich would take longer than predicting.
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from edge_mnist.cli.app import MODEL_HELP, Json, Provider, app, find_command_model, print_json
from edge_mnist.cli.streams import escape
from edge_mnist.errors import UsageError
from edge_mnist.machine import require_package

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_mnist.predictor import Prediction, Predictor
    from edge_mnist.ray.job import JobReport

STDIN = "-"
SCHEMA_VERSION = 1
SHADES = " .:-=+*#%@"  # for terminals, from no ink to full ink
PROGRESS_STEP = 200  # pictures between two updates of the count, on a terminal
CSV_COLUMNS = ("path", "status", "digit", "name", "confidence", "reason", "error")
LISTING_BYTES = 65_536  # of a list of pictures, read at once
MAX_STEM = 60  # characters of a picture's name in that of its saved model input

Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="ray: many pictures, on all cores or a Ray cluster."),
]
FromFile = Annotated[
    typer.FileBinaryRead | None,
    typer.Option("--from-file", help="File that lists pictures, one a line; - for stdin."),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for ray's answers, Parquet files.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to use. [default: ray starts on this machine]")
]


@dataclass(frozen=True)
class Style:
    """How answers are printed.

    Attributes:
        kind: ``table``, ``json``, ``jsonl`` or ``csv``.
        top_k: List so many classes with the largest probabilities; None for the answer alone.
        show: Draw the model's input with characters.
        save_seen: Folder for the model's inputs, as PNG files; None for none.
    """

    kind: str = "table"
    top_k: int | None = None
    show: bool = False
    save_seen: Path | None = None


@app.command()
def predict(
    pictures: Annotated[
        list[str] | None, typer.Argument(help="Pictures, folders with -r, - for stdin.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Read the pictures in folders.")
    ] = False,
    provider: Provider = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads for one image. [env: EDGE_MNIST_THREADS]")
    ] = None,
    accept_all: Annotated[
        bool, typer.Option("--accept-all", help="Answer whatever the picture shows.")
    ] = False,
    top_k: Annotated[int | None, typer.Option(min=1, help="List the K likeliest classes.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Draw the model's input.")] = False,
    save_seen: Annotated[
        Path | None, typer.Option(help="Folder for the model's inputs, as PNG files.")
    ] = None,
    as_json: Json = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print one JSON object a line on stdout.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    from_file: FromFile = None,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="--from-file is separated by null characters.")
    ] = False,
    engine: Engine = "local",
    output: Output = None,
    address: Address = None,
) -> None:
    """Read the digit in each picture; exit 1 if some were rejected or could not be read."""
    from edge_mnist.files import make_folder
    from edge_mnist.predictor import Predictor

    kinds = {"json": as_json, "jsonl": as_jsonl, "csv": as_csv}
    style = Style(_choose_kind(kinds), top_k, show, save_seen)
    _refuse_without_effect(style)
    named = _list_named(pictures or [], from_file, is_null_separated=null)
    only_local: dict[str, Any] = {"--jsonl": as_jsonl, "--csv": as_csv, "--top-k": top_k}
    only_local |= {"--show": show, "--save-seen": save_seen}
    if _is_ray(engine, only_local, {"--output": output, "--address": address}):
        settings = {"provider": provider, "threads": threads, "accept_all": accept_all}
        report = _predict_on_ray([*named], output or Path(), model, settings, address=address)
        _print_job(report, as_json=as_json)
        raise typer.Exit(0 if report.all_ok else 1)
    predictor = Predictor(find_command_model(model), provider, threads, accept_all=accept_all)
    if save_seen:
        make_folder(save_seen)
    answers = predict_paths(predictor, named, recursive=recursive, stdin=sys.stdin.buffer)
    all_ok = print_answers(predictor, answers, style)
    raise typer.Exit(0 if all_ok else 1)


def _choose_kind(kinds: Mapping[str, bool]) -> str:
    given = [kind for kind, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} exclude each other")
    return given[0] if given else "table"


def _refuse_without_effect(style: Style) -> None:
    """Refuse options that the style of printing cannot honour."""
    if style.show and style.kind != "table":
        raise UsageError(f"--show has no effect with --{style.kind}")
    if style.top_k and style.kind == "csv":
        raise UsageError("--top-k has no effect with --csv")


def _list_named(
    pictures: Sequence[str], listing: BinaryIO | None, *, is_null_separated: bool
) -> Iterator[str]:
    """Return the paths of the command line, then those of ``--from-file``, lazily."""
    if is_null_separated and not listing:
        raise UsageError("--null has no effect without --from-file")
    if not pictures and not listing:
        raise UsageError("no pictures; name some, or a list of them with --from-file")
    if STDIN in pictures and listing and listing.fileno() == 0:
        raise UsageError("standard input cannot be both a picture and --from-file")
    listed = read_listing(listing, b"\0" if is_null_separated else b"\n") if listing else ()
    return itertools.chain(pictures, listed)


def read_listing(file: BinaryIO, separator: bytes) -> Iterator[str]:
    """Yield the paths that a file lists, each as soon as it has been read.

    Args:
        file: Open binary file.
        separator: One byte. An empty path between two of them is left out.
    """
    rest = b""
    while chunk := file.readline() if separator == b"\n" else os.read(file.fileno(), LISTING_BYTES):
        *whole, rest = (rest + chunk).split(separator)
        yield from filter(None, (_decode_listed(name, separator) for name in whole))
    yield from filter(None, [_decode_listed(rest, separator)])


def _decode_listed(name: bytes, separator: bytes) -> str:
    # Lists written on Windows end their lines in "\r\n"; between null characters "\r" is a name's.
    path = os.fsdecode(name.removesuffix(b"\r") if separator == b"\n" else name)
    return os.path.join(os.curdir, path) if path == STDIN else path  # a file of that name


def predict_paths(
    predictor: "Predictor",
    paths: Iterable[str],
    *,
    recursive: bool = False,
    stdin: BinaryIO | None = None,
) -> "Iterator[tuple[str, Prediction]]":
    """Read the digit in each picture, lazily; yield its path and the prediction.

    Args:
        predictor: An open model.
        paths: Files, folders, or ``-`` for ``stdin``.
        recursive: Read the pictures in folders, and in folders within.
        stdin: Open binary file that holds the picture ``-``.
    """
    from edge_mnist.predictor import Prediction

    found = expand_paths(paths, recursive=recursive)
    for is_picture, group in itertools.groupby(found, key=lambda pair: pair[1] is None):
        if is_picture:
            listed, sources = itertools.tee(path for path, _ in group)
            pictures = (stdin if path == STDIN and stdin else path for path in sources)
            for prediction in predictor.predict_many(pictures):
                yield next(listed), prediction
        else:
            for path, error in group:
                yield path, Prediction.from_error(error or "", predictor.provider)


def expand_paths(
    paths: Iterable[str], *, recursive: bool = False
) -> Iterator[tuple[str, str | None]]:
    """Yield every picture's path with None, and a path that stands for none with the reason."""
    from edge_mnist.picture.decode import find_pictures

    for path in paths:
        # Unlike Path.is_dir, no error where a name is too long or its folder forbidden: reading the
        # picture gives that error, and the other pictures are read.
        if path == STDIN or not os.path.isdir(path):
            yield path, None
        elif not recursive:
            yield path, "is a folder; add -r to read the pictures in it"
        else:
            found = find_pictures(path)
            first = next(found, None)
            yield first or (path, "no pictures in this folder")
            yield from found


def print_answers(
    predictor: "Predictor", answers: "Iterable[tuple[str, Prediction]]", style: Style
) -> bool:
    """Print answers as they come, and once which model and provider ran.

    Returns:
        Whether every picture has status ``ok``.
    """
    watched = _watch(answers, style)
    about, names = predictor.describe(), predictor.info.class_names
    if style.kind == "json":
        items = [
            {"path": path, **prediction.to_dict(names, top_k=style.top_k)}
            for path, prediction in watched
        ]
        print_json({"schema_version": SCHEMA_VERSION, **about, "items": items})
        return all(item["status"] == "ok" for item in items)
    line = f"model {about['model']} ({about['model_sha256'][:12]}), on {about['provider']}"
    print(escape(line), file=sys.stderr)
    if style.kind == "csv":
        _start_csv()
    n_bad = 0
    for path, prediction in watched:
        _print_answer(path, prediction, names, style)
        sys.stdout.flush()  # who reads it through a pipe need not wait for the next picture
        n_bad += prediction.status != "ok"
    return n_bad == 0


def draw_image(image: "NDArray[np.uint8]") -> str:
    """Draw an image of shape (28, 28) with characters, two for a pixel."""
    levels = image.astype(int) * len(SHADES) // 256
    return "\n".join("".join(SHADES[level] * 2 for level in row).rstrip() for row in levels)


def _print_answer(
    path: str, prediction: "Prediction", names: tuple[str, ...], style: Style
) -> None:
    if style.kind == "jsonl":
        item = prediction.to_dict(names, top_k=style.top_k)
        print_json({"schema_version": SCHEMA_VERSION, "path": path, **item}, indent=None)
    elif style.kind == "csv":
        _print_csv(path, prediction)
    elif not prediction.error:
        print(escape(_format_answer(path, prediction, names, style)))
        if style.show and prediction.image is not None:
            print(draw_image(prediction.image))
    if prediction.error:
        print(f"edge-mnist: {escape(f'{path}: {prediction.error}')}", file=sys.stderr)


def _format_answer(
    path: str, prediction: "Prediction", names: tuple[str, ...], style: Style
) -> str:
    """Return an answer's line in the table."""
    line = f"{prediction.name or '-'}  {prediction.confidence or 0:7.2%}  {path}"
    if prediction.reason:
        line += f"  rejected: {prediction.reason}"
    if style.top_k:
        top = prediction.list_top(names, style.top_k)
        line += "  " + ", ".join(f"{one['name']} {one['probability']:.2%}" for one in top)
    return line


def _start_csv() -> None:
    """Print the header. The lines end as RFC 4180 says, on every system."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(newline="")
    csv.writer(sys.stdout).writerow(CSV_COLUMNS)


def _print_csv(path: str, prediction: "Prediction") -> None:
    cells = [path, *(getattr(prediction, name) for name in CSV_COLUMNS[1:])]
    if sys.stdout.isatty():
        cells = [escape(cell) if isinstance(cell, str) else cell for cell in cells]
    csv.writer(sys.stdout).writerow(cells)


def _watch(
    answers: "Iterable[tuple[str, Prediction]]", style: Style
) -> "Iterator[tuple[str, Prediction]]":
    """Pass answers on; save the model's inputs, and count on a terminal how many are done."""
    shows_count = sys.stderr.isatty() and not (sys.stdout.isatty() and style.kind != "json")
    n_done = 0
    for n_done, (path, prediction) in enumerate(answers, start=1):
        if style.save_seen and prediction.image is not None:
            _save_image(style.save_seen, n_done, path, prediction.image)
        if shows_count and n_done % PROGRESS_STEP == 0:
            print(f"\r{n_done:,} pictures", end="", file=sys.stderr, flush=True)
        yield path, prediction
    if shows_count and n_done >= PROGRESS_STEP:
        print(f"\r{n_done:,} pictures", file=sys.stderr)


def _save_image(folder: Path, number: int, path: str, image: "NDArray[np.uint8]") -> None:
    """Save a model input; the number keeps pictures of the same name apart."""
    from PIL import Image

    from edge_mnist.files import write_png

    target = folder / f"{number:05d}-{Path(path).stem[:MAX_STEM] or 'stdin'}.png"
    write_png(target, Image.fromarray(image))


def _is_ray(engine: str, only_local: Mapping[str, Any], only_ray: Mapping[str, Any]) -> bool:
    """Return whether Ray is to predict; refuse options that have no effect then."""
    foreign = only_local if engine == "ray" else only_ray
    given = [option for option, value in foreign.items() if value]
    if given:
        raise UsageError(f"{given[0]} has no effect with --engine {engine}")
    if engine == "ray" and not only_ray["--output"]:
        raise UsageError("--engine ray needs --output, the folder for its Parquet files")
    return engine == "ray"


def _predict_on_ray(
    pictures: Sequence[str],
    output: Path,
    model: str | None,
    settings: Mapping[str, Any],
    *,
    address: str | None,
) -> "JobReport":
    require_package("ray", "ray")
    require_package("pyarrow", "ray")
    from edge_mnist.ray.job import run_job

    path = find_command_model(model)
    with _drop_native_stderr():
        return run_job(pictures, output, path, **settings, address=address, report=_print_progress)


@contextlib.contextmanager
def _drop_native_stderr() -> Iterator[None]:
    """Keep the log of Ray's compiled code off the terminal: its errors are raised as well.

    What Python prints goes to stderr, also from Ray, which reports lost workers on stdout.
    """
    native = os.dup(2)
    with open(os.devnull, "wb") as null, open(native, "w", buffering=1) as stderr:
        os.dup2(null.fileno(), 2)
        try:
            with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stderr):
                yield
        finally:
            os.dup2(native, 2)


def _print_progress(n_done: int, n_pictures: int) -> None:
    """Show on a terminal how many pictures of a job are done."""
    if sys.stderr.isatty():
        end = "\n" if n_done == n_pictures else ""
        print(f"\r{n_done:,} of {n_pictures:,} pictures", end=end, file=sys.stderr, flush=True)


def _print_job(report: "JobReport", *, as_json: bool) -> None:
    """Print what the output folder of a job holds."""
    for line in report.left_out:
        print(f"edge-mnist: {escape(line)}", file=sys.stderr)
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print(escape(f"model {report.model} ({report.model_sha256[:12]})"), file=sys.stderr)
    counts = ", ".join(f"{n:,} {status}" for status, n in report.statuses.items())
    print(escape(f"{report.folder}: {report.n_pictures:,} pictures: {counts}"))
    line = f"{report.n_new:,} predicted by this run, in {report.job_s:.1f} s"
    if report.pictures_per_s:
        line += (
            f": {report.startup_s:.1f} s to start, {report.pictures_per_s:,.0f} pictures/s, "
            f"{report.shutdown_s:.1f} s to stop"
        )
    print(line, file=sys.stderr)
