"""What a job reads: folders of pictures, and Parquet files that hold pictures."""

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge_mnist.errors import DataError, UsageError
from edge_mnist.picture.decode import SUFFIXES, find_pictures

TABLE_SUFFIX = ".parquet"
COLUMNS = ("path", "bytes")
BATCH_ROWS = 64  # pictures of a Parquet file in memory at once, besides those being read


@dataclass(frozen=True)
class Inputs:
    """Everything that was found.

    Attributes:
        paths: Files of one picture each; absolute, so that one picture has one name.
        tables: Parquet files of pictures, and how many each holds.
    """

    paths: tuple[str, ...]
    tables: dict[str, int]


@dataclass(frozen=True)
class Rows:
    """Some rows of a Parquet file, ``start`` to ``stop`` within one row group."""

    file: str
    group: int
    start: int
    stop: int


def list_inputs(names: Iterable[str], folder: Path) -> Inputs:
    """Find pictures and Parquet files, anywhere below the folders named; each one once.

    Args:
        names: Folders, pictures and Parquet files.
        folder: Where the job writes; it must not lie where it reads.

    Raises:
        UsageError: It does, or standard input is named.
        DataError: A name stands for nothing, or for a Parquet file without pictures.
    """
    found = dict.fromkeys(path for name in names for path in _list_input(name, folder))
    tables = [path for path in found if path.lower().endswith(TABLE_SUFFIX)]
    paths = tuple(path for path in found if not path.lower().endswith(TABLE_SUFFIX))
    return Inputs(paths, {table: count_pictures(table) for table in tables})


def _list_input(name: str, folder: Path) -> Iterator[str]:
    path = Path(os.path.abspath(name))
    if name == "-":
        raise UsageError("--engine ray reads folders, pictures and Parquet files, no stdin")
    if not path.exists():
        raise DataError(f"no folder, picture or Parquet file {name}")
    if not path.is_dir():
        yield str(path)
        return
    if folder.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--output {folder} lies in {name}: it would be read as input")
    found = find_pictures(str(path), SUFFIXES | {TABLE_SUFFIX})
    first = next(found, None)
    if first is None:
        raise DataError(f"no pictures in {name}")
    yield from itertools.chain([first], found)


def count_pictures(table: str) -> int:
    """Return how many pictures a Parquet file holds.

    Raises:
        DataError: It is none, or lacks the columns ``path`` (string) and ``bytes`` (binary).
    """
    try:
        with pq.ParquetFile(table) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {table}: {str(error).splitlines()[0]}") from error
    kinds = {field.name: field.type for field in schema}
    text, data = (kinds.get(column, pa.null()) for column in COLUMNS)
    is_text = pa.types.is_string(text) or pa.types.is_large_string(text)
    if not is_text or not (pa.types.is_binary(data) or pa.types.is_large_binary(data)):
        raise DataError(f"{table}: want the columns path (string) and bytes (binary)")
    return int(n_rows)


def slice_table(table: str, n_pictures: int, *, max_slices: int = 16) -> Iterator[Rows]:
    """Cut a Parquet file into slices of rows.

    Args:
        table: A Parquet file.
        n_pictures: How many rows a slice should have.
        max_slices: At most so many slices of one row group: a reader passes over what comes
            before its slice, and that must not outweigh the reading itself.
    """
    with pq.ParquetFile(table) as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    for group, n_rows in enumerate(sizes):
        step = max(n_pictures, -(-n_rows // max_slices))
        for start in range(0, n_rows, step):
            yield Rows(table, group, start, min(start + step, n_rows))


def read_rows(rows: Rows) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of each picture; a null is an empty one."""
    end = 0
    with pq.ParquetFile(rows.file) as file:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[rows.group], columns=[*COLUMNS]):
            begin, end = end, end + batch.num_rows
            if end <= rows.start or begin >= rows.stop:
                continue
            piece = batch.slice(max(rows.start - begin, 0), rows.stop - max(begin, rows.start))
            for path, data in zip(*(piece[column].to_pylist() for column in COLUMNS), strict=True):
                yield path or "", data or b""
