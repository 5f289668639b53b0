"""Time recipe ``fast`` against one epoch of the widely copied PyTorch MNIST example.

The example's network and settings are written afresh: two convolutions of 32 and 64 filters, dense
layers of 128 and 10, dropout, batches of 64, Adadelta at 1.0. Its data loader is left out: images
come from memory, which makes the example faster than it is.

    python benchmarks/time_fast.py --data-dir FOLDER [--seeds 0 1 2]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from edge_mnist.training.datasets import Dataset, load_dataset
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.run import train


def make_example() -> nn.Module:
    """Return the example's network."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.25), nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )  # fmt: skip


def time_example_epoch(dataset: Dataset) -> float:
    """Return the seconds of one epoch of the example."""
    network = make_example()
    optimizer = torch.optim.Adadelta(network.parameters(), lr=1.0)
    images, labels = torch.tensor(dataset.train_images), torch.tensor(dataset.train_labels)
    start = time.perf_counter()
    for rows in torch.randperm(len(images)).split(64):
        pixels = (images[rows].unsqueeze(1).float() / 255 - 0.1307) / 0.3081
        loss = nn.functional.cross_entropy(network(pixels), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Time both, in turns, and print every number."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    dataset = load_dataset("mnist", data_dir=arguments.data_dir)
    accuracies, ratios = [], []
    for seed in arguments.seeds:
        example_s = time_example_epoch(dataset)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            result = train(find_recipe("fast", seed=seed), dataset, out=folder).result
            fast_s = time.perf_counter() - start
        accuracies.append(result.test_accuracy)
        ratios.append(fast_s / example_s)
        print(
            f"seed {seed}: fast {fast_s:.1f} s ({result.train_s:.1f} s of it training), "
            f"{result.test_accuracy:.2%}; one epoch of the example {example_s:.1f} s"
        )
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    print(f"accuracy {statistics.mean(accuracies):.4f} +- {spread:.4f}, n = {len(accuracies)}")
    print(f"median ratio of times {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
