"""What runs in each worker process: read, predict and write one part after another.

One call does all three. Through Ray Data's readers and writers the bytes of every picture would
pass its object store, and the rows of a part could reach different files.
"""

import functools
import io
import itertools
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edge_mnist.errors import ClusterError, EdgeMnistError, UsageError
from edge_mnist.files import output_errors, write_atomically
from edge_mnist.model_file import FLOAT32_NAME, read_model
from edge_mnist.picture.decode import Picture
from edge_mnist.predictor import Prediction, Predictor
from edge_mnist.ray.plan import COLUMNS, JOB_FOLDER, Part, Rows
from edge_mnist.session import PROVIDERS

# Ray restarts a lost worker, and repeats its call, without end. A picture that itself ends its
# worker must not have that.
MAX_TRIES = 4
MODEL_NAME = FLOAT32_NAME  # in JOB_FOLDER, whatever the file was called before
ROWS_AT_ONCE = 64  # of a Parquet file of pictures
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
class Settings:
    """How the workers of a job predict; see ``run_job``."""

    provider: str | None = None
    threads: int | None = None
    accept_all: bool = False

    @property
    def device(self) -> str:
        """``cuda`` or ``cpu``; ``auto`` and None are ``cpu``, since a GPU has to be reserved.

        Raises:
            UsageError: There is no such provider.
        """
        if self.provider not in (None, "auto", *PROVIDERS):
            raise UsageError(f"no provider named {self.provider!r}; there are: auto, cpu, cuda")
        return "cuda" if self.provider == "cuda" else "cpu"


@dataclass(frozen=True)
class Footer:
    """What the metadata of a part's file says.

    Attributes:
        statuses: The number of pictures by status.
        model_sha256: Hash of the model file.
        provider: The provider that really ran.
        worker: Host and process that wrote the file, ``HOST:PID``.
    """

    statuses: dict[str, int]
    model_sha256: str
    provider: str
    worker: str


class Worker:
    """Predicts parts and writes them; Ray Data makes one in each worker process and calls it."""

    def __init__(self, folder: str, settings: Settings) -> None:
        """Keep the arguments; the model is opened by the first call, which can report errors.

        Args:
            folder: The job's output, absolute, the same on every machine.
            settings: How to predict.
        """
        self._folder = Path(folder)
        self._settings = settings

    @functools.cached_property
    def _predictor(self) -> Predictor:
        model = read_model(self._folder / JOB_FOLDER / MODEL_NAME)
        settings = self._settings
        return Predictor(model, settings.device, settings.threads, accept_all=settings.accept_all)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Predict and write parts.

        Args:
            batch: ``part``: parts as JSON.

        Returns:
            For each part ``n_pictures``; ``part_s``, its seconds without the opening of the model;
            ``error`` and ``message``, the class and text of an error of this package, or empty.
        """
        rows = [self._run(Part.from_json(text)) for text in batch["part"]]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def _run(self, part: Part) -> dict[str, Any]:
        error, message, start = "", "", time.perf_counter()
        try:
            if count_try(self._folder, part) <= MAX_TRIES:
                predictor = self._predictor
                start = time.perf_counter()
                self._predict(part, predictor)
                forget_tries(self._folder, part)
        except (EdgeMnistError, OSError, pa.ArrowException) as caught:
            is_ours = isinstance(caught, EdgeMnistError)
            error = (type(caught) if is_ours else ClusterError).__name__
            message = f"{part.name}: {caught}"
        part_s = time.perf_counter() - start
        n = part.n_pictures
        return {"n_pictures": n, "part_s": part_s, "error": error, "message": message}

    def _predict(self, part: Part, predictor: Predictor) -> None:
        listed, sources = itertools.tee(_open_part(part))
        predictions = predictor.predict_many(picture for _, picture in sources)
        rows = [make_row(next(listed)[0], prediction) for prediction in predictions]
        sha256, provider = predictor.model.sha256, predictor.provider
        write_part(self._folder, part, rows, model_sha256=sha256, provider=provider)


def _open_part(part: Part) -> Iterator[tuple[str, Picture]]:
    """Yield name and picture of each."""
    return read_rows(part.rows) if part.rows else ((path, path) for path in part.paths)


def read_rows(rows: Rows) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of pictures in a Parquet file; a null is an empty one."""
    end = 0
    with pq.ParquetFile(rows.file) as file:
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[rows.group], columns=[*COLUMNS]):
            begin, end = end, end + batch.num_rows
            if end <= rows.start or begin >= rows.stop:
                continue
            piece = batch.slice(max(rows.start - begin, 0), rows.stop - max(begin, rows.start))
            for path, data in zip(*(piece[column].to_pylist() for column in COLUMNS), strict=True):
                yield path or "", data or b""


def make_row(path: str, prediction: Prediction) -> dict[str, Any]:
    """Return a row of the output; bytes of a name that are not UTF-8 are escaped."""
    known = {name: getattr(prediction, name) for name in SCHEMA.names if name != "path"}
    if prediction.error:
        known["error"] = _escape(prediction.error)
    return {"path": _escape(path)} | known


def _escape(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def write_part(
    folder: Path,
    part: Part,
    rows: Sequence[dict[str, Any]],
    *,
    model_sha256: str,
    provider: str,
) -> None:
    """Write the file of a part in one step, replacing what is there.

    Raises:
        OutputError: It cannot be written.
    """
    statuses = dict(Counter(row["status"] for row in rows))
    footer = Footer(statuses, model_sha256, provider, f"{platform.node()}:{os.getpid()}")
    schema = SCHEMA.with_metadata({FOOTER_KEY: json.dumps(asdict(footer)).encode()})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer)
    write_atomically(folder / part.name, buffer.getvalue())


def read_footer(folder: Path, part: Part) -> Footer | None:
    """Return the footer of a part's file; None if it is missing, damaged or of another length."""
    try:
        metadata = pq.read_metadata(folder / part.name)
        footer = Footer(**json.loads(metadata.metadata[FOOTER_KEY]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return footer if metadata.num_rows == part.n_pictures else None


def count_try(folder: Path, part: Part) -> int:
    """Return how often work on a part was begun, this time included, since it last succeeded.

    The count is a file's size, so that it outlives the worker.

    Raises:
        OutputError: It cannot be written.
    """
    path = _tries_path(folder, part)
    with output_errors(path), open(path, "ab") as file:
        file.write(b".")
        return file.tell()


def forget_tries(folder: Path, part: Part) -> None:
    """Count the tries of a part from 0 again."""
    _tries_path(folder, part).unlink(missing_ok=True)


def _tries_path(folder: Path, part: Part) -> Path:
    return folder / JOB_FOLDER / f"{part.name}.tries"
