"""What ``predict`` prints; plain text, because importing rich would cost more than predicting."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist.atomic import make_folder, output_errors
from edge_mnist.items import Item, list_top
from edge_mnist.predictor import Predictor

if TYPE_CHECKING:
    from edge_mnist.cluster.job import JobReport

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


def print_items(predictor: Predictor, items: Iterable[Item], style: Style) -> bool:
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


def draw_image(image: NDArray[np.uint8]) -> str:
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


def _save_seen(folder: Path, number: int, path: str, image: NDArray[np.uint8]) -> None:
    """Save what the model saw; the number keeps pictures of the same name apart."""
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
