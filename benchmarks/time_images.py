"""Time ``predict_images`` against its session alone: one image, 64 and 1,000 in one batch.

    python benchmarks/time_images.py [MODEL ...]

Both take turns, in blocks of some runs. What counts is the processor time of the thread, since a
session of one thread runs in its caller: other work on the machine disturbs it less. The share is
a ratio of medians.
"""

import sys
import time
from functools import partial

import numpy as np

from edge_mnist import Predictor

BLOCKS = {1: (1000, 20), 64: (1000, 1), 1000: (100, 1)}  # by number of images: blocks, runs in each


def main() -> None:
    """Measure and print."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 28, 28), dtype=np.uint8)
    for model in sys.argv[1:] or ["default"]:
        predictor = Predictor(model, provider="cpu", threads=1)
        for n_images, (n_blocks, n_runs) in BLOCKS.items():
            images = pixels[:n_images]
            runs = [
                partial(predictor.session.run, ["probabilities"], {"images": images}),
                partial(predictor.predict_images, images),
            ]
            spent_us: list[list[float]] = [[], []]
            for block in range(2 * n_blocks):
                which = (block + block // 2) % 2  # 0, 1, 1, 0: neither always follows the other
                start = time.thread_time_ns()
                for _ in range(n_runs):
                    runs[which]()
                spent_us[which].append((time.thread_time_ns() - start) / n_runs / 1e3)
            session_us, ours_us = (float(np.median(times)) for times in spent_us)
            print(
                f"{model}, {n_images:,} images: session {session_us:,.1f} us, predict_images "
                f"{ours_us:,.1f} us, share {session_us / ours_us:.3f}, n = {n_blocks * n_runs:,}"
            )


if __name__ == "__main__":
    main()
