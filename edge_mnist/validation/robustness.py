"""Fifteen ways in which a picture of a digit gets worse, for measuring how well a model bears it.

In the manner of N. Mu and J. Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, 2019,
written anew with numpy alone: the kinds and strengths are theirs as far as their paper tells, the
random numbers are not, so figures come near the published data's and do not repeat them.


How much of its accuracy a model keeps when pictures get worse.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.picture.frame import ModelInput, read_picture
from edge_mnist.predictor import Predictor

Images = NDArray[np.uint8]  # (N, 28, 28), 0 = background, 255 = full ink
Pixels = NDArray[Any]  # the same as floats in 0..1, or coordinates
Corruption = Callable[[Pixels, np.random.Generator], Pixels]

SIDE_PX = 28
CLOUD_SHARE = 2.5  # of fog, for one share of picture


def corrupt(images: Images, *, seed: int = 0) -> Iterator[tuple[str, Images]]:
    """Yield each corruption's name and the images it makes; equal seeds give equal images.

    Args:
        images: Shape (N, 28, 28), uint8.
        seed: Each corruption starts its random numbers from it anew.
    """
    pixels = images.astype(np.float32) / 255
    for number, (name, change) in enumerate(CORRUPTIONS.items()):
        changed = change(pixels, np.random.default_rng([seed, number]))
        yield name, np.round(np.clip(changed, 0, 1) * 255).astype(np.uint8)


def add_shot_noise(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Count few photons: noise where there is light."""
    photons = 5
    return (generator.poisson(pixels * photons) / photons).astype(np.float32)


def add_impulse_noise(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Set every sixth pixel to black or white."""
    level = generator.random(pixels.shape, np.float32)
    share = 0.17 / 2
    return np.where(level < share, 0, np.where(level > 1 - share, 1, pixels)).astype(np.float32)


def blur_by_glass(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Look through ground glass: swap each pixel with a neighbour, twice, between two blurs."""
    shaken = blur(pixels, 0.7)
    rows = np.arange(len(pixels))
    for _ in range(2):
        for y in range(SIDE_PX - 2, 1, -1):
            for x in range(SIDE_PX - 2, 1, -1):
                dy, dx = generator.integers(-1, 2, (2, len(pixels)))
                here, there = shaken[:, y, x].copy(), shaken[rows, y + dy, x + dx]
                shaken[:, y, x], shaken[rows, y + dy, x + dx] = there, here
    return blur(shaken, 0.7)


def blur_by_motion(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Move the camera by some pixels in a direction of its own for each image."""
    angle = np.radians(generator.uniform(-45, 45, (len(pixels), 1, 1))).astype(np.float32)
    y, x = places()
    steps = np.arange(-10, 11)
    weights = np.exp(-(steps**2) / (2 * 3.0**2))
    total = np.zeros_like(pixels)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        total += weight * sample(pixels, y + step * np.sin(angle), x + step * np.cos(angle))
    return total


def shear(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Slant to the left or to the right."""
    return warp(pixels, shear_x=0.4 * draw_signs(pixels, generator))


def scale(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Make smaller, to 0.7 of the side."""
    return warp(pixels, factor=0.7)


def rotate(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Turn by 0.4 radians, to the left or to the right."""
    return warp(pixels, angle_rad=0.4 * draw_signs(pixels, generator))


def brighten(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Lift black by half of white."""
    return pixels + np.float32(0.5)


def translate(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Move by three pixels, across and down."""
    y, x = places()
    dy, dx = 3 * draw_signs(pixels, generator), 3 * draw_signs(pixels, generator)
    return sample(pixels, y + dy, x + dx)


def add_stripe(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Turn ink and sheet round left and right of the middle."""
    changed = 1 - pixels
    changed[:, :, 7:21] = pixels[:, :, 7:21]
    return changed


def add_fog(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Mix with more clouds than light comes through."""
    clouds = np.stack([draw_clouds(generator) for _ in pixels])
    return np.asarray((pixels + CLOUD_SHARE * clouds) / (1 + CLOUD_SHARE))


def spatter(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Splash drops on the picture."""
    wet = blur(generator.normal(0.65, 0.3, pixels.shape).astype(np.float32), 1.2)
    drops = blur((wet > 0.76).astype(np.float32), 0.6)
    return np.maximum(pixels, 0.9 * np.clip(drops * 1.4, 0, 1))


def add_dotted_line(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Draw a dotted line from one side to the other."""
    return draw_line(pixels, generator, dash_px=4.0)


def add_zigzag(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Draw a zigzag line from one side to the other."""
    return draw_line(pixels, generator, tooth_px=6.0)


def keep_canny_edges(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Leave the outlines of the strokes, one pixel wide.

    Source: J. Canny, A Computational Approach to Edge Detection, 1986.
    """
    smooth = blur(pixels, 1.0)
    dy, dx = np.gradient(smooth, axis=(1, 2))
    slope = np.hypot(dy, dx)
    y, x = places()
    unit_y, unit_x = dy / np.maximum(slope, 1e-6), dx / np.maximum(slope, 1e-6)
    neighbours = [sample(slope, y + sign * unit_y, x + sign * unit_x) for sign in (-1, 1)]
    ridge = (slope >= neighbours[0]) & (slope >= neighbours[1])
    return np.asarray(ridge & (slope > 0.1), np.float32)


CORRUPTIONS: dict[str, Corruption] = {
    "shot_noise": add_shot_noise,
    "impulse_noise": add_impulse_noise,
    "glass_blur": blur_by_glass,
    "motion_blur": blur_by_motion,
    "shear": shear,
    "scale": scale,
    "rotate": rotate,
    "brightness": brighten,
    "translate": translate,
    "stripe": add_stripe,
    "fog": add_fog,
    "spatter": spatter,
    "dotted_line": add_dotted_line,
    "zigzag": add_zigzag,
    "canny_edges": keep_canny_edges,
}


def places() -> tuple[Pixels, Pixels]:
    """Return every pixel's row and column, each of shape (28, 28)."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32)
    return y, x


def draw_signs(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Draw -1 or 1 for each image, shape (N, 1, 1)."""
    return generator.choice(np.array([-1.0, 1.0]), (len(pixels), 1, 1))


def sample(pixels: Pixels, y: Pixels, x: Pixels) -> Pixels:
    """Read images at places between pixels, bilinearly; outside they are 0.

    Args:
        pixels: Shape (N, 28, 28).
        y: Rows, of a shape that broadcasts to (N, 28, 28).
        x: Columns, likewise.
    """
    padded = np.pad(pixels, ((0, 0), (1, 2), (1, 2)))
    y, x = (np.clip(np.broadcast_to(side, pixels.shape) + 1, 0, SIDE_PX + 1) for side in (y, x))
    top, left = y.astype(int), x.astype(int)
    low, right = y - top, x - left
    images = np.arange(len(pixels))[:, np.newaxis, np.newaxis]
    upper = padded[images, top, left] * (1 - right) + padded[images, top, left + 1] * right
    lower = padded[images, top + 1, left] * (1 - right) + padded[images, top + 1, left + 1] * right
    return np.asarray(upper * (1 - low) + lower * low, np.float32)


def warp(
    pixels: Pixels,
    *,
    angle_rad: Pixels | float = 0.0,
    shear_x: Pixels | float = 0.0,
    factor: float = 1.0,
) -> Pixels:
    """Turn, slant and scale about the middle."""
    y, x = (place - (SIDE_PX - 1) / 2 for place in places())
    x = x + shear_x * y
    cos, sin = np.cos(angle_rad) / factor, np.sin(angle_rad) / factor
    middle = (SIDE_PX - 1) / 2
    rows, columns = y * cos - x * sin + middle, x * cos + y * sin + middle
    return sample(pixels, np.asarray(rows, np.float32), np.asarray(columns, np.float32))


def blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Blur with a Gaussian."""
    reach = int(4 * sigma_px + 0.5)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (1, 2):
        padding = [(0, 0)] * 3
        padding[axis] = (reach, reach)
        padded = np.pad(pixels, padding, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
        pixels = windows @ kernel
    return pixels


def draw_clouds(generator: np.random.Generator) -> Pixels:
    """Draw clouds, shape (28, 28), 0..1, by the diamond-square way: midpoints moved at random."""
    side, wobble = 4, 1.0
    clouds = generator.random((side, side))
    while side < 2 * SIDE_PX:
        side *= 2
        wobble /= 1.5
        rows = np.linspace(0, len(clouds) - 1, side)
        grid = np.array([np.interp(rows, np.arange(len(clouds)), line) for line in clouds])
        grid = np.array([np.interp(rows, np.arange(len(clouds)), line) for line in grid.T]).T
        clouds = grid + wobble * generator.uniform(-0.5, 0.5, grid.shape)
    clouds = clouds[:SIDE_PX, :SIDE_PX] - clouds.min()
    return np.asarray(clouds / max(float(clouds.max()), 1e-6), np.float32)


def draw_line(
    pixels: Pixels, generator: np.random.Generator, *, dash_px: float = 0.0, tooth_px: float = 0.0
) -> Pixels:
    """Draw a bright line across each image, about one pixel wide."""
    start, end = generator.uniform(4, SIDE_PX - 4, (2, len(pixels), 1, 1)).astype(np.float32)
    y, x = places()
    middle = start + (end - start) * x / SIDE_PX
    if tooth_px:
        middle = middle + tooth_px * (np.abs((x / tooth_px) % 2 - 1) - 0.5)
    line = np.clip(1.2 - np.abs(y - middle), 0, 1)
    if dash_px:
        line = line * ((x % dash_px) < dash_px / 2)
    return np.asarray(np.maximum(pixels, line), np.float32)


N_IMAGES = 1000  # of the test set; all fifteen kinds, read as pictures too, take half a minute


@dataclass(frozen=True)
class Robustness:
    """Accuracy under each corruption, as fractions; see ``edge_mnist.validation.robustness``.

    Attributes:
        n_images: Test images, each corrupted in every way.
        images: Share read right of the corrupted images as they are, by corruption.
        images_mean: Mean of those.
        pictures: Share read right when each is taken for a picture and brought to MNIST's form
            first; a rejected one counts as wrong. None if not measured.
        pictures_mean: Mean of those.
    """

    n_images: int
    images: dict[str, float]
    images_mean: float
    pictures: dict[str, float] | None
    pictures_mean: float | None


def measure_robustness(
    predictors: Sequence[Predictor],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    as_pictures: bool = True,
    seed: int = 0,
) -> list[Robustness]:
    """Measure several models on the same corrupted images.

    Args:
        predictors: Open models of one data set.
        images: Shape (N, 28, 28), uint8; the first ``N_IMAGES`` are used.
        labels: True classes, shape (N,).
        as_pictures: Measure them taken for pictures too; twenty times as slow.
        seed: Of the corruptions.
    """
    images, labels = images[:N_IMAGES], labels[:N_IMAGES]
    framing = predictors[0].info.framing
    plain: list[dict[str, float]] = [{} for _ in predictors]
    framed: list[dict[str, float]] = [{} for _ in predictors]
    for name, corrupted in corrupt(images, seed=seed):
        inputs = [read_picture(one, framing=framing) for one in corrupted] if as_pictures else []
        for row, predictor in enumerate(predictors):
            plain[row][name] = _share_right(predictor, corrupted, labels)
            if as_pictures:
                framed[row][name] = _share_right_of_inputs(predictor, inputs, labels)
    return [
        Robustness(
            n_images=len(images),
            images=by_name,
            images_mean=float(np.mean(list(by_name.values()))),
            pictures=as_seen or None,
            pictures_mean=float(np.mean(list(as_seen.values()))) if as_seen else None,
        )
        for by_name, as_seen in zip(plain, framed, strict=True)
    ]


def _share_right(
    predictor: Predictor, images: NDArray[np.uint8], labels: NDArray[np.int64]
) -> float:
    predicted, _ = predictor.predict_images(images)
    return float((predicted == labels).mean())


def _share_right_of_inputs(
    predictor: Predictor, inputs: Sequence[ModelInput], labels: NDArray[np.int64]
) -> float:
    predicted, probabilities = predictor.predict_images(np.stack([one.image for one in inputs]))
    accepted = np.array([one.reason is None for one in inputs])
    accepted &= probabilities.max(axis=1) >= predictor.info.rejection_threshold
    return float(((predicted == labels) & accepted).mean())
