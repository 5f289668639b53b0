"""From paths to answers: one item for each picture, in order, whatever is wrong with some."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edge_mnist.picture.finding import find_pictures
from edge_mnist.predictor import Prediction, Predictor

STDIN = "-"


@dataclass(frozen=True)
class Item:
    """The answer to one path.

    Attributes:
        path: As the user gave it, or found in a folder that the user gave.
        prediction: What was seen there; None if the path stands for no picture.
        error: Why there is no prediction, or why the picture cannot be read; else None.
    """

    path: str
    prediction: Prediction | None
    error: str | None

    @property
    def status(self) -> str:
        """``ok``, ``rejected`` or ``error``."""
        return self.prediction.status if self.prediction else "error"

    def to_dict(self, class_names: tuple[str, ...], top_k: int | None = None) -> dict[str, Any]:
        """Return what is known, for JSON.

        Args:
            class_names: What each class is called.
            top_k: Add this many likeliest classes, in order, as ``top``.
        """
        known: dict[str, Any] = {"path": self.path, "status": self.status}
        if self.error:
            return known | {"error": self.error}
        seen = self.prediction
        assert seen is not None
        if seen.reason:
            known["reason"] = seen.reason
        else:
            known |= {"digit": seen.digit, "name": seen.name}
        known |= {"confidence": seen.confidence, "probabilities": seen.probabilities}
        if top_k:
            known["top"] = list_top(seen, class_names, top_k)
        return known


def list_top(prediction: Prediction, class_names: tuple[str, ...], k: int) -> list[dict[str, Any]]:
    """List the k likeliest classes with their probabilities, the likeliest first."""
    ranked = sorted(enumerate(prediction.probabilities or ()), key=lambda pair: -pair[1])
    return [
        {"digit": label, "name": class_names[label], "probability": probability}
        for label, probability in ranked[:k]
    ]


def predict_paths(
    predictor: Predictor,
    paths: Iterable[str],
    *,
    recursive: bool = False,
    stdin: BinaryIO | None = None,
) -> Iterator[Item]:
    """Read the digit in each picture, lazily; a bad one becomes an item with an error.

    Args:
        predictor: An open model.
        paths: Files, folders, or ``-`` for ``stdin``.
        recursive: Read the pictures in folders, and in folders within.
        stdin: Open binary file that holds the picture ``-``.
    """
    found = expand_paths(paths, recursive=recursive)
    for is_picture, group in itertools.groupby(found, key=lambda pair: pair[1] is None):
        if is_picture:
            listed, sources = itertools.tee(path for path, _ in group)
            read = (stdin if path == STDIN and stdin else path for path in sources)
            predictions = predictor.predict_many(read)
            for prediction in predictions:
                yield Item(next(listed), prediction, prediction.error)
        else:
            yield from (Item(path, None, error) for path, error in group)


def expand_paths(
    paths: Iterable[str], *, recursive: bool = False
) -> Iterator[tuple[str, str | None]]:
    """Yield every picture's path, and for a path that stands for none the reason."""
    for path in paths:
        if path == STDIN or not Path(path).is_dir():
            yield path, None
        elif not recursive:
            yield path, "is a folder; add -r to read the pictures in it"
        else:
            pictures = find_pictures(path)
            first = next(pictures, None)
            if first is None:
                yield path, "no pictures in this folder"
            else:
                yield from ((one, None) for one in itertools.chain([first], pictures))
