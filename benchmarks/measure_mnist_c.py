"""Measure model files on MNIST-C as published: a folder for each corruption, with NumPy arrays.

Each holds ``test_images.npy``, uint8 of shape (N, 28, 28, 1), and ``test_labels.npy``. The mean is
over all folders but ``identity``, which holds the clean images.

    python benchmarks/measure_mnist_c.py mnist_c exports nano max
"""

import argparse
from pathlib import Path

import numpy as np

from edge_mnist import Predictor
from edge_mnist.model_file import find_models


def measure(predictor: Predictor, folder: Path) -> float:
    """Return the share read right of one corruption's images."""
    images = np.load(folder / "test_images.npy").reshape(-1, 28, 28)
    labels = np.load(folder / "test_labels.npy")
    answers, _ = predictor.predict_images(images)
    return float((answers == labels).mean())


def main() -> None:
    """Print a table: a row for each corruption, a column for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="MNIST-C, unpacked")
    parser.add_argument("models", type=Path, nargs="*", help="model files or folders")
    args = parser.parse_args()
    paths = find_models(args.models or None)
    predictors = [Predictor(path) for path in paths]
    kinds = sorted(path.parent for path in args.folder.glob("*/test_images.npy"))
    if not kinds:
        parser.error(f"no */test_images.npy in {args.folder}")
    print(*("corruption", *paths), sep="  ")
    shares = {kind.name: [measure(one, kind) for one in predictors] for kind in kinds}
    for name, row in shares.items():
        print(f"{name:14}", *(f"{share:7.2%}" for share in row), sep="  ")
    worse = [row for name, row in shares.items() if name != "identity"]
    print(f"{'mean':14}", *(f"{share:7.2%}" for share in np.mean(worse, axis=0)), sep="  ")


if __name__ == "__main__":
    main()
