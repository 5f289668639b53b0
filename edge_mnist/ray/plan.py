"""The plan of a job: its pictures, divided once into numbered parts, and recorded.

A picture belongs to the same part for good, and a part is written as one file under a name of its
own, whole or not at all. Who writes a part again, a worker that was believed to be lost or a
job that was started again, replaces the file by one with the same rows. This is what makes every
picture appear exactly once. Ray Data's own checkpoints do not give that: their files are named
after the run, so that two runs, one of them perhaps what is left of a killed driver, write rows
twice.
"""

import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from edge_mnist.errors import DataError, OutputError, UsageError
from edge_mnist.files import write_exclusively
from edge_mnist.picture.decode import SUFFIXES, find_pictures

# Readers of Parquet folders pass over names that begin with an underscore.
JOB_FOLDER = "_job"
TABLE_SUFFIX = ".parquet"
COLUMNS = ("path", "bytes")
# A lost worker costs a part, and the last parts of a job leave workers idle: hence many small ones.
# Ray Data takes about 10 ms to hand out a part, and 1,024 pictures take 100 ms or more: hence no
# smaller ones where there are many pictures.
MIN_PICTURES, MAX_PICTURES = 16, 1024
TARGET_PARTS = 64
# A worker decodes a row group from its start and drops what is not its own.
MAX_SLICES = 16
PLAN_SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("path", pa.binary()),  # a file's name need not be UTF-8
        ("group", pa.int32()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Inputs:
    """All pictures that the names given to a job stand for.

    Attributes:
        paths: Files of one picture each; absolute, so that one picture has one name.
        tables: Parquet files of pictures, and the number of rows of each.
        left_out: What is named like a picture and cannot be one, such as a FIFO, and folders that
            cannot be read, each with the reason.
    """

    paths: tuple[str, ...]
    tables: dict[str, int]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of one row group of a Parquet file."""

    file: str
    group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """Pictures that are read, predicted and written together: files, or rows of a Parquet file."""

    number: int
    paths: tuple[str, ...] = ()
    rows: Rows | None = None

    @property
    def name(self) -> str:
        """Name of the file that holds the part's predictions."""
        return f"part-{self.number:06d}.parquet"

    @property
    def n_pictures(self) -> int:
        """How many pictures the part has, and its file rows."""
        return self.rows.stop - self.rows.start if self.rows else len(self.paths)

    def to_json(self) -> str:
        """Return the part as ASCII text; Arrow's strings, which Ray Data sends, must be UTF-8."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the part that ``to_json`` was called on."""
        known = json.loads(text)
        rows = Rows(**known["rows"]) if known["rows"] else None
        return cls(known["number"], tuple(known["paths"]), rows)


def list_inputs(names: Iterable[str], folder: Path) -> Inputs:
    """Find pictures and Parquet files, anywhere below the folders named; each one once.

    Args:
        names: Folders, pictures and Parquet files.
        folder: The job's output; it must not lie in an input.

    Raises:
        UsageError: It does, or standard input is named.
        DataError: A name stands for nothing, or for a Parquet file without pictures.
    """
    left_out: list[str] = []
    found = dict.fromkeys(path for name in names for path in _list_input(name, folder, left_out))
    tables = [path for path in found if path.lower().endswith(TABLE_SUFFIX)]
    paths = tuple(path for path in found if not path.lower().endswith(TABLE_SUFFIX))
    return Inputs(paths, {table: _count_rows(table) for table in tables}, tuple(left_out))


def _list_input(name: str, folder: Path, left_out: list[str]) -> Iterator[str]:
    path = Path(os.path.abspath(name))
    if name == "-":
        raise UsageError("--engine ray reads folders, pictures and Parquet files, not stdin")
    if not os.path.exists(path):  # unlike Path.exists, no error where a name is too long
        raise DataError(f"no folder, picture or Parquet file {name}")
    if not os.path.isdir(path):
        yield str(path)
        return
    if folder.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--output {folder} lies in {name}: it would be read as input")
    n_found, n_left_out = 0, len(left_out)
    for one, reason in find_pictures(str(path), SUFFIXES | {TABLE_SUFFIX}):
        if reason:
            left_out.append(f"{one}: {reason}")
        else:
            n_found += 1
            yield one
    if not n_found:
        raise DataError("; ".join([f"no pictures in {name}", *left_out[n_left_out:]]))


def _count_rows(table: str) -> int:
    """Return the number of rows of a Parquet file, after a check of its columns."""
    try:
        with pq.ParquetFile(table) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {table}: {str(error).splitlines()[0]}") from error
    types = {field.name: field.type for field in schema}
    path_type, bytes_type = (types.get(column, pa.null()) for column in COLUMNS)
    has_paths = pa.types.is_string(path_type) or pa.types.is_large_string(path_type)
    if not has_paths or not (
        pa.types.is_binary(bytes_type) or pa.types.is_large_binary(bytes_type)
    ):
        found = ", ".join(f"{name} ({kind})" for name, kind in types.items())
        raise DataError(
            f"{table}: expected the columns path (string) and bytes (binary), got {found}"
        )
    return int(n_rows)


def slice_table(table: str, n_pictures: int) -> Iterator[Rows]:
    """Divide a Parquet file into slices of ``n_pictures`` rows, or of a row group's sixteenth."""
    with pq.ParquetFile(table) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    for group, n_rows in enumerate(sizes):
        step = max(n_pictures, -(-n_rows // MAX_SLICES))
        for start in range(0, n_rows, step):
            yield Rows(table, group, start, min(start + step, n_rows))


def extend_plan(folder: Path, inputs: Inputs) -> list[Part]:
    """Return all parts of a job, after planning the pictures that are new to it.

    Args:
        folder: The job's output.
        inputs: The pictures to predict.

    Raises:
        DataError: A Parquet file is not the one that was planned, or the plan is damaged.
        OutputError: The plan cannot be written, or another job is extending it right now.
    """
    known = read_plan(folder)
    new = _remove_planned(known, inputs)
    n_new = len(new.paths) + sum(new.tables.values())
    if not n_new:
        return known
    size = min(max(n_new // TARGET_PARTS, MIN_PICTURES), MAX_PICTURES)
    parts = list(_make_parts(new, size, first=len(known)))
    path = folder / JOB_FOLDER / f"plan-{len(known):06d}.parquet"
    try:
        write_exclusively(path, _pack(parts))
    except FileExistsError as error:
        raise OutputError(f"another job has just been started in {folder}") from error
    return known + parts


def _remove_planned(known: Sequence[Part], inputs: Inputs) -> Inputs:
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
        raise DataError(f"the plan in {folder / JOB_FOLDER} is incomplete")
    return parts


def _pack(parts: Sequence[Part]) -> bytes:
    records: list[tuple[object, ...]] = []
    for part in parts:
        records += [(part.number, os.fsencode(path), None, None, None) for path in part.paths]
        if part.rows:
            file = os.fsencode(part.rows.file)
            records.append((part.number, file, part.rows.group, part.rows.start, part.rows.stop))
    columns = [list(column) for column in zip(*records, strict=True)]
    types = PLAN_SCHEMA.types
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=PLAN_SCHEMA), buffer)
    return buffer.getvalue()


def _unpack(records: Iterable[tuple[int, bytes, int | None, int, int]]) -> Iterator[Part]:
    for number, group in itertools.groupby(records, key=lambda record: record[0]):
        members = list(group)
        _, path, row_group, start, stop = members[0]
        if row_group is not None:
            yield Part(number, rows=Rows(os.fsdecode(path), row_group, start, stop))
        else:
            yield Part(number, tuple(os.fsdecode(member[1]) for member in members))
