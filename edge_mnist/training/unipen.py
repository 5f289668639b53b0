"""UNIPEN's isolated characters: pen strokes of a few hundred writers from several countries.

MNIST is the handwriting of Americans. UNIPEN's digits add what others write: a 1 with a flag or on
a base line, a crossed 7, a slashed 0; its letters and signs show what is no digit.

The release stays with its publisher: no part of it is in this package. Of the writers, whose names
its headers hold, nothing is kept but numbers.

Source: I. Guyon, UNIPEN 1.0 format definition, http://unipen.nici.ru.nl/unipen.def, 1994.
"""

import contextlib
import gzip
import hashlib
import itertools
import lzma
import os
import posixpath
import re
import tarfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import DataError, UsageError
from edge_mnist.machine import is_offline
from edge_mnist.training.datasets import cache_folder, named_folder

DOI = "10.5281/zenodo.1195803"
LICENCE = "CC BY 4.0"
CITATION = (
    "I. Guyon, L. Schomaker, R. Plamondon, M. Liberman, S. Janet, UNIPEN project of on-line data "
    "exchange and recognizer benchmarks, Proceedings of the 12th International Conference on "
    "Pattern Recognition (ICPR), 1994"
)
# Of an older notice inside the release; the licence is that of its Zenodo record.
NOTICE = "use for research purposes is granted, distribution for commercial purposes is not allowed"
BENCHMARKS = {"1a": "digits", "1b": "capitals", "1c": "small letters", "1d": "signs"}
PUBLISHED_ARCHIVE = "unipen-CDROM-train_r01_v07.tgz"
ARCHIVES = (
    "train_r01_v07-isolated.tar.xz",
    PUBLISHED_ARCHIVE,
    "train_r01_v07.tar.xz",
    "train_r01_v07.tgz",
)
PARENTS = ("", "unipen", "UNIPEN")
ROOTS = (
    "",
    "train_r01_v07",
    "train_r01_v07-isolated",
    "unipen-CDROM-train_r01_v07",
    "unipen-CDROM-train_r01_v07/train_r01_v07",
    "CDROM/train_r01_v07",
)
# Every file of these donors includes them, but some copies of the release are without. They hold an
# address and a resolution that is the same in x and y, so a character does not depend on them.
OPTIONAL_INCLUDES = frozenset({"imp/imp0.doc", "pri/pri.doc"})
# Two donations of one laboratory, which gave its writers the same names in both.
SAME_LABORATORY = {"ceb": "cea"}

Rows = NDArray[np.int64]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Characters:
    """Handwritten characters as pen strokes, in flat arrays; see ``strokes``.

    Attributes:
        points: x and y of all pen positions, shape (points, 2), float32; y points downwards, as in
            pictures, and units are equal in x and y. How long one is differs between donors.
        stroke_starts: Stroke s holds points ``stroke_starts[s]`` up to ``stroke_starts[s + 1]``;
            shape (strokes + 1,), int64.
        character_starts: Character i holds strokes ``character_starts[i]`` up to
            ``character_starts[i + 1]``; shape (N + 1,), int64.
        labels: What was written, one sign each, shape (N,), str.
        benchmarks: One of ``BENCHMARKS`` each, shape (N,), str.
        writers: Index into ``writer_codes``, shape (N,), int64.
        donors: The laboratory that collected it, three letters, shape (N,), str.
        writer_codes: Donor and number of each writer, such as ``aga-03``; no names.
    """

    points: Points
    stroke_starts: Rows
    character_starts: Rows
    labels: NDArray[np.str_]
    benchmarks: NDArray[np.str_]
    writers: Rows
    donors: NDArray[np.str_]
    writer_codes: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of characters."""
        return len(self.labels)

    def strokes(self, index: int) -> list[Points]:
        """Return the strokes of one character, each of shape (points, 2), float32."""
        first, end = self.character_starts[index], self.character_starts[index + 1]
        starts = self.stroke_starts[first : end + 1].tolist()
        return [self.points[a:b] for a, b in itertools.pairwise(starts)]

    def select(self, rows: Rows) -> "Characters":
        """Return some of the characters, given their indices; the writers keep their codes."""
        strokes, character_starts = expand_ranges(self.character_starts, rows)
        points, stroke_starts = expand_ranges(self.stroke_starts, strokes)
        return Characters(
            self.points[points],
            stroke_starts,
            character_starts,
            self.labels[rows],
            self.benchmarks[rows],
            self.writers[rows],
            self.donors[rows],
            self.writer_codes,
        )


@dataclass(frozen=True)
class WriterSplit:
    """Indices of characters in three parts that share no writer; each sorted, int64."""

    train: Rows
    validation: Rows
    test: Rows


def load_unipen(data_dir: Path | None = None, *, offline: bool = False) -> Characters:
    """Load the isolated characters of UNIPEN's release train_r01_v07, cleaned.

    Args:
        data_dir: A folder that holds one of ``ARCHIVES`` or the unpacked ``data/1a`` and
            ``include``, in itself or in a folder ``unipen``; or the archive itself. Without it
            EDGE_MNIST_DATA. If it holds none of them, the cache is tried, then the download.
        offline: Never download. EDGE_MNIST_OFFLINE=1 does the same.

    Raises:
        DataError: The release cannot be had; the archive is truncated; a file is missing or wrong.
    """
    named = named_folder(data_dir)
    for folder in (named, cache_folder()):
        path = find_unipen_in(folder) if folder else None
        if path:
            return read_unipen(path)
    if offline or is_offline():
        raise _not_at_hand("downloads are off (offline)", named)
    return read_unipen(download_unipen(cache_folder(), named=named))


def find_unipen_in(folder: Path) -> Path | None:
    """Return the archive or the unpacked release, at or below a folder; None if there is none."""
    if os.path.isfile(folder):
        return folder
    for parent in PARENTS:
        for root in ROOTS:
            candidate = folder / parent / root
            if os.path.isdir(candidate / "data" / "1a") and os.path.isdir(candidate / "include"):
                return candidate
        for name in ARCHIVES:
            if os.path.isfile(folder / parent / name):
                return folder / parent / name
    return None


def download_unipen(folder: Path, *, named: Path | None = None) -> Path:
    """Download the published archive by its DOI, whole or not at all.

    Its checksum is the one that the record states.

    Args:
        folder: Where it is kept; made if missing.
        named: The folder that the user named, if it was searched without success.

    Returns:
        The path of the archive.

    Raises:
        DataError: The download failed, or the package pooch is not installed.
    """
    try:
        import pooch
    except ImportError as error:
        reason = "the download needs the package pooch (pip install pooch)"
        raise _not_at_hand(reason, named) from error
    try:
        record = pooch.create(path=folder, base_url=f"doi:{DOI}/")
        record.load_registry_from_doi()
        return Path(record.fetch(PUBLISHED_ARCHIVE))
    except Exception as error:  # whatever a download can raise, the user needs one line
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _not_at_hand(f"the download failed ({text})", named) from error


def read_unipen(path: Path) -> Characters:
    """Read a release, archive or unpacked folder, and clean it.

    Raises:
        DataError: The archive is truncated; there is no UNIPEN in it; a file is missing or wrong.
    """
    release: _Release = _Archive(path) if os.path.isfile(path) else _Folder(path)
    texts = release.read_benchmarks()
    if not any(name.startswith("data/1a/") for name in texts):
        raise DataError(f"{path} holds no UNIPEN: there is no file in data/1a")
    titles = _number_files(texts)
    lists = [_parse_list(name, texts[name], f"{path}: {titles[name]}") for name in sorted(texts)]
    pens = _read_pens(release, lists, path)
    collector = _Collector()
    for one in lists:
        collector.add(one, pens)
    return collector.finish()


def split_writers(
    characters: Characters, *, validation_share: float = 0.15, test_share: float = 0.15
) -> WriterSplit:
    """Split characters by their writers, every donor in proportion, the same way every time.

    Only the writers' codes decide, so a writer stays in the same part whichever characters were
    selected, and a larger share only adds writers to a part. By donor, because some styles come
    from few writers: most of the 1s with a flag are those of donors gmd, val, uqb and ibm.

    Args:
        characters: What to split.
        validation_share: Expected share of the writers in the validation part, 0..1.
        test_share: Expected share of the writers in the test part, 0..1.

    Raises:
        UsageError: A share is negative, or both together are more than 1.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share > 1:
        raise UsageError(
            "expected shares of writers from 0 to 1 in all, got "
            f"validation_share={validation_share} and test_share={test_share}"
        )
    place = _place_writers(characters.writer_codes)[characters.writers]
    is_test = place < test_share
    is_validation = place >= 1 - validation_share
    return WriterSplit(
        np.flatnonzero(~is_test & ~is_validation),
        np.flatnonzero(is_validation & ~is_test),
        np.flatnonzero(is_test),
    )


def expand_ranges(starts: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Return the members of some of the ranges ``starts[i]`` up to ``starts[i + 1]``.

    Args:
        starts: Where each range starts, and the end of the last, shape (N + 1,).
        rows: Which ranges, shape (M,).

    Returns:
        All their members in order, and where each of the ranges starts among them, shape (M + 1,).
    """
    sizes = starts[rows + 1] - starts[rows]
    new_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    shift = np.repeat(starts[rows] - new_starts[:-1], sizes)
    return np.arange(new_starts[-1]) + shift, new_starts


def _place_writers(codes: tuple[str, ...]) -> NDArray[np.float64]:
    """Spread the writers of each donor evenly over 0..1, from a place that the donor decides."""
    donors = [code.split("-")[0] for code in codes]
    ranks = [donors[:index].count(donor) for index, donor in enumerate(donors)]
    places = [
        _hash_to_unit(donor) + rank / donors.count(donor)
        for donor, rank in zip(donors, ranks, strict=True)
    ]
    return np.array(places, np.float64) % 1


def _number_files(names: Iterable[str]) -> dict[str, str]:
    """Return what messages call some files: some donors' file names are writers' names.

    Args:
        names: Paths in the release, such as ``data/1a/aga/x.dat``.

    Returns:
        By path the folder up to the donor, and the file's place there by name, from 1.
    """
    titles, counts = {}, dict[str, int]()
    for name in sorted(names):
        folder = "/".join(name.split("/")[: 3 if name.startswith("data/") else 2])
        counts[folder] = counts.get(folder, 0) + 1
        titles[name] = f"file {counts[folder]} of {folder}"
    return titles


def _hash_to_unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _not_at_hand(reason: str, named: Path | None) -> DataError:
    where = f"neither in {named} nor in the cache" if named else "not in the cache"
    return DataError(
        f"UNIPEN is {where}, and {reason}. Three ways out: connect to a network and run "
        f"again; put {PUBLISHED_ARCHIVE} from https://doi.org/{DOI} into the data folder "
        "(--data-dir or EDGE_MNIST_DATA); or train on MNIST alone: --set handwriting_share=0"
    )


# ---- Where the files are: an archive, read as a stream, or a folder.


class _Release(Protocol):
    def read_benchmarks(self) -> dict[str, bytes]:
        """Return the files below ``data/1a`` .. ``data/1d`` by their paths in the release."""

    def read_includes(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        """Yield those of the files below ``include/`` that exist, one after the other."""


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read_benchmarks(self) -> dict[str, bytes]:
        texts = {}
        for benchmark in BENCHMARKS:
            for folder, _, names in os.walk(self._path / "data" / benchmark):
                for name in names:
                    file = Path(folder, name)
                    texts[file.relative_to(self._path).as_posix()] = self._read(file)
        return texts

    def read_includes(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        for name in sorted(names):
            file = self._path / "include" / name
            if os.path.isfile(file):
                yield name, self._read(file)

    def _read(self, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            folder = "/".join(file.relative_to(self._path).parts[:3])
            raise DataError(
                f"cannot read a file in {self._path / folder}: {error.strerror}"
            ) from error


def _decompress(file: BinaryIO) -> lzma.LZMAFile | gzip.GzipFile:
    """Return the content of an xz or gzip file, told apart by their first bytes."""
    is_xz = file.read(6) == b"\xfd7zXZ\0"
    file.seek(0)
    return lzma.LZMAFile(file) if is_xz else gzip.GzipFile(fileobj=file)


class _Archive:
    """Reads an archive from its start twice: its lists, then the pen positions that they name.

    Nothing is unpacked to the disk, and of the whole release, 500 MB, only what is needed is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: set[str] = set()
        self._root = ""

    def read_benchmarks(self) -> dict[str, bytes]:
        texts = {}
        with self._open() as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                if member.isfile():
                    self._names.add(name)
                    found = re.fullmatch(r"(.*?)(data/1[abcd]/.+)", name)
                    if found and (not found[1] or found[1].endswith("/")):
                        self._root = found[1]
                        texts[found[2]] = self._read(archive, member)
        return texts

    def read_includes(self, names: set[str]) -> Iterator[tuple[str, bytes]]:
        prefix = f"{self._root}include/"
        present = {name for name in names if prefix + name in self._names}
        if not present:
            return
        with self._open() as archive:
            for member in archive:
                name = posixpath.normpath(member.name).removeprefix(prefix)
                if member.isfile() and name in present:
                    yield name, self._read(archive, member)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tarfile.TarFile]:
        try:
            with open(self._path, "rb") as file, _decompress(file) as content:
                with tarfile.open(fileobj=content, mode="r|") as archive:
                    yield archive
                while content.read(1 << 20):  # to the end, where the checksum is
                    pass
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise DataError(f"{self._path} is truncated or no .tar.xz or .tgz: {error}") from error
        except OSError as error:  # gzip's for a wrong checksum, too
            raise DataError(f"cannot read {self._path}: {error}") from error

    def _read(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        content = archive.extractfile(member)
        return content.read() if content else b""


# ---- What the files hold.

_KEYWORD = re.compile(rb"^\.([A-Z_]+)", re.MULTILINE)
_PEN_KEYWORDS = {b"PEN_DOWN": True, b"PEN_UP": False}
_RESOLUTIONS = ("POINTS_PER_INCH", "POINTS_PER_MM")
_HEADER_KEYWORDS = frozenset(
    {b"WRITER_ID", b"COORD"} | {f"{axis}_{unit}".encode() for axis in "XY" for unit in _RESOLUTIONS}
)
# Level, components, any words on quality, label: CHARACTER 25:3-26:10,28 ? "5"
_SEGMENT = re.compile(r'\s*(\S+)\s+(\S+)\s[^"]*"((?:[^"\\]|\\.)*)"', re.DOTALL)
_UNESCAPE = re.compile(r"\\(.)", re.DOTALL)
_RANGE = re.compile(r"(\d+)(?::(\d+))?(?:-(\d+)(?::(\d+))?)?")


@dataclass(frozen=True)
class _List:
    """A file below ``data/``: which components of which pen files are which characters.

    Attributes:
        file: What messages call it.
        benchmark: One of ``BENCHMARKS``.
        donor: Three letters.
        includes: The files that it names.
        segments: Components and label of each character.
    """

    file: str
    benchmark: str
    donor: str
    includes: tuple[str, ...]
    segments: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Pen:
    """A file below ``include/``.

    Attributes:
        name: Its path there; it stays inside this module.
        file: What messages call it.
        donor: The first folder of its path.
        includes: The files that it names.
        header: The last value of each keyword of the header that matters here.
        numbers: All numbers of its components, shape (numbers,), float32.
        starts: Component c holds numbers ``starts[c]`` up to ``starts[c + 1]``.
        is_down: For each component whether the pen touched the tablet.
    """

    name: str
    file: str
    donor: str
    includes: tuple[str, ...]
    header: Mapping[bytes, str]
    numbers: NDArray[np.float32]
    starts: Rows
    is_down: NDArray[np.bool_]


@dataclass(frozen=True)
class _Trajectory:
    """The components that the segments of a list count, from 0.

    Attributes:
        points: Shape (points, 2), float32, y downwards, units equal in x and y.
        starts: Component c holds points ``starts[c]`` up to ``starts[c + 1]``.
        is_down: For each component whether the pen touched the tablet.
        writer: The name in the header; it stays inside this module.
    """

    points: Points
    starts: list[int]
    is_down: list[bool]
    writer: str


def _split_keywords(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each keyword, and what follows it up to the next."""
    found = list(_KEYWORD.finditer(data))
    ends = [one.start() for one in found[1:]] + [len(data)]
    for one, end in zip(found, ends, strict=True):
        yield one[1], data[one.end() : end]


def _parse_list(name: str, data: bytes, file: str) -> _List:
    includes, segments = [], []
    for keyword, value in _split_keywords(data):
        text = value.decode("latin-1")
        if keyword == b"INCLUDE":
            includes.append(text.strip())
        elif keyword == b"SEGMENT":
            found = _SEGMENT.match(text)
            if not found:
                raise DataError(f"{file} is altered: cannot read the segment {text.strip()!r}")
            if found[1] == "CHARACTER":
                segments.append((found[2], found[3]))
    _, benchmark, donor = name.split("/")[:3]
    return _List(file, benchmark, donor, tuple(includes), tuple(segments))


def _parse_pen(name: str, data: bytes, file: str) -> _Pen:
    includes: list[str] = []
    header: dict[bytes, str] = {}
    blocks: list[bytes] = []
    is_down: list[bool] = []
    for keyword, value in _split_keywords(data):
        if keyword in _PEN_KEYWORDS:
            # An empty PEN_UP only ends a stroke; one with positions counts as a component.
            if keyword == b"PEN_DOWN" or value.strip():
                blocks.append(value)
                is_down.append(_PEN_KEYWORDS[keyword])
        elif keyword == b"INCLUDE":
            includes.append(value.decode("latin-1").strip())
        elif keyword in _HEADER_KEYWORDS:
            header[keyword] = value.decode("latin-1").strip()
    numbers, starts = _parse_numbers(blocks, file)
    return _Pen(
        name,
        file,
        name.split("/")[0],
        tuple(includes),
        header,
        numbers,
        starts,
        np.array(is_down, np.bool_),
    )


def _parse_numbers(blocks: list[bytes], file: str) -> tuple[NDArray[np.float32], Rows]:
    """Parse all blocks at once, several times as fast as one by one: a NaN ends each block."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's for text that is no number
        try:
            text = b" nan ".join([*blocks, b""])
            numbers = np.fromstring(text.decode("latin-1"), np.float32, sep=" ")
        except (ValueError, DeprecationWarning) as error:
            raise DataError(f"{file} is altered: a pen position is no number") from error
    is_end = np.isnan(numbers)
    ends = np.flatnonzero(is_end)
    if len(ends) != len(blocks):
        raise DataError(f"{file} is altered: a pen position is no number")
    starts = np.concatenate([np.zeros(1, np.int64), ends - np.arange(len(ends))])
    return numbers[~is_end], starts


def _read_pens(release: _Release, lists: list[_List], path: Path) -> dict[str, _Pen]:
    """Read every file below ``include/`` that is named, and those that these name in turn."""
    pens: dict[str, _Pen] = {}
    users: Sequence[_List | _Pen] = lists
    while users:
        candidates = {
            one for user in users for name in user.includes for one in _places(name, user)
        }
        found = dict(release.read_includes(candidates - pens.keys()))
        titles = _number_files(f"include/{name}" for name in {*pens, *found})
        new = {
            name: _parse_pen(name, data, f"{path}: {titles[f'include/{name}']}")
            for name, data in found.items()
        }
        pens |= new
        users = list(new.values())
    return pens


def _places(name: str, user: _List | _Pen) -> list[str]:
    """Return where an included file may be: below ``include/``, or the donor's folder there."""
    places = [posixpath.normpath(name), posixpath.normpath(f"{user.donor}/{name}")]
    return [place for place in places if not place.startswith(("..", "/"))]


def _follow_includes(
    user: _List | _Pen, pens: Mapping[str, _Pen], seen: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the files that one includes, in the order in which their components count."""
    for number, name in enumerate(user.includes, start=1):
        place = next((one for one in _places(name, user) if one in pens), None)
        if place is None:
            if name in OPTIONAL_INCLUDES:
                continue
            raise DataError(f"{user.file} includes a file that is missing (its include {number})")
        if place in seen:
            raise DataError(f"{user.file} is altered: its include {number} includes itself")
        yield from _follow_includes(pens[place], pens, (*seen, place))
        yield place


def _join_pens(pens: list[_Pen], file: str) -> _Trajectory:
    """Join the components of included files, whose headers hold for all of them."""
    header: dict[bytes, str] = {}
    for pen in pens:
        header |= pen.header
    axes = header.get(b"COORD", "X Y").split()
    if "X" not in axes or "Y" not in axes:
        raise DataError(f"{file} is altered: its coordinates are {' '.join(axes)}, without X or Y")
    for pen in pens:
        if (np.diff(pen.starts) % len(axes)).any():
            raise DataError(f"{pen.file} is altered: a pen position is without {' or '.join(axes)}")
    rows = np.concatenate([np.zeros(0, np.float32), *[pen.numbers for pen in pens]])
    rows = rows.reshape(-1, len(axes))
    stretch = _measure_stretch(header, file)
    # Every donor's y points up.
    points = np.stack([rows[:, axes.index("X")], rows[:, axes.index("Y")] * -stretch], axis=1)
    sizes = [size for pen in pens for size in (np.diff(pen.starts) // len(axes)).tolist()]
    is_down = [one for pen in pens for one in pen.is_down.tolist()]
    # A file without a writer's name is a writer of its own.
    writer = header.get(b"WRITER_ID") or (pens[-1].name if pens else file)
    return _Trajectory(points.astype(np.float32), _to_starts(sizes).tolist(), is_down, writer)


def _measure_stretch(header: Mapping[bytes, str], file: str) -> float:
    """Return how long a unit in y is, in units of x; donor aga's tablet has 857 and 979 an inch."""
    for unit in _RESOLUTIONS:
        texts = [header.get(f"{axis}_{unit}".encode()) for axis in "XY"]
        if all(texts):
            try:
                x, y = (float(text.split()[0]) for text in texts if text)
                return x / y
            except (ValueError, ZeroDivisionError) as error:
                raise DataError(f"{file} is altered: its {unit} are {texts}") from error
    return 1.0


def _find_strokes(components: str, trajectory: _Trajectory, file: str) -> list[tuple[int, int]]:
    """Return the ranges of points of a segment's strokes, those where the pen was down.

    Args:
        components: Such as ``25``, ``25-27``, ``25:3-26:10`` (from one position in a component to
            another, both included), or several of these with commas between.
        trajectory: What the components count in.
        file: What messages call the list.
    """
    strokes: list[tuple[int, int]] = []
    for text in components.split(","):
        found = _RANGE.fullmatch(text)
        first, last = (int(found[1]), int(found[3] or found[1])) if found else (1, 0)
        if not found or last < first:
            raise DataError(f"{file} is altered: cannot read the components {components!r}")
        last_point = found[4] if found[3] else found[2]
        if last >= len(trajectory.is_down):
            raise DataError(
                f"{file} is altered: the segment {components} goes beyond the "
                f"{len(trajectory.is_down)} components of the files that it includes"
            )
        starts = trajectory.starts[first : last + 2]
        begin = starts[0] + int(found[2] or 0)
        end = starts[-2] + int(last_point) + 1 if last_point else starts[-1]
        if begin > starts[1] or not begin <= end <= starts[-1]:
            raise DataError(
                f"{file} is altered: the segment {components} goes beyond the pen positions of "
                "a component"
            )
        downs = trajectory.is_down[first : last + 1]
        for is_down, (start, stop) in zip(downs, itertools.pairwise(starts), strict=True):
            if is_down and max(begin, start) < min(end, stop):
                strokes.append((max(begin, start), min(end, stop)))
    return strokes


# ---- Which characters are kept.

MIN_SHARED_POINTS = 8  # two people never draw as many positions all alike


@dataclass(frozen=True)
class _Sample:
    """One character that may be kept."""

    strokes: list[Points]
    label: str
    benchmark: str
    donor: str
    writer: tuple[str, str]


class _Collector:
    """Gathers the characters of all lists, drops what is broken, and numbers the writers."""

    def __init__(self) -> None:
        self._trajectories: dict[tuple[str, ...], _Trajectory] = {}
        self._samples: dict[tuple[str, bytes], _Sample] = {}
        self._same_writers: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, one: _List, pens: Mapping[str, _Pen]) -> None:
        """Add the characters of a list."""
        names = tuple(dict.fromkeys(_follow_includes(one, pens)))
        if names not in self._trajectories:  # the four benchmarks share their pen files
            self._trajectories[names] = _join_pens([pens[name] for name in names], one.file)
        trajectory = self._trajectories[names]
        writer = (SAME_LABORATORY.get(one.donor, one.donor), trajectory.writer)
        self._same_writers.setdefault(writer, writer)
        for components, label in _drop_neighbours(one):
            ranges = _find_strokes(components, trajectory, one.file)
            strokes = [trajectory.points[a:b] for a, b in ranges]
            label = _UNESCAPE.sub(r"\1", label)
            if _is_sound(strokes, label, one.benchmark, one.donor):
                self._keep(_Sample(strokes, label, one.benchmark, one.donor, writer))

    def _keep(self, sample: _Sample) -> None:
        """Keep a character, unless it is exactly the same as an earlier one.

        Some files of the donors ibm and gmd repeat what others of the same person hold, under
        another name; 484 digits and about 2,300 other characters are such duplicates.
        """
        content = b"|".join(stroke.tobytes() for stroke in sample.strokes)
        key = (sample.donor, hashlib.blake2b(content, digest_size=16).digest())
        earlier = self._samples.setdefault(key, sample)
        if earlier is not sample and sum(map(len, sample.strokes)) >= MIN_SHARED_POINTS:
            pair = sorted([self._find(earlier.writer), self._find(sample.writer)])
            self._same_writers[pair[1]] = pair[0]

    def _find(self, writer: tuple[str, str]) -> tuple[str, str]:
        while self._same_writers[writer] != writer:
            writer = self._same_writers[writer]
        return writer

    def finish(self) -> Characters:
        """Return what was kept."""
        samples = list(self._samples.values())
        found = [self._find(sample.writer) for sample in samples]
        codes = _number_writers(set(found))
        indices = {writer: index for index, writer in enumerate(codes)}
        strokes = [stroke for sample in samples for stroke in sample.strokes]
        return Characters(
            np.concatenate([np.zeros((0, 2), np.float32), *strokes]),
            _to_starts([len(stroke) for stroke in strokes]),
            _to_starts([len(sample.strokes) for sample in samples]),
            np.array([sample.label for sample in samples], np.str_),
            np.array([sample.benchmark for sample in samples], np.str_),
            np.array([indices[writer] for writer in found], np.int64),
            np.array([sample.donor for sample in samples], np.str_),
            tuple(codes.values()),
        )


def _is_sound(strokes: list[Points], label: str, benchmark: str, donor: str) -> bool:
    """Tell whether a character is whole and shows what its label says.

    Args:
        strokes: Each of shape (points, 2), y downwards.
        label: What was to be written.
        benchmark: One of ``BENCHMARKS``.
        donor: Three letters.
    """
    # Donor val's labels of several characters, such as 00, stand for one drawn character.
    if len(label) != 1 or label.isspace():
        return False
    # The publisher blanked characters of its test set: one position, 0 0, for a whole stroke.
    if not any(stroke.any() for stroke in strokes):
        return False
    # Its signs all have the label \@, whatever they show; most are dashes.
    if donor == "kai" and benchmark == "1d":
        return False
    if donor == "ibm":
        # Strokes of many of its letters and signs are missing, without a mark of which.
        return benchmark == "1a" and not _is_part(strokes, label)
    return True


def _drop_neighbours(one: _List) -> Iterator[tuple[str, str]]:
    """Yield the segments of a list, without those of donor ibm that are two halves of a digit.

    There a stroke that was added later is a segment of its own, next to the first, with the same
    label. Each was moved to the corner of a box, so they cannot be joined again.
    """
    spans = [(*_outer_components(components), label) for components, label in one.segments]
    ends = {(last + 1, label) for _, last, label in spans}
    begins = {(first - 1, label) for first, _, label in spans}
    for (first, last, label), segment in zip(spans, one.segments, strict=True):
        if one.donor != "ibm" or not ((first, label) in ends or (last, label) in begins):
            yield segment


def _outer_components(components: str) -> tuple[int, int]:
    numbers = [int(text) for text in re.findall(r"(?<![:\d])\d+", components)]
    return (min(numbers), max(numbers)) if numbers else (0, 0)


def _is_part(strokes: list[Points], label: str) -> bool:
    """Tell a digit of donor ibm of which a stroke is missing: a dash for a 1, a ring for an 8."""
    points = np.concatenate(strokes)
    width, height = np.ptp(points, axis=0).tolist()
    if max(width, height) == 0:
        return True
    if len(strokes) > 1:
        return False
    chord = float(np.hypot(*(points[-1] - points[0])))
    is_straight = chord > 0.9 * float(np.hypot(*np.diff(points, axis=0).T).sum())
    if is_straight:
        return label != "1" or width > height
    # A 4 needs two strokes or a crossing; its first stroke alone is an L.
    return label == "4" or (label == "8" and width > 0.9 * height)


def _number_writers(writers: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return a code of donor and number for each writer, in a fixed order that tells no name."""
    codes, counts = {}, dict.fromkeys((donor for donor, _ in writers), 0)
    for donor, name in sorted(writers, key=lambda one: (one[0], _hash_to_unit(one[1]))):
        counts[donor] += 1
        codes[donor, name] = f"{donor}-{counts[donor]:02d}"
    return codes


def _to_starts(sizes: list[int]) -> Rows:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(sizes, np.int64))])
