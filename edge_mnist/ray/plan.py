"""The plan of a job: which pictures are answered together, decided once and recorded.

Every picture belongs to one part for good, and a part is written whole under a name of its own.
So whoever writes a part twice, a worker that was taken for lost or a job started again, writes
the same rows over the same file.
"""

import io
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge_mnist.errors import DataError, OutputError
from edge_mnist.files import write_exclusively
from edge_mnist.ray.inputs import Inputs, Rows, slice_table

# Readers of Parquet folders pass over names that begin with an underscore.
JOB_FOLDER = "_job"
# A part is what a lost worker costs, and what can be done side by side. The answers of 1,024
# pictures take a tenth of a second at least, ten times what Ray takes to hand them out.
MIN_PICTURES, MAX_PICTURES = 16, 1024
WANTED_PARTS = 64
SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("path", pa.binary()),  # a file's name need not be text
        ("group", pa.int32()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Part:
    """Pictures that are answered and written together: files, or rows of a Parquet file."""

    number: int
    paths: tuple[str, ...] = ()
    rows: Rows | None = None

    @property
    def name(self) -> str:
        """File name of the answers."""
        return f"part-{self.number:06d}.parquet"

    @property
    def n_pictures(self) -> int:
        """How many pictures, and so answers, there are."""
        return self.rows.stop - self.rows.start if self.rows else len(self.paths)


def extend_plan(folder: Path, inputs: Inputs) -> list[Part]:
    """Return all parts of a job, after planning the pictures that are new to it.

    Args:
        folder: Where the job writes.
        inputs: What to answer.

    Raises:
        DataError: A Parquet file is not the one that was planned, or the plan is damaged.
        OutputError: The plan cannot be written, or another job is extending it right now.
    """
    known = read_plan(folder)
    new = _leave_out_planned(known, inputs)
    n_new = len(new.paths) + sum(new.tables.values())
    if not n_new:
        return known
    size = min(max(n_new // WANTED_PARTS, MIN_PICTURES), MAX_PICTURES)
    parts = list(_make_parts(new, size, first=len(known)))
    path = folder / JOB_FOLDER / f"plan-{len(known):06d}.parquet"
    try:
        write_exclusively(path, _pack(parts))
    except FileExistsError as error:
        raise OutputError(f"another job has just been started in {folder}") from error
    return known + parts


def _leave_out_planned(known: Sequence[Part], inputs: Inputs) -> Inputs:
    paths = {path for part in known for path in part.paths}
    n_rows: Counter[str] = Counter()
    for part in known:
        if part.rows:
            n_rows[part.rows.file] += part.n_pictures
    for table, n_pictures in inputs.tables.items():
        if table in n_rows and n_rows[table] != n_pictures:
            raise DataError(f"{table} has changed since it was planned: choose another --output")
    return Inputs(
        tuple(path for path in inputs.paths if path not in paths),
        {table: n for table, n in inputs.tables.items() if table not in n_rows and n},
    )


def _make_parts(inputs: Inputs, size: int, *, first: int) -> Iterator[Part]:
    numbers = itertools.count(first)
    for start in range(0, len(inputs.paths), size):
        yield Part(next(numbers), inputs.paths[start : start + size])
    for table in inputs.tables:
        for rows in slice_table(table, size):
            yield Part(next(numbers), rows=rows)


def read_plan(folder: Path) -> list[Part]:
    """Return the parts that were planned so far, in order; none for a new job.

    Raises:
        DataError: The plan is damaged.
    """
    parts: list[Part] = []
    for path in sorted((folder / JOB_FOLDER).glob("plan-*.parquet")):
        try:
            lists = [column.to_pylist() for column in pq.ParquetFile(path).read().columns]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"cannot read the plan {path}: {error}") from error
        parts += _unpack(zip(*lists, strict=True))
    if [part.number for part in parts] != list(range(len(parts))):
        raise DataError(f"the plan in {folder / JOB_FOLDER} is not whole")
    return parts


def _pack(parts: Sequence[Part]) -> bytes:
    records: list[tuple[object, ...]] = []
    for part in parts:
        records += [(part.number, os.fsencode(path), None, None, None) for path in part.paths]
        if part.rows:
            file = os.fsencode(part.rows.file)
            records.append((part.number, file, part.rows.group, part.rows.start, part.rows.stop))
    columns = [list(column) for column in zip(*records, strict=True)]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), buffer)
    return buffer.getvalue()


def _unpack(records: Iterable[tuple[int, bytes, int | None, int, int]]) -> Iterator[Part]:
    for number, group in itertools.groupby(records, key=lambda record: record[0]):
        members = list(group)
        _, path, row_group, start, stop = members[0]
        if row_group is not None:
            yield Part(number, rows=Rows(os.fsdecode(path), row_group, start, stop))
        else:
            yield Part(number, tuple(os.fsdecode(member[1]) for member in members))
