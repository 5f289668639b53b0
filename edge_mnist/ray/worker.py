"""What runs in each worker: a Predictor, opened once, that answers one part after another."""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge_mnist.errors import EdgeMnistError, UsageError
from edge_mnist.files import output_errors
from edge_mnist.model_file import FLOAT32_NAME, read_model
from edge_mnist.picture.decode import Picture
from edge_mnist.predictor import Predictor
from edge_mnist.ray.answers import make_answer, write_part
from edge_mnist.ray.inputs import Rows, read_rows
from edge_mnist.ray.plan import JOB_FOLDER, Part
from edge_mnist.session import PROVIDERS

# Ray starts a lost worker, and what it was at, again without end. A picture that itself ends its
# worker must not have that.
MAX_TRIES = 4
MODEL_NAME = FLOAT32_NAME  # in the job's folder, whatever it was called before


@dataclass(frozen=True)
class Settings:
    """How workers answer.

    Attributes:
        provider: ``cpu``, or ``cuda`` for one GPU to each worker. ``auto`` and None are ``cpu``:
            a GPU has to be asked of Ray.
        threads: Threads within one operator; see ``Predictor``.
        accept_all: Answer with a digit whatever a picture shows.
    """

    provider: str | None = None
    threads: int | None = None
    accept_all: bool = False

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``.

        Raises:
            UsageError: There is no such provider.
        """
        if self.provider not in (None, "auto", *PROVIDERS):
            raise UsageError(f"no provider named {self.provider!r}; there are: auto, cpu, cuda")
        return "cuda" if self.provider == "cuda" else "cpu"


class Worker:
    """Answers parts and writes them; Ray Data makes one in each worker and calls it."""

    def __init__(self, folder: str, settings: Settings) -> None:
        """Remember what to do; the model is opened at the first part, where errors can be told.

        Args:
            folder: The job's, the same on every machine.
            settings: How to answer.
        """
        self._folder = Path(folder)
        self._settings = settings

    @functools.cached_property
    def _predictor(self) -> Predictor:
        model = read_model(self._folder / JOB_FOLDER / MODEL_NAME)
        settings = self._settings
        return Predictor(model, settings.device, settings.threads, accept_all=settings.accept_all)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Answer and write parts; what goes wrong for a user's reason is said, not raised."""
        parts = [unpack_part(text) for text in batch["part"]]
        failures = [self._work(part) for part in parts]
        return {"n_pictures": [part.n_pictures for part in parts], "failure": failures}

    def _work(self, part: Part) -> str:
        try:
            if count_try(self._folder, part) <= MAX_TRIES:
                self._answer(part)
                forget_tries(self._folder, part)
        except (EdgeMnistError, OSError, pa.ArrowException) as error:
            return f"{part.name}: {error}"
        return ""

    def _answer(self, part: Part) -> None:
        listed, sources = itertools.tee(_open_part(part))
        predictions = self._predictor.predict_many(picture for _, picture in sources)
        names = (name for name, _ in listed)
        answers = [make_answer(next(names), prediction) for prediction in predictions]
        write_part(
            self._folder,
            part,
            answers,
            model_sha256=self._predictor.model.sha256,
            provider=self._predictor.provider,
        )


def count_try(folder: Path, part: Part) -> int:
    """Return how often work on a part was begun, this time included, since it last succeeded.

    The count is a file's size: it outlives the worker.
    """
    path = _tries_path(folder, part)
    with output_errors(path), open(path, "ab") as file:
        file.write(b".")
        return file.tell()


def forget_tries(folder: Path, part: Part) -> None:
    """Count a part's tries from 0 again."""
    _tries_path(folder, part).unlink(missing_ok=True)


def _tries_path(folder: Path, part: Part) -> Path:
    return folder / JOB_FOLDER / f"{part.name}.tries"


def _open_part(part: Part) -> Iterator[tuple[str, Picture]]:
    if part.rows:
        return read_rows(part.rows)
    return ((path, path) for path in part.paths)


def pack_part(part: Part) -> str:
    """Return a part as text, to send it to a worker."""
    rows = vars(part.rows) if part.rows else None
    return json.dumps({"number": part.number, "paths": part.paths, "rows": rows})


def unpack_part(text: str) -> Part:
    """Return the part that ``pack_part`` made text of."""
    known = json.loads(text)
    rows = Rows(**known["rows"]) if known["rows"] else None
    return Part(known["number"], tuple(known["paths"]), rows)
