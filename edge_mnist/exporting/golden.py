"""Golden images: digits drawn by this project; their logits travel with a model as reference."""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edge_mnist.picture.frame import frame_ink

N_GOLDEN = 100
SEED = 7
Point = tuple[float, float]


def _arc(center: Point, radii: Point, start_deg: float, end_deg: float) -> list[Point]:
    """Return points along an ellipse; 0 degrees is right, 90 is down, as in a picture."""
    angles = np.radians(np.linspace(start_deg, end_deg, 24))
    x, y = center[0] + radii[0] * np.cos(angles), center[1] + radii[1] * np.sin(angles)
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


# Each digit as strokes in a box of 1 x 1, the way a pen would go.
STROKES: dict[int, list[list[Point]]] = {
    0: [_arc((0.5, 0.5), (0.3, 0.46), -90, 270)],
    1: [[(0.36, 0.2), (0.52, 0.04), (0.5, 0.96)]],
    2: [[*_arc((0.48, 0.28), (0.28, 0.24), 190, 380), (0.2, 0.95), (0.84, 0.93)]],
    3: [_arc((0.45, 0.27), (0.27, 0.22), 200, 440), _arc((0.45, 0.71), (0.32, 0.25), -85, 160)],
    4: [[(0.32, 0.06), (0.16, 0.6), (0.82, 0.58)], [(0.66, 0.24), (0.62, 0.97)]],
    5: [
        [(0.78, 0.06), (0.32, 0.08), (0.26, 0.45), *_arc((0.46, 0.67), (0.32, 0.27), -120, 150)],
    ],
    6: [[(0.62, 0.04), (0.36, 0.32), *_arc((0.48, 0.7), (0.27, 0.25), 190, 550)]],
    7: [[(0.16, 0.1), (0.82, 0.08), (0.44, 0.96)]],
    8: [_arc((0.5, 0.27), (0.23, 0.22), 90, 450), _arc((0.5, 0.73), (0.28, 0.24), -90, 270)],
    9: [_arc((0.48, 0.3), (0.27, 0.25), 0, 360), [(0.75, 0.3), (0.72, 0.6), (0.6, 0.96)]],
}


def draw_digit(digit: int, generator: np.random.Generator, *, side_px: int = 160) -> Image.Image:
    """Draw a digit in black on a white sheet, by a slightly different hand every time.

    Args:
        digit: 0..9.
        generator: Source of slant, proportions, size, place and thickness of the pen.
        side_px: Width and height of the sheet.

    Returns:
        A grey picture, mode ``L``.
    """
    hand = _draw_hand(generator)
    size = side_px * generator.uniform(0.5, 0.75)
    corner = generator.uniform(0.1, 0.9, 2) * (side_px - size)
    width = max(1, round(size * generator.uniform(0.06, 0.13)))
    sheet = Image.new("L", (side_px, side_px), 255)
    pen = ImageDraw.Draw(sheet)
    for stroke in STROKES[digit]:
        points = (np.array(stroke) - 0.5) @ hand.T + 0.5
        places = [(float(x), float(y)) for x, y in points * size + corner]
        pen.line(places, fill=0, width=width, joint="curve")
        for x, y in (places[0], places[-1]):  # a pen has a round tip
            radius = width / 2
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return sheet


def draw_golden_images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the golden images: ten hands for each digit, the same every time.

    Returns:
        Images, shape (100, 28, 28), uint8, and the digits drawn, shape (100,), int64.
    """
    generator = np.random.default_rng(SEED)
    labels = np.arange(N_GOLDEN, dtype=np.int64) % 10
    sheets = [np.asarray(draw_digit(int(label), generator)) for label in labels]
    return np.stack([frame_ink(255 - sheet) for sheet in sheets]), labels


def hash_images(images: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of images' bytes, hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()


def _draw_hand(generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw a person's slant and proportions: a 2 x 2 matrix."""
    angle, slant = math.radians(generator.uniform(-10, 10)), generator.uniform(-0.25, 0.1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1.0, slant], [0.0, 1.0]])
    stretch = np.diag(generator.uniform((0.75, 0.9), (1.1, 1.1)))
    return np.asarray(turn @ shear @ stretch)
