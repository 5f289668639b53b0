"""Time the two readers of pictures, compiled and NumPy's, in turns within one process.

``Predictor.predict`` of an uncentred drawing of 28 x 28 and of arrays of 400 x 400, with each
reader; of a JPEG of 12 megapixels against decoding it in full with Pillow.

    python benchmarks/time_readers.py
"""

import io
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_mnist import Predictor
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.picture import READERS
from edge_mnist.validation.timing import time_in_turns


def draw_pictures() -> dict[str, NDArray[np.uint8]]:
    """Draw the arrays that are read, by name."""
    generator = np.random.default_rng(0)
    small = np.full((28, 28), 255, np.uint8)
    small[3:21, 8:26] = draw_digit(3, generator).resize((18, 18))
    drawing = np.asarray(draw_digit(5, generator).resize((400, 400)))
    x, y = np.meshgrid(np.arange(400), np.arange(400))
    light = 1 - 0.45 / (1 + np.exp((x + 0.5 * y - 300) / 12))
    noisy = (drawing * 0.6 + 60) * light + generator.normal(0, 4, drawing.shape)
    photo = np.clip(noisy, 0, 255).astype(np.uint8)
    return {"28 x 28": small, "400 x 400": drawing, "photo, 400 x 400": photo}


def draw_jpeg() -> bytes:
    """Draw a photo of 12 megapixels."""
    sheet = draw_digit(5, np.random.default_rng(0)).resize((4000, 3000)).convert("RGB")
    noise = np.random.default_rng(1).integers(-8, 9, (3000, 4000, 3))
    buffer = io.BytesIO()
    levels = np.clip(np.asarray(sheet, np.int16) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(levels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decode(content: bytes) -> None:
    """Decode a file in full."""
    Image.open(io.BytesIO(content)).load()


def main() -> None:
    """Measure and print."""
    predictors = {reader: Predictor(reader=reader) for reader in READERS}
    for name, picture in draw_pictures().items():
        runs = {one: partial(predictors[one].predict, picture) for one in READERS}
        spent_s = time_in_turns(runs, rounds=9, runs_per_round=20)
        compiled, numpy = (1000 * float(np.median(spent_s[reader])) for reader in READERS)
        print(f"{name}: compiled {compiled:.3f} ms, numpy {numpy:.2f} ms: {numpy / compiled:.1f}")
    content = draw_jpeg()
    runs = {one: partial(predictors[one].predict, content) for one in READERS}
    runs["decode"] = partial(decode, content)
    spent_s = time_in_turns(runs, rounds=7, runs_per_round=1)
    medians = {name: float(np.median(times)) for name, times in spent_s.items()}
    for reader in READERS:
        share = medians[reader] / medians["decode"]
        print(f"JPEG, 12 megapixels: {reader} {share:.2f} of decoding it in full")


if __name__ == "__main__":
    main()
