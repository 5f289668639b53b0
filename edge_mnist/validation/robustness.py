"""How much of its accuracy a model keeps on corrupted images: fifteen corruptions, after MNIST-C.

Names, kinds and severities are those of N. Mu and J. Gilmer, MNIST-C: A Robustness Benchmark for
Computer Vision, 2019, as far as the paper states them. They are implemented anew with NumPy alone
and with random numbers of their own: figures come near those on the published images, but do not
repeat them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.picture import ModelInput, read_picture
from edge_mnist.picture.digit import SIDE_PX
from edge_mnist.predictor import Predictor

Images = NDArray[np.uint8]  # (N, 28, 28), 0 = background, 255 = full ink
Pixels = NDArray[Any]  # the same as floats in 0..1; or coordinates, in pixels
Corruption = Callable[[Pixels, np.random.Generator], Pixels]

N_IMAGES = 1000  # of the test set; with all corruptions, read as pictures too, half a minute


@dataclass(frozen=True)
class Robustness:
    """Accuracy under each corruption, as fractions.

    Attributes:
        n_images: Test images, each corrupted in every way.
        images: Accuracy on the corrupted images as they are, by corruption.
        images_mean: Mean of those.
        pictures: Accuracy where each corrupted image is read as a picture, which frames it anew;
            a rejected one counts as wrong. None if not measured.
        pictures_mean: Mean of those.
    """

    n_images: int
    images: dict[str, float]
    images_mean: float
    pictures: dict[str, float] | None
    pictures_mean: float | None


def measure_robustness(
    predictors: Sequence[Predictor],
    images: Images,
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
        as_pictures: Also measure them read as pictures; twenty times as slow.
        seed: Of the corruptions.
    """
    images, labels = images[:N_IMAGES], labels[:N_IMAGES]
    framing = predictors[0].info.framing
    plain: list[dict[str, float]] = [{} for _ in predictors]
    framed: list[dict[str, float]] = [{} for _ in predictors]
    for name, corrupted in corrupt(images, seed=seed):
        inputs = [read_picture(one, framing=framing) for one in corrupted] if as_pictures else []
        for row, predictor in enumerate(predictors):
            predicted_labels, _ = predictor.predict_images(corrupted)
            plain[row][name] = float((predicted_labels == labels).mean())
            if as_pictures:
                framed[row][name] = _measure_accepted(predictor, inputs, labels)
    return [
        Robustness(
            n_images=len(images),
            images=of_images,
            images_mean=float(np.mean(list(of_images.values()))),
            pictures=of_pictures or None,
            pictures_mean=float(np.mean(list(of_pictures.values()))) if of_pictures else None,
        )
        for of_images, of_pictures in zip(plain, framed, strict=True)
    ]


def corrupt(images: Images, *, seed: int = 0) -> Iterator[tuple[str, Images]]:
    """Yield each corruption's name and the corrupted images; equal seeds give equal images.

    Args:
        images: Shape (N, 28, 28), uint8.
        seed: Every corruption has a generator of its own, seeded with it.
    """
    pixels = images.astype(np.float32) / 255
    for number, (name, corruption) in enumerate(CORRUPTIONS.items()):
        corrupted = corruption(pixels, np.random.default_rng([seed, number]))
        yield name, np.round(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


def shot_noise(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Poisson noise of a sensor that counts few photons."""
    n_photons = 5  # of full ink
    return (generator.poisson(pixels * n_photons) / n_photons).astype(np.float32)


def impulse_noise(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Salt-and-pepper noise on 17 % of the pixels."""
    level = generator.random(pixels.shape, np.float32)
    share = 0.17 / 2
    return np.where(level < share, 0, np.where(level > 1 - share, 1, pixels)).astype(np.float32)


def glass_blur(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Frosted glass: swap each pixel with a random neighbour, twice, between two blurs."""
    swapped = _gaussian_blur(pixels, 0.7)
    rows = np.arange(len(pixels))
    for _ in range(2):
        for y in range(SIDE_PX - 2, 1, -1):
            for x in range(SIDE_PX - 2, 1, -1):
                dy, dx = generator.integers(-1, 2, (2, len(pixels)))
                here, there = swapped[:, y, x].copy(), swapped[rows, y + dy, x + dx]
                swapped[:, y, x], swapped[rows, y + dy, x + dx] = there, here
    return _gaussian_blur(swapped, 0.7)


def motion_blur(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Blur along a line, in a random direction for each image."""
    angle = np.radians(generator.uniform(-45, 45, (len(pixels), 1, 1))).astype(np.float32)
    y, x = _coordinates()
    steps = np.arange(-10, 11)
    weights = np.exp(-(steps**2) / (2 * 3.0**2))
    blurred = np.zeros_like(pixels)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        blurred += weight * _sample(pixels, y + step * np.sin(angle), x + step * np.cos(angle))
    return blurred


def shear(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Shear along x, to the left or to the right."""
    return _warp_affine(pixels, shear_x=0.4 * _random_signs(pixels, generator))


def scale(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Scale down to 0.7 of the side."""
    return _warp_affine(pixels, factor=0.7)


def rotate(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Rotate by 0.4 radians, to the left or to the right."""
    return _warp_affine(pixels, angle_rad=0.4 * _random_signs(pixels, generator))


def brightness(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Add half of the full range to every pixel."""
    return pixels + np.float32(0.5)


def translate(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Shift by three pixels along both axes."""
    y, x = _coordinates()
    dy, dx = 3 * _random_signs(pixels, generator), 3 * _random_signs(pixels, generator)
    return _sample(pixels, y + dy, x + dx)


def stripe(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Invert all but the middle columns."""
    inverted = 1 - pixels
    inverted[:, :, 7:21] = pixels[:, :, 7:21]
    return inverted


def fog(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Blend with a plasma fractal that outweighs the image."""
    weight = 2.5
    clouds = np.stack([_plasma_fractal(generator) for _ in pixels])
    return np.asarray((pixels + weight * clouds) / (1 + weight))


def spatter(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Add bright drops: blurred noise above a threshold."""
    noise = generator.normal(0.65, 0.3, pixels.shape).astype(np.float32)
    drops = (_gaussian_blur(noise, 1.2) > 0.76).astype(np.float32)
    return np.maximum(pixels, 0.9 * np.clip(_gaussian_blur(drops, 0.6) * 1.4, 0, 1))


def dotted_line(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Add a dotted line from one side to the other."""
    return _add_line(pixels, generator, dash_period_px=4.0)


def zigzag(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Add a zigzag line from one side to the other."""
    return _add_line(pixels, generator, tooth_px=6.0)


def canny_edges(pixels: Pixels, _generator: np.random.Generator) -> Pixels:
    """Keep the edges of the strokes only, thinned by non-maximum suppression.

    Source: J. Canny, A Computational Approach to Edge Detection, 1986.
    """
    dy, dx = np.gradient(_gaussian_blur(pixels, 1.0), axis=(1, 2))
    magnitude = np.hypot(dy, dx)
    y, x = _coordinates()
    unit_y, unit_x = dy / np.maximum(magnitude, 1e-6), dx / np.maximum(magnitude, 1e-6)
    before, after = (_sample(magnitude, y + sign * unit_y, x + sign * unit_x) for sign in (-1, 1))
    edges = (magnitude >= before) & (magnitude >= after) & (magnitude > 0.1)
    return np.asarray(edges, np.float32)


# In the order that numbers their generators.
CORRUPTIONS: dict[str, Corruption] = {
    corruption.__name__: corruption
    for corruption in (
        shot_noise, impulse_noise, glass_blur, motion_blur, shear, scale, rotate, brightness,
        translate, stripe, fog, spatter, dotted_line, zigzag, canny_edges,
    )
}  # fmt: skip


def _measure_accepted(
    predictor: Predictor, inputs: Sequence[ModelInput], labels: NDArray[np.int64]
) -> float:
    """Return the share of pictures that are accepted and classified correctly."""
    predicted_labels, probabilities = predictor.predict_images(
        np.stack([model_input.image for model_input in inputs])
    )
    accepted = np.array([model_input.reason is None for model_input in inputs])
    accepted &= probabilities.max(axis=1) >= predictor.info.rejection_threshold
    return float(((predicted_labels == labels) & accepted).mean())


def _coordinates() -> tuple[Pixels, Pixels]:
    """Return every pixel's row and column, each of shape (28, 28)."""
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX].astype(np.float32)
    return y, x


def _random_signs(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Draw -1 or 1 for each image, shape (N, 1, 1)."""
    return generator.choice(np.array([-1.0, 1.0]), (len(pixels), 1, 1))


def _sample(pixels: Pixels, y: Pixels, x: Pixels) -> Pixels:
    """Sample images at given coordinates by bilinear interpolation; outside they are 0.

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


def _warp_affine(
    pixels: Pixels,
    *,
    angle_rad: Pixels | float = 0.0,
    shear_x: Pixels | float = 0.0,
    factor: float = 1.0,
) -> Pixels:
    """Rotate, shear and scale images about their middle."""
    middle = (SIDE_PX - 1) / 2
    y, x = (coordinate - middle for coordinate in _coordinates())
    x = x + shear_x * y
    cos, sin = np.cos(angle_rad) / factor, np.sin(angle_rad) / factor
    rows, columns = y * cos - x * sin + middle, x * cos + y * sin + middle
    return _sample(pixels, np.asarray(rows, np.float32), np.asarray(columns, np.float32))


def _gaussian_blur(pixels: Pixels, sigma_px: float) -> Pixels:
    """Blur with a Gaussian kernel; the border is continued outwards."""
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


def _plasma_fractal(generator: np.random.Generator) -> Pixels:
    """Draw a cloud texture, shape (28, 28), 0..1: finer and finer noise of less and less weight."""
    side, roughness = 4, 1.0
    clouds = generator.random((side, side))
    while side < 2 * SIDE_PX:
        side *= 2
        roughness /= 1.5
        rows = np.linspace(0, len(clouds) - 1, side)
        grid = np.array([np.interp(rows, np.arange(len(clouds)), line) for line in clouds])
        grid = np.array([np.interp(rows, np.arange(len(clouds)), line) for line in grid.T]).T
        clouds = grid + roughness * generator.uniform(-0.5, 0.5, grid.shape)
    clouds = clouds[:SIDE_PX, :SIDE_PX] - clouds.min()
    return np.asarray(clouds / max(float(clouds.max()), 1e-6), np.float32)


def _add_line(
    pixels: Pixels,
    generator: np.random.Generator,
    *,
    dash_period_px: float = 0.0,
    tooth_px: float = 0.0,
) -> Pixels:
    """Add a bright line across each image, about one pixel wide."""
    start, end = generator.uniform(4, SIDE_PX - 4, (2, len(pixels), 1, 1)).astype(np.float32)
    y, x = _coordinates()
    line_y = start + (end - start) * x / SIDE_PX
    if tooth_px:
        line_y = line_y + tooth_px * (np.abs((x / tooth_px) % 2 - 1) - 0.5)
    line = np.clip(1.2 - np.abs(y - line_y), 0, 1)
    if dash_period_px:
        line = line * ((x % dash_period_px) < dash_period_px / 2)
    return np.asarray(np.maximum(pixels, line), np.float32)
