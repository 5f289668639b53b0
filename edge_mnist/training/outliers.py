"""Outliers: images that do not show exactly one digit, for training a network to reject them.

A network that was trained on digits alone classifies everything as a digit, with high confidence.
Trained towards equal probabilities on these outliers, it is unsure of much else that is no digit.

Source: D. Hendrycks et al., Deep Anomaly Detection with Outlier Exposure, 2019.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge_mnist.errors import MissingPackageError
from edge_mnist.picture.digit import SIDE_PX, find_ink
from edge_mnist.picture.frame import frame_ink

# Without those that in some hand or font look like a digit: O D Q, I l J T, Z, S, B, G b q g y.
LETTERS = "ACEFHKLMNPRUVWXYacdefhkmnprtuvwx"
SYMBOLS = "+?!#&@%=*$<>{}~^"
CANVAS_PX = 64  # side of what is drawn, before it is framed
FONT_PX = 40
Images = NDArray[np.uint8]  # one image (H, W), or several (N, H, W)
Draw = Callable[[Images, np.random.Generator], Images]


def draw_outliers(digits: Images, n: int, *, seed: int) -> Images:
    """Draw outliers, framed as digits are.

    Args:
        digits: Images of digits, of which some outliers are composed, shape (N, 28, 28), uint8.
        n: How many to draw.
        seed: Equal seeds give equal images.

    Returns:
        Shape (n, 28, 28), uint8.

    Raises:
        MissingPackageError: matplotlib, whose fonts the letters are drawn in, is not installed.
    """
    generator = np.random.default_rng(seed)
    kinds: list[Draw] = [
        _draw_letter, _draw_letter, _draw_letter, _draw_symbol, _draw_scribble,
        _draw_several_digits, _draw_several_digits, _draw_noise, _draw_polygon,
        _draw_filled_ring, _draw_symbol, _crop_photograph,
    ]  # fmt: skip
    return np.stack([_frame(kinds[row % len(kinds)](digits, generator)) for row in range(n)])


def _draw_letter(_digits: Images, generator: np.random.Generator) -> Images:
    return _draw_text(str(generator.choice(list(LETTERS))), generator)


def _draw_symbol(_digits: Images, generator: np.random.Generator) -> Images:
    return _draw_text(str(generator.choice(list(SYMBOLS))), generator)


def _draw_text(text: str, generator: np.random.Generator) -> Images:
    """Draw text in a random font, slightly rotated."""
    fonts = _list_fonts()
    font = ImageFont.truetype(str(fonts[int(generator.integers(len(fonts)))]), FONT_PX)
    canvas = Image.new("L", (CANVAS_PX, CANVAS_PX))
    middle = (CANVAS_PX / 2, CANVAS_PX / 2)
    ImageDraw.Draw(canvas).text(middle, text, fill=255, font=font, anchor="mm")
    rotated = canvas.rotate(generator.uniform(-15, 15), Image.Resampling.BILINEAR)
    return np.asarray(rotated)


def _draw_scribble(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a closed curve that crosses itself."""
    canvas = Image.new("L", (CANVAS_PX, CANVAS_PX))
    angles = np.linspace(0, 2 * np.pi, 80)[:, np.newaxis]
    frequencies = np.arange(1, 6)  # whole ones close the curve, several make it cross itself
    phases, amplitudes = generator.uniform(0, 7, (2, 5)), generator.normal(0, 1, (2, 5))
    path = np.stack(
        [np.sin(angles * frequencies + phases[i]) @ amplitudes[i] for i in (0, 1)], axis=1
    )
    path = (path - path.min(axis=0)) / np.maximum(np.ptp(path, axis=0), 1e-6)
    points = [(float(x), float(y)) for x, y in path * (CANVAS_PX - 12) + 6]
    ImageDraw.Draw(canvas).line(points, fill=255, width=int(generator.integers(2, 6)))
    return np.asarray(canvas)


def _draw_several_digits(digits: Images, generator: np.random.Generator) -> Images:
    """Place two or three digits side by side."""
    chosen = digits[generator.integers(0, len(digits), int(generator.integers(2, 4)))]
    parts = [_crop(digit) for digit in chosen]
    gap = int(generator.integers(0, 5))
    width = sum(part.shape[1] for part in parts) + gap * (len(parts) - 1)
    row = np.zeros((SIDE_PX, width), np.uint8)
    left = 0
    for part in parts:
        top = int(generator.integers(0, SIDE_PX - part.shape[0] + 1))
        row[top : top + part.shape[0], left : left + part.shape[1]] = part
        left += part.shape[1] + gap
    return row


def _draw_noise(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw noise, coarse or fine, sparse or dense."""
    cells = int(generator.choice([4, 7, 14, 28]))
    density = generator.uniform(0.05, 0.7)
    noise = (generator.random((cells, cells)) < density) * generator.integers(80, 256)
    method = Image.Resampling(int(generator.integers(0, 4)))
    image = Image.fromarray(noise.astype(np.uint8)).resize((SIDE_PX, SIDE_PX), method)
    return np.asarray(image)


def _draw_polygon(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a polygon, filled or in outline, or a few straight lines."""
    canvas = Image.new("L", (CANVAS_PX, CANVAS_PX))
    draw, width = ImageDraw.Draw(canvas), int(generator.integers(2, 7))
    kind = generator.integers(0, 3)
    n_corners = int(generator.integers(3, 8)) if kind < 2 else int(generator.integers(6, 10))
    corners = generator.uniform(4, CANVAS_PX - 4, (n_corners, 2))
    points = [(float(x), float(y)) for x, y in corners]
    if kind == 0:
        draw.polygon(points, fill=255)
    elif kind == 1:
        draw.line([*points, points[0]], fill=255, width=width)
    else:
        for start, end in zip(points[:-1:2], points[1::2], strict=False):
            draw.line([start, end], fill=255, width=width)
    return np.asarray(canvas)


def _draw_filled_ring(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a ring with lines or dots inside, or one with a deep notch, like a heart."""
    canvas = Image.new("L", (CANVAS_PX, CANVAS_PX))
    draw, width = ImageDraw.Draw(canvas), int(generator.integers(2, 6))
    angles = np.linspace(0, 2 * np.pi, 40)
    depth = float(generator.choice([0.0, 0.5]))
    notch = depth * np.exp(-(((angles - np.pi / 2) / 0.5) ** 2))
    radius = 26 * (1 - notch)
    x, y = 32 + radius * np.cos(angles), 32 - radius * np.sin(angles) * generator.uniform(0.7, 1)
    draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255, width=width)
    # No fewer marks in a whole ring: with one stroke through it, it is a zero in many countries.
    for _ in range(int(generator.integers(0 if depth else 3, 5))):
        a, b = generator.uniform(16, 48, (2, 2)).tolist()
        if generator.random() < 0.5:
            draw.ellipse((a[0] - 3, a[1] - 3, a[0] + 3, a[1] + 3), fill=255)
        else:
            draw.line([(64 - b[0], 64 - b[1]), (b[0], b[1])], fill=255, width=width)
    return np.asarray(canvas)


def _crop_photograph(_digits: Images, generator: np.random.Generator) -> Images:
    """Crop a photograph at random, and take what is found as ink there."""
    photograph = _load_photographs()[int(generator.integers(2))]
    side = int(generator.integers(60, 400))
    top = int(generator.integers(0, photograph.shape[0] - side))
    left = int(generator.integers(0, photograph.shape[1] - side))
    ink = find_ink(np.ascontiguousarray(photograph[top : top + side, left : left + side]))
    return ink.levels if ink else np.zeros((SIDE_PX, SIDE_PX), np.uint8)


@functools.cache
def _load_photographs() -> list[Images]:
    """Load scikit-learn's two photographs, a temple and a flower, as grey levels."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    return [np.asarray(Image.fromarray(one).convert("L")) for one in photographs]


def _list_fonts() -> list[Path]:
    """List the text fonts that come with matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingPackageError(
            "outliers are drawn in matplotlib's fonts; install 'edge-mnist[train]', or train "
            "without outliers: --set outlier_share=0"
        ) from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for path in folder.glob("*.ttf") if path.name.startswith("DejaVu"))


def _crop(image: Images) -> Images:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _frame(ink: Images) -> Images:
    return frame_ink(ink) if ink.any() else np.zeros((SIDE_PX, SIDE_PX), np.uint8)
