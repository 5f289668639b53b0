"""Time ``predict_images`` against its session alone, at the session's best batch size.

    python benchmarks/time_images.py [MODEL ...]

The same images are classified in turns; the share is a ratio of medians.
"""

import sys
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist import Predictor
from edge_mnist.validation.timing import time_in_turns

BATCH_SIZES = (1, 8, 16, 32, 64, 128, 1000)
N_RUNS = {1: 4000, 64: 400, 1000: 60}  # by number of images


def run_session(session: Any, images: list[NDArray[np.uint8]]) -> None:
    """Run the session alone on some batches."""
    for batch in images:
        session.run(["probabilities"], {"images": batch})


def main() -> None:
    """Measure and print."""
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 28, 28), dtype=np.uint8)
    for model in sys.argv[1:] or ["default"]:
        predictor = Predictor(model)
        for n_images, n_runs in N_RUNS.items():
            images = pixels[:n_images]
            sizes = [size for size in BATCH_SIZES if size <= n_images and 8 * size >= n_images]
            runs = {}
            for size in sizes:
                batches = [images[start : start + size] for start in range(0, n_images, size)]
                runs[str(size)] = partial(run_session, predictor.session, batches)
            spent_s = time_in_turns(
                {"predict_images": partial(predictor.predict_images, images), **runs},
                rounds=20,
                runs_per_round=n_runs // 20,
            )
            median_us = {name: float(np.median(times)) * 1e6 for name, times in spent_s.items()}
            ours = median_us.pop("predict_images")
            best = min(median_us, key=median_us.__getitem__)
            print(
                f"{model}, {n_images:,} images: {ours:,.1f} us, session {median_us[best]:,.1f} us "
                f"at batch {best}, share {median_us[best] / ours:.3f}, n = {n_runs:,}"
            )


if __name__ == "__main__":
    main()
