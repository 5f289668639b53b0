"""What ``predict`` prints; plain text, because importing rich would cost more than predicting."""

import json
import sys
from collections.abc import Iterable

from edge_mnist.items import Item
from edge_mnist.predictor import Predictor

SCHEMA_VERSION = 1


def print_items(predictor: Predictor, items: Iterable[Item], style: str) -> bool:
    """Print items as ``table``, ``json`` or ``jsonl``, and which model and provider ran.

    Returns:
        Whether every item is ok.
    """
    about = {
        "model": str(predictor.model.path),
        "model_sha256": predictor.model.sha256,
        "provider": predictor.provider,
    }
    if style == "json":
        done = list(items)
        report = {"schema_version": SCHEMA_VERSION, **about, "items": [i.to_dict() for i in done]}
        print(json.dumps(report, indent=2))
        return all(item.status == "ok" for item in done)
    print(
        f"model {about['model']} ({about['model_sha256'][:12]}), on {about['provider']}",
        file=sys.stderr,
    )
    n_bad = sum(not _print_line(item, style) for item in items)
    return n_bad == 0


def _print_line(item: Item, style: str) -> bool:
    if style == "jsonl":
        print(json.dumps(item.to_dict()), flush=True)
    elif item.status == "ok":
        print(f"{item.name}  {item.confidence:7.2%}  {item.path}")
    if item.error:
        print(f"edge-mnist: {item.path}: {item.error}", file=sys.stderr)
    return item.status == "ok"
