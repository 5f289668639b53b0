"""The command ``predict``: from paths to answers, one item for each picture, in order.

Prints plain text: importing rich would take longer than predicting.
"""

import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from edge_mnist.cli.app import MODEL_HELP, Json, Provider, app, need
from edge_mnist.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_mnist.predictor import Prediction, Predictor
    from edge_mnist.ray.job import JobReport

STDIN = "-"


@dataclass(frozen=True)
class Item:
    """The answer to one path.

    Attributes:
        path: As the user gave it, or found in a folder that the user gave.
        prediction: What was seen there; None if the path stands for no picture.
        error: Why there is no prediction, or why the picture cannot be read; else None.
    """

    path: str
    prediction: "Prediction | None"
    error: str | None

    @property
    def status(self) -> str:
        """``ok``, ``rejected`` or ``error``."""
        return self.prediction.status if self.prediction else "error"

    def to_dict(self, class_names: tuple[str, ...], top_k: int | None = None) -> dict[str, Any]:
        """Return what is known, for JSON.

        Args:
            class_names: What each class is called.
            top_k: Add this many likeliest classes, in order, as ``top``.
        """
        known: dict[str, Any] = {"path": self.path, "status": self.status}
        if self.error:
            return known | {"error": self.error}
        seen = self.prediction
        assert seen is not None
        if seen.reason:
            known["reason"] = seen.reason
        else:
            known |= {"digit": seen.digit, "name": seen.name}
        known |= {"confidence": seen.confidence, "probabilities": seen.probabilities}
        if top_k:
            known["top"] = list_top(seen, class_names, top_k)
        return known


def list_top(
    prediction: "Prediction", class_names: tuple[str, ...], k: int
) -> list[dict[str, Any]]:
    """List the k likeliest classes with their probabilities, the likeliest first."""
    ranked = sorted(enumerate(prediction.probabilities or ()), key=lambda pair: -pair[1])
    return [
        {"digit": label, "name": class_names[label], "probability": probability}
        for label, probability in ranked[:k]
    ]


def predict_paths(
    predictor: "Predictor",
    paths: Iterable[str],
    *,
    recursive: bool = False,
    stdin: BinaryIO | None = None,
) -> Iterator[Item]:
    """Read the digit in each picture, lazily; a bad one becomes an item with an error.

    Args:
        predictor: An open model.
        paths: Files, folders, or ``-`` for ``stdin``.
        recursive: Read the pictures in folders, and in folders within.
        stdin: Open binary file that holds the picture ``-``.
    """
    found = expand_paths(paths, recursive=recursive)
    for is_picture, group in itertools.groupby(found, key=lambda pair: pair[1] is None):
        if is_picture:
            listed, sources = itertools.tee(path for path, _ in group)
            read = (stdin if path == STDIN and stdin else path for path in sources)
            predictions = predictor.predict_many(read)
            for prediction in predictions:
                yield Item(next(listed), prediction, prediction.error)
        else:
            yield from (Item(path, None, error) for path, error in group)


def expand_paths(
    paths: Iterable[str], *, recursive: bool = False
) -> Iterator[tuple[str, str | None]]:
    """Yield every picture's path, and for a path that stands for none the reason."""
    from edge_mnist.picture.decode import find_pictures

    for path in paths:
        if path == STDIN or not Path(path).is_dir():
            yield path, None
        elif not recursive:
            yield path, "is a folder; add -r to read the pictures in it"
        else:
            pictures = find_pictures(path)
            first = next(pictures, None)
            if first is None:
                yield path, "no pictures in this folder"
            else:
                yield from ((one, None) for one in itertools.chain([first], pictures))


SCHEMA_VERSION = 1
SHADES = " .:-=+*#%@"  # for terminals, from no ink to full ink
PROGRESS_ITEMS = 200  # print the count every so many items, on a terminal


@dataclass(frozen=True)
class Style:
    """How to print items.

    Attributes:
        kind: ``table``, ``json`` or ``jsonl``.
        top_k: List this many likeliest classes; None for the likeliest alone.
        show: Draw what the model saw.
        save_seen: Folder for what the model saw, as PNG files; None for none.
    """

    kind: str = "table"
    top_k: int | None = None
    show: bool = False
    save_seen: Path | None = None


def print_items(predictor: "Predictor", items: Iterable[Item], style: Style) -> bool:
    """Print items as they come, and once which model and provider ran.

    Returns:
        Whether every item is ok.
    """
    watched = _watch(items, style)
    about = {
        "model": str(predictor.model.path),
        "model_sha256": predictor.model.sha256,
        "provider": predictor.provider,
    }
    names = predictor.info.class_names
    if style.kind == "json":
        done = list(watched)
        listed = [item.to_dict(names, style.top_k) for item in done]
        report = {"schema_version": SCHEMA_VERSION, **about, "items": listed}
        print(json.dumps(report, indent=2))
        return all(item.status == "ok" for item in done)
    sha256 = about["model_sha256"][:12]
    print(f"model {about['model']} ({sha256}), on {about['provider']}", file=sys.stderr)
    n_bad = sum(not _print_item(item, names, style) for item in watched)
    return n_bad == 0


def _print_item(item: Item, names: tuple[str, ...], style: Style) -> bool:
    if style.kind == "jsonl":
        print(json.dumps(item.to_dict(names, style.top_k)))
    elif item.prediction and not item.error:
        print(_describe(item, names, style))
    if item.error:
        print(f"edge-mnist: {item.path}: {item.error}", file=sys.stderr)
    return item.status == "ok"


def _describe(item: Item, names: tuple[str, ...], style: Style) -> str:
    """Return an item's lines in the table."""
    seen = item.prediction
    assert seen is not None
    line = f"{seen.name or '-'}  {seen.confidence or 0:7.2%}  {item.path}"
    if seen.reason:
        line += f"  rejected: {seen.reason}"
    if style.top_k:
        top = list_top(seen, names, style.top_k)
        line += "  " + ", ".join(f"{one['name']} {one['probability']:.2%}" for one in top)
    if style.show and seen.image is not None:
        line += "\n" + draw_image(seen.image)
    return line


def draw_image(image: "NDArray[np.uint8]") -> str:
    """Draw an image of shape (28, 28) with characters, two for a pixel."""
    levels = image.astype(int) * len(SHADES) // 256
    return "\n".join("".join(SHADES[level] * 2 for level in row).rstrip() for row in levels)


def _watch(items: Iterable[Item], style: Style) -> Iterator[Item]:
    """Pass items on; save what the model saw, and show how many are done."""
    counts = sys.stderr.isatty() and not (sys.stdout.isatty() and style.kind != "json")
    n_done = 0
    for n_done, item in enumerate(items, start=1):
        if style.save_seen and item.prediction and item.prediction.image is not None:
            _save_seen(style.save_seen, n_done, item.path, item.prediction.image)
        if counts and n_done % PROGRESS_ITEMS == 0:
            print(f"\r{n_done:,} pictures", end="", file=sys.stderr, flush=True)
        yield item
    if counts and n_done >= PROGRESS_ITEMS:
        print(f"\r{n_done:,} pictures", file=sys.stderr)


def _save_seen(folder: Path, number: int, path: str, image: "NDArray[np.uint8]") -> None:
    """Save what the model saw; the number keeps pictures of the same name apart."""
    from PIL import Image

    from edge_mnist.files import make_folder, output_errors

    make_folder(folder)
    target = folder / f"{number:05d}-{Path(path).stem or 'stdin'}.png"
    with output_errors(target):
        Image.fromarray(image).save(target)


def print_progress(n_done: int, n_pictures: int) -> None:
    """Show on a terminal how many pictures of a job are done."""
    if sys.stderr.isatty():
        end = "\n" if n_done == n_pictures else ""
        print(f"\r{n_done:,} of {n_pictures:,} pictures", end=end, file=sys.stderr, flush=True)


def print_job(report: "JobReport", *, as_json: bool) -> None:
    """Print what a job's folder holds."""
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
        return
    print(f"model {report.model} ({report.model_sha256[:12]})", file=sys.stderr)
    counts = ", ".join(f"{n:,} {status}" for status, n in report.statuses.items())
    print(f"{report.folder}: {report.n_pictures:,} pictures: {counts}")
    print(f"{report.n_new:,} answered by this start, in {report.job_s:.1f} s", file=sys.stderr)


Engine = Annotated[
    str, typer.Option(help="local, or ray: many pictures, on all cores or a Ray cluster.")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for ray's answers, Parquet files.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to use. [default: ray starts on this machine]")
]


@app.command()
def predict(
    pictures: Annotated[list[str], typer.Argument(help="Pictures, folders with -r, - for stdin.")],
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
    show: Annotated[bool, typer.Option("--show", help="Draw what the model saw.")] = False,
    save_seen: Annotated[
        Path | None, typer.Option(help="Folder for what the model saw, as PNG files.")
    ] = None,
    as_json: Json = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="Print one JSON object a line on stdout.")
    ] = False,
    engine: Engine = "local",
    output: Output = None,
    address: Address = None,
) -> None:
    """Read the digit in each picture; exit 1 if some were rejected or could not be read."""
    from edge_mnist.predictor import Predictor

    if as_json and as_jsonl:
        raise UsageError("--json and --jsonl exclude each other")
    only_local = {"--jsonl": as_jsonl, "--top-k": top_k, "--show": show, "--save-seen": save_seen}
    if _is_ray(engine, only_local, {"--output": output, "--address": address}):
        settings = {"provider": provider, "threads": threads, "accept_all": accept_all}
        report = _predict_on_ray(pictures, output or Path(), model, settings, address=address)
        print_job(report, as_json=as_json)
        raise typer.Exit(0 if report.all_ok else 1)
    predictor = Predictor(model, provider, threads, accept_all=accept_all)
    stdin = sys.stdin.buffer if sys.stdin else None
    items = predict_paths(predictor, pictures, recursive=recursive, stdin=stdin)
    kind = "json" if as_json else "jsonl" if as_jsonl else "table"
    all_ok = print_items(predictor, items, Style(kind, top_k, show, save_seen))
    raise typer.Exit(0 if all_ok else 1)


def _is_ray(engine: str, only_local: Mapping[str, Any], only_ray: Mapping[str, Any]) -> bool:
    """Tell whether Ray is to work, and refuse options that have no meaning then."""
    if engine not in ("local", "ray"):
        raise UsageError(f"no engine named {engine!r}; there are: local, ray")
    foreign = only_local if engine == "ray" else only_ray
    given = [option for option, value in foreign.items() if value]
    if given:
        raise UsageError(f"{given[0]} has no meaning with --engine {engine}")
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
    need("ray", "edge-mnist[ray]")
    need("pyarrow", "edge-mnist[ray]")
    from edge_mnist.model_file import find_model, read_model
    from edge_mnist.ray.job import run_job
    from edge_mnist.ray.worker import Settings

    file, how = read_model(find_model(model)), Settings(**settings)
    with contextlib.redirect_stdout(sys.stderr):  # Ray tells of lost workers on stdout
        return run_job(pictures, output, file, how, address=address, report=print_progress)
