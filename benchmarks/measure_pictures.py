"""Measure the way from picture files to answers, on MNIST's test images.

``predict_many`` on 10,000 small PNG files against Pillow's decoding and the bare session;
``predict_images`` and ``predict`` against the bare session; the test images drawn black on white.

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
Runs = dict[str, Callable[[], object]]


def read_plainly(predictor: Predictor, paths: list[Path]) -> None:
    """Decode with Pillow alone, and run the session at batch 64."""
    for start in range(0, len(paths), 64):
        images = [np.asarray(Image.open(path)) for path in paths[start : start + 64]]
        predictor.session.run(None, {"images": np.stack(images)})


def read_ours(predictor: Predictor, paths: list[Path]) -> None:
    """Read with ``predict_many``."""
    for _ in predictor.predict_many(paths):
        pass


def run_plainly(predictor: Predictor, images: Images, batch_size: int) -> None:
    """Run the bare session."""
    for start in range(0, len(images), batch_size):
        predictor.session.run(["probabilities"], {"images": images[start : start + batch_size]})


def draw_on_sheets(images: Images) -> Iterator[Images]:
    """Draw each image black on white, 20 to 400 pixels large, anywhere on a sheet of any size."""
    rng = np.random.default_rng(5)
    filters = [Image.Resampling(number) for number in (0, 1, 2, 3)]
    for row, image in enumerate(images):
        side = int(rng.integers(20, 401))
        drawn = np.asarray(Image.fromarray(image).resize((side, side), filters[row % 4]))
        height, width = (side + int(rng.integers(0, 300)) for _ in range(2))
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        sheet = np.full((height, width), 255, np.uint8)
        sheet[top : top + side, left : left + side] -= drawn
        yield sheet


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
        ways: Runs = {
            "plain": partial(read_plainly, predictor, paths),
            "ours": partial(read_ours, predictor, paths),
        }
        spent_s = time_in_turns(ways, rounds=5, runs_per_round=1)
        ratio = np.median(spent_s["ours"]) / np.median(spent_s["plain"])
        print(f"predict_many on {len(paths):,} files: {ratio:.2f} times decoding and session")
        seen = [one.image for one in predictor.predict_many(paths)]
        print(
            f"read back from PNG: {(np.stack(seen) == images).all(axis=(1, 2)).sum():,} identical"
        )

    runs: Runs = {str(size): partial(run_plainly, predictor, images, size) for size in BATCH_SIZES}
    runs["ours"] = partial(predictor.predict_images, images)
    spent = {
        name: np.median(times)
        for name, times in time_in_turns(runs, rounds=9, runs_per_round=1).items()
    }
    best = min(BATCH_SIZES, key=lambda size: spent[str(size)])
    share = spent[str(best)] / spent["ours"]
    print(f"predict_images: {share:.3f} of the bare session's throughput at batch {best}")

    single: Runs = {
        "ours": partial(predictor.predict, images[0]),
        "bare": partial(run_plainly, predictor, images[:1], 1),
    }
    one = {name: np.median(times) * 1e6 for name, times in time_in_turns(single).items()}
    print(f"predict of an array: {one['ours'] - one['bare']:.0f} us above the bare session")

    for name, sheets in (("black on white", draw_on_sheets(images)), ("inverted", 255 - images)):
        answers = list(predictor.predict_many(sheets))
        right = np.mean([one.digit == label for one, label in zip(answers, labels, strict=True)])
        rejected = np.mean([one.status == "rejected" for one in answers])
        print(f"{name}: {right:.2%} read right, {rejected:.2%} rejected")


if __name__ == "__main__":
    main()
