"""The answers of a job: a folder with one Parquet file for each part."""

import io
import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edge_mnist.files import write_atomically
from edge_mnist.predictor import Prediction
from edge_mnist.ray.plan import Part

FOOTER_KEY = b"edge-mnist"
SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        ("digit", pa.int16()),
        ("name", pa.string()),
        ("confidence", pa.float32()),
        ("reason", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Footer:
    """What a part's file says of itself.

    Attributes:
        statuses: How many pictures are ok, rejected, or cannot be read.
        model_sha256: Which model answered.
        provider: On what it ran.
        worker: Host and process that wrote it.
    """

    statuses: dict[str, int]
    model_sha256: str
    provider: str
    worker: str


def make_answer(path: str, prediction: Prediction) -> dict[str, Any]:
    """Return a row of the answers; of a name that is no text, the odd bytes are escaped."""
    known = {name: getattr(prediction, name) for name in SCHEMA.names if name != "path"}
    if prediction.status == "error":
        known["error"] = _to_text(prediction.error or "")
    return {"path": _to_text(path)} | known


def _to_text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def write_part(
    folder: Path,
    part: Part,
    answers: Sequence[dict[str, Any]],
    *,
    model_sha256: str,
    provider: str,
) -> None:
    """Write a part's answers in one step, replacing what is there.

    Raises:
        OutputError: They cannot be written.
    """
    statuses = dict(Counter(answer["status"] for answer in answers))
    worker = f"{platform.node()}:{os.getpid()}"
    footer = {
        "statuses": statuses,
        "model_sha256": model_sha256,
        "provider": provider,
        "worker": worker,
    }
    schema = SCHEMA.with_metadata({FOOTER_KEY: json.dumps(footer).encode()})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(answers), schema=schema), buffer)
    write_atomically(folder / part.name, buffer.getvalue())


def read_footer(folder: Path, part: Part) -> Footer | None:
    """Return what a part's file says of itself; None where it is missing, damaged or not whole."""
    try:
        metadata = pq.read_metadata(folder / part.name)
        footer = Footer(**json.loads(metadata.metadata[FOOTER_KEY]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return footer if metadata.num_rows == part.n_pictures else None
