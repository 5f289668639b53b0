"""Measure model files on handwriting beyond MNIST, accepted whatever the confidence and rejected.

On MNIST's test images; on digits of UNIPEN's held-out writers, drawn three times each; on letters
and signs of those writers that look like no digit; and on a folder of pictures with a labels.csv
that has the columns file and label.

    python benchmarks/handwriting.py default nano --data-dir FOLDER --pictures FOLDER

``--curve`` shows instead what a larger or smaller rejection threshold would do, on the held-out
images by which it is chosen.
"""

import argparse
import csv
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist import Predictor
from edge_mnist.errors import DataError
from edge_mnist.model_file import find_models
from edge_mnist.training.datasets import load_dataset, split_training
from edge_mnist.training.handwriting import Handwriting
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.unipen import load_unipen

# Test images whose label five raters did not confirm.
DISPUTED = (
    947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729,
)  # fmt: skip
CURVE = (0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.02, 0.03)  # digits rejected
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Measurement:
    """What a model does with one kind of images; shares are fractions.

    Attributes:
        kind: What was measured.
        n: Number of images.
        right: Share read right, whatever the confidence; None where there is no right answer.
        right_accepted: Share read right and not rejected; None likewise.
        rejected: Share rejected.
        note: What else is to be known.
    """

    kind: str
    n: int
    right: float | None
    right_accepted: float | None
    rejected: float
    note: str = ""


def measure_images(
    kind: str, predictor: Predictor, images: Images, labels: Labels | None, note: str = ""
) -> Measurement:
    """Measure images in MNIST's form; without labels none of them is a digit."""
    predicted, probabilities = predictor.predict_images(images)
    rejected = probabilities.max(axis=1) < predictor.info.rejection_threshold
    share = float(rejected.mean())
    if labels is None:
        return Measurement(kind, len(images), None, None, share, note)
    right = predicted == labels
    accepted = float((right & ~rejected).mean())
    return Measurement(kind, len(images), float(right.mean()), accepted, share, note)


def measure_mnist(predictor: Predictor, images: Images, labels: Labels) -> Measurement:
    """Measure MNIST's test images, the errors beyond the disputed images counted apart."""
    predicted, _ = predictor.predict_images(images)
    wrong = np.flatnonzero(predicted != labels)
    n_apart = int(np.isin(wrong, DISPUTED).sum())
    note = f"{len(wrong)} errors, {len(wrong) - n_apart} of them outside the 15 disputed images"
    return measure_images("MNIST test", predictor, images, labels, note)


def measure_pictures(predictor: Predictor, folder: Path) -> Measurement:
    """Measure a folder of pictures, the picture path included."""
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = list(predictor.predict_many([folder / row["file"] for row in rows]))
    labels = [int(row["label"]) for row in rows]
    right, accepted = [], []
    for answer, label in zip(answers, labels, strict=True):
        likeliest = int(np.argmax(answer.probabilities)) if answer.probabilities else None
        right.append(likeliest == label)
        accepted.append(answer.digit == label)
    rejected = float(np.mean([answer.status != "ok" for answer in answers]))
    missed = [row["file"] for row, one in zip(rows, right, strict=True) if not one]
    note = f"read wrong: {len(missed)}"
    return Measurement(
        f"pictures in {folder.name}",
        len(rows),
        float(np.mean(right)),
        float(np.mean(accepted)),
        rejected,
        note,
    )


def measure_all(
    predictor: Predictor, handwriting: Handwriting, arguments: argparse.Namespace
) -> Iterator[Measurement]:
    """Yield the measurements of one model, one after the other."""
    dataset = load_dataset("mnist", data_dir=arguments.data_dir)
    yield measure_mnist(predictor, dataset.test_images, dataset.test_labels)
    rows = getattr(handwriting.split, arguments.part)
    digits = handwriting.draw_held_out(rows)
    note = f"{handwriting.count_writers(handwriting.digit_rows(rows))} writers, {arguments.part}"
    yield measure_images("UNIPEN digits", predictor, digits.images, digits.labels, note)
    letters = handwriting.draw_held_out_letters(rows)
    yield measure_images("UNIPEN letters, signs", predictor, letters, None, note)
    if arguments.pictures:
        yield measure_pictures(predictor, arguments.pictures)


def print_curve(predictor: Predictor, handwriting: Handwriting, data_dir: Path | None) -> None:
    """Print what thresholds do that reject given shares of the validation writers' digits."""
    dataset = load_dataset("mnist", data_dir=data_dir)
    _, held_out = split_training(dataset, find_recipe("default"))
    digits = handwriting.draw_held_out(handwriting.split.validation)
    letters = handwriting.draw_held_out_letters(handwriting.split.validation)
    predicted, probabilities = predictor.predict_images(digits.images)
    is_right, confidences = predicted == digits.labels, probabilities.max(axis=1)
    others = [
        predictor.predict_images(images)[1].max(axis=1)
        for images in (letters, dataset.train_images[held_out])
    ]
    print("threshold  UNIPEN digits rejected  read right and rejected  letters  MNIST validation")
    for share in CURVE:
        threshold = float(np.quantile(confidences, share))
        rejected = confidences < threshold
        of_letters, of_mnist = (float((other < threshold).mean()) for other in others)
        print(
            f"{threshold:9.3f}  {show(float(rejected.mean())):>22}"
            f"  {show(float((rejected & is_right).mean())):>23}"
            f"  {show(of_letters)}  {show(of_mnist):>16}"
        )


def show(share: float | None) -> str:
    """Return a share in percent."""
    return f"{share:7.2%}" if share is not None else f"{'-':>7}"


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="model files, folders or released models")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST and UNIPEN")
    parser.add_argument("--pictures", type=Path, help="folder of pictures with labels.csv")
    parser.add_argument("--curve", action="store_true", help="show other rejection thresholds")
    parser.add_argument("--part", choices=("validation", "test"), default="test")
    arguments = parser.parse_args()
    if arguments.pictures and not (arguments.pictures / "labels.csv").is_file():
        parser.error(f"no labels.csv in {arguments.pictures}")
    try:
        handwriting = Handwriting(load_unipen(arguments.data_dir))
    except DataError as error:
        parser.error(str(error))
    print("$", shlex.join(["python", *sys.argv]))
    for path in find_models(arguments.models):
        predictor = Predictor(path)
        print(f"\n{path}, rejected below {predictor.info.rejection_threshold:.3f}")
        if arguments.curve:
            print_curve(predictor, handwriting, arguments.data_dir)
            continue
        print(f"{'':24}  {'n':>6}    right  right, accepted  rejected")
        for one in measure_all(predictor, handwriting, arguments):
            shares = f"{show(one.right)}  {show(one.right_accepted):>15}  {show(one.rejected):>8}"
            print(f"{one.kind:24}  {one.n:6,}  {shares}  {one.note}")


if __name__ == "__main__":
    main()
