"""From paths to answers: one item for each picture, in order, whatever is wrong with some."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mnist.errors import PictureError
from edge_mnist.predictor import Predictor

SUFFIXES = frozenset(
    f".{name}"
    for name in ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm")
)
STDIN = "-"


@dataclass(frozen=True)
class Item:
    """The answer to one picture.

    Attributes:
        path: As the user gave it, or found in a folder that the user gave.
        status: ``ok`` or ``error``.
        digit: The predicted class; None unless ok.
        name: What that class is called; None unless ok.
        confidence: Probability of that class, 0..1; None unless ok.
        probabilities: One for each class; None unless ok.
        error: Why the picture could not be read; None if ok.
    """

    path: str
    status: str
    digit: int | None = None
    name: str | None = None
    confidence: float | None = None
    probabilities: tuple[float, ...] | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, for JSON."""
        return {key: value for key, value in vars(self).items() if value is not None}


def predict_paths(
    predictor: Predictor, paths: Iterable[str], *, recursive: bool = False, stdin: Any = None
) -> Iterator[Item]:
    """Read the digit in each picture; a bad one becomes an item with an error.

    Args:
        predictor: An open model.
        paths: Files, folders, or ``-`` for ``stdin``.
        recursive: Read the pictures in folders, and in folders within.
        stdin: Open binary file that holds the picture ``-``.
    """
    for path in paths:
        if path != STDIN and Path(path).is_dir():
            yield from _predict_folder(predictor, path, recursive=recursive)
        else:
            yield _predict_one(predictor, path, stdin if path == STDIN else path)


def find_pictures(folder: Path) -> list[Path]:
    """List the pictures below a folder by their suffix, sorted; links are not followed."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink()
    )


def _predict_folder(predictor: Predictor, folder: str, *, recursive: bool) -> Iterator[Item]:
    if not recursive:
        yield Item(folder, "error", error="is a folder; add -r to read the pictures in it")
        return
    pictures: Sequence[Path] = find_pictures(Path(folder))
    if not pictures:
        yield Item(folder, "error", error="no pictures in this folder")
    for path in pictures:
        yield _predict_one(predictor, str(path), path)


def _predict_one(predictor: Predictor, path: str, source: Any) -> Item:
    try:
        prediction = predictor.predict(source)
    except PictureError as error:
        return Item(path, "error", error=str(error))
    return Item(
        path,
        "ok",
        digit=prediction.digit,
        name=prediction.name,
        confidence=prediction.confidence,
        probabilities=prediction.probabilities,
    )
