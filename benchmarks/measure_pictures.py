"""Measure speed and accuracy of predictions on pictures, drawn from MNIST's test images.

Speed: ``predict_many`` on 10,000 small PNG files against decoding with Pillow and running the
session; ``predict_images`` and ``predict`` against running the session alone. Accuracy: the test
images drawn dark on a larger white background, and inverted.

    python benchmarks/measure_pictures.py --data-dir FOLDER
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.training.datasets import load_dataset
from edge_mnist.validation.timing import time_in_turns

BATCH_SIZES = (8, 16, 32, 64, 128, 1000)
Images = NDArray[np.uint8]
Runs = dict[str, Callable[[], object]]  # what to time, by name


def decode_and_run(predictor: Predictor, paths: list[Path]) -> None:
    """Decode with Pillow, and run the session on batches of 64."""
    for start in range(0, len(paths), 64):
        images = [np.asarray(Image.open(path)) for path in paths[start : start + 64]]
        predictor.session.run(None, {"images": np.stack(images)})


def predict_all(predictor: Predictor, paths: list[Path]) -> None:
    """Predict with ``predict_many``."""
    for _ in predictor.predict_many(paths):
        pass


def run_session(predictor: Predictor, images: Images, batch_size: int) -> None:
    """Run the session alone."""
    for start in range(0, len(images), batch_size):
        predictor.session.run(["probabilities"], {"images": images[start : start + batch_size]})


def draw_on_white(images: Images) -> Iterator[Images]:
    """Draw each image dark on white, 20 to 400 pixels large, anywhere on a larger background."""
    generator = np.random.default_rng(5)
    filters = [Image.Resampling(number) for number in (0, 1, 2, 3)]
    for row, image in enumerate(images):
        side = int(generator.integers(20, 401))
        drawn = np.asarray(Image.fromarray(image).resize((side, side), filters[row % 4]))
        height, width = (side + int(generator.integers(0, 300)) for _ in range(2))
        top, left = (int(generator.integers(0, length - side + 1)) for length in (height, width))
        picture = np.full((height, width), 255, np.uint8)
        picture[top : top + side, left : left + side] -= drawn
        yield picture


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path)
    dataset = load_dataset("mnist", data_dir=parser.parse_args().data_dir)
    images, labels, predictor = dataset.test_images, dataset.test_labels, Predictor()

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{row:05}.png" for row in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        files: Runs = {
            "predict_many": partial(predict_all, predictor, paths),
            "reference": partial(decode_and_run, predictor, paths),
        }
        spent_s = time_in_turns(files, rounds=5, runs_per_round=1)
        ratio = np.median(spent_s["predict_many"]) / np.median(spent_s["reference"])
        print(f"predict_many on {len(paths):,} files: {ratio:.2f} times decoding and session")
        inputs = np.stack([one.image for one in predictor.predict_many(paths)])
        n_identical = (inputs == images).all(axis=(1, 2)).sum()
        print(f"model inputs identical to the image in the PNG file: {n_identical:,}")

    runs: Runs = {str(size): partial(run_session, predictor, images, size) for size in BATCH_SIZES}
    runs["predict_images"] = partial(predictor.predict_images, images)
    median_s = {
        name: np.median(times)
        for name, times in time_in_turns(runs, rounds=9, runs_per_round=1).items()
    }
    best = min(BATCH_SIZES, key=lambda size: median_s[str(size)])
    share = median_s[str(best)] / median_s["predict_images"]
    print(f"predict_images: {share:.3f} of the session's throughput at its best batch size, {best}")

    single: Runs = {
        "predict": partial(predictor.predict, images[0]),
        "session": partial(run_session, predictor, images[:1], 1),
    }
    median_us = {name: np.median(times) * 1e6 for name, times in time_in_turns(single).items()}
    overhead_us = median_us["predict"] - median_us["session"]
    print(f"predict of an array: {overhead_us:.0f} us more than the session")

    for name, pictures in (("dark on white", draw_on_white(images)), ("inverted", 255 - images)):
        predictions = list(predictor.predict_many(pictures))
        correct = [one.digit == label for one, label in zip(predictions, labels, strict=True)]
        rejected = [one.status == "rejected" for one in predictions]
        print(f"{name}: accuracy {np.mean(correct):.2%}, {np.mean(rejected):.2%} rejected")


if __name__ == "__main__":
    main()
