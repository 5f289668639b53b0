"""A job: many pictures, answered by workers that Ray Data runs, each exactly once in a folder."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_mnist.errors import ClusterError, OutputError, UsageError
from edge_mnist.files import make_folder, write_atomically
from edge_mnist.model_file import ModelFile
from edge_mnist.predictor import Predictor
from edge_mnist.ray.answers import read_footer
from edge_mnist.ray.inputs import list_inputs
from edge_mnist.ray.plan import JOB_FOLDER, Part, extend_plan
from edge_mnist.ray.worker import MAX_TRIES, MODEL_NAME, Settings

SCHEMA_VERSION = 1
SETTINGS_NAME = "settings.json"
STATUSES = ("ok", "rejected", "error")


@dataclass(frozen=True)
class JobReport:
    """What a job's folder holds at its end.

    Attributes:
        folder: Where the answers are.
        model: The model that answered.
        model_sha256: Its hash.
        n_pictures: How many pictures have an answer.
        n_new: How many of them this start answered.
        statuses: How many are ok, rejected, or cannot be read.
        job_s: Seconds, the start of Ray included.
    """

    folder: str
    model: str
    model_sha256: str
    n_pictures: int
    n_new: int
    statuses: dict[str, int]
    job_s: float
    schema_version: int = SCHEMA_VERSION

    @property
    def all_ok(self) -> bool:
        """Whether no picture was rejected or could not be read."""
        return self.statuses["ok"] == self.n_pictures


def run_job(
    names: Iterable[str],
    folder: Path,
    model: ModelFile,
    settings: Settings,
    *,
    address: str | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> JobReport:
    """Read the digit in each of many pictures; do only what an earlier start has left to do.

    Args:
        names: Folders, pictures and Parquet files with the columns ``path`` and ``bytes``.
        folder: Where to write Parquet files; every picture has one row in one of them.
        model: The model; a folder keeps to one.
        settings: How to answer.
        address: A Ray cluster that is running; None starts Ray on this machine.
        report: Called with the number of pictures answered by this start, and of those to answer.

    Raises:
        UsageError: The folder holds answers of another model, or lies in an input.
        DataError: There are no pictures, or a Parquet file cannot be used.
        ModelError: The model cannot be used.
        ProviderError: CUDA was asked for and the cluster has no GPU.
        OutputError: The folder cannot be written, or holds other files.
        ClusterError: Ray cannot be started, or pictures ended their workers again and again.
    """
    start = time.perf_counter()
    _ = settings.device  # wrong usage is told before anything is written
    inputs = list_inputs(names, folder)
    claim_folder(folder, model, settings)
    parts = extend_plan(folder, inputs)
    missing = [part for part in parts if read_footer(folder, part) is None]
    if missing:
        from edge_mnist.ray.pool import answer_parts  # Ray takes a second to import

        answer_parts(missing, folder, settings, address=address, report=report)
    statuses = count_statuses(folder, parts)
    return JobReport(
        folder=str(folder),
        model=str(model.path),
        model_sha256=model.sha256,
        n_pictures=sum(statuses.values()),
        n_new=sum(part.n_pictures for part in missing),
        statuses=statuses,
        job_s=time.perf_counter() - start,
    )


def claim_folder(folder: Path, model: ModelFile, settings: Settings) -> None:
    """Make a folder a job's own, or check that it is this job's already.

    Raises:
        UsageError: It holds answers of another model.
        ModelError: The model cannot be used.
        OutputError: It holds other files, or cannot be written.
    """
    Predictor(model, "cpu").close()  # told here, not by every worker
    path = folder / JOB_FOLDER / SETTINGS_NAME
    wanted = {"model_sha256": model.sha256, "accept_all": settings.accept_all}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if json.loads(path.read_bytes()) != wanted:
            raise UsageError(
                f"{folder} holds answers of another model, or with another --accept-all; "
                "choose another --output"
            )
        return
    if folder.is_dir() and any(one.name != JOB_FOLDER for one in folder.iterdir()):
        raise OutputError(f"{folder} holds other files; choose another --output")
    make_folder(folder / JOB_FOLDER)
    write_atomically(folder / JOB_FOLDER / MODEL_NAME, model.content)
    write_atomically(path, json.dumps(wanted).encode())


def count_statuses(folder: Path, parts: Sequence[Part]) -> dict[str, int]:
    """Count the answers by status, from what really lies in the folder.

    Raises:
        ClusterError: Some are missing.
    """
    counts = Counter(dict.fromkeys(STATUSES, 0))
    missing = []
    for part in parts:
        footer = read_footer(folder, part)
        if footer is None:
            missing.append(part)
        else:
            counts.update(footer.statuses)
    if missing:
        raise ClusterError(
            f"{sum(part.n_pictures for part in missing):,} pictures have no answer, their workers "
            f"were lost {MAX_TRIES} times; {missing[0].name} is the first that is missing. "
            "The same command tries again what is missing"
        )
    return dict(counts)
