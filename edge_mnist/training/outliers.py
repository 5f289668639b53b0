"""Images that show no single digit: letters, signs, scribbles, several digits, noise.

A network that saw only digits answers everything with a digit, and is sure of it. Trained to be
unsure of these, it is unsure of much else that is no digit.

Source: D. Hendrycks et al., Deep Anomaly Detection with Outlier Exposure, 2019.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edge_mnist.picture.digit import find_ink
from edge_mnist.picture.frame import frame_ink

# Without those that some hand or font draws like a digit: O D Q, I l J T, Z, S, B, G b q g y.
LETTERS = "ACEFHKLMNPRUVWXYacdefhkmnprtuvwx"
SIGNS = "+?!#&@%=*$<>{}~^"
SHEET_PX = 64
Images = NDArray[np.uint8]
Maker = Callable[[Images, np.random.Generator], Images]


def draw_outliers(digits: Images, n: int, *, seed: int) -> Images:
    """Draw images that show no single digit, framed as digits are.

    Args:
        digits: Images of digits to make some of them from, shape (N, 28, 28), uint8.
        n: How many to draw.
        seed: Equal seeds give equal images.

    Returns:
        Shape (n, 28, 28), uint8.
    """
    generator = np.random.default_rng(seed)
    makers: list[Maker] = [
        draw_letter, draw_letter, draw_letter, draw_sign, draw_scribble,
        put_side_by_side, put_side_by_side, draw_noise, draw_shape,
        draw_filled_ring, draw_sign, cut_photograph,
    ]  # fmt: skip
    return np.stack([_frame(makers[row % len(makers)](digits, generator)) for row in range(n)])


def draw_letter(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a letter in some font."""
    return _draw_text(str(generator.choice(list(LETTERS))), generator)


def draw_sign(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a punctuation mark or the like in some font."""
    return _draw_text(str(generator.choice(list(SIGNS))), generator)


def draw_scribble(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a line that wanders and crosses itself."""
    sheet = Image.new("L", (SHEET_PX, SHEET_PX))
    turns = np.linspace(0, 2 * np.pi, 80)[:, np.newaxis]
    waves = np.arange(1, 6)  # a sum of waves comes back to itself, and crosses itself on the way
    phases, sizes = generator.uniform(0, 7, (2, 5)), generator.normal(0, 1, (2, 5))
    path = np.stack([np.sin(turns * waves + phases[i]) @ sizes[i] for i in (0, 1)], axis=1)
    path = (path - path.min(axis=0)) / np.maximum(np.ptp(path, axis=0), 1e-6)
    points = [(float(x), float(y)) for x, y in path * (SHEET_PX - 12) + 6]
    ImageDraw.Draw(sheet).line(points, fill=255, width=int(generator.integers(2, 6)))
    return np.asarray(sheet)


def put_side_by_side(digits: Images, generator: np.random.Generator) -> Images:
    """Put two or three digits next to each other."""
    chosen = digits[generator.integers(0, len(digits), int(generator.integers(2, 4)))]
    parts = [_crop(digit) for digit in chosen]
    gap = int(generator.integers(0, 5))
    width, height = sum(part.shape[1] for part in parts) + gap * (len(parts) - 1), 28
    row = np.zeros((height, width), np.uint8)
    left = 0
    for part in parts:
        top = int(generator.integers(0, height - part.shape[0] + 1))
        row[top : top + part.shape[0], left : left + part.shape[1]] = part
        left += part.shape[1] + gap
    return row


def draw_noise(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw noise, coarse or fine, sparse or dense."""
    cells = int(generator.choice([4, 7, 14, 28]))
    level = generator.uniform(0.05, 0.7)
    noise = (generator.random((cells, cells)) < level) * generator.integers(80, 256)
    method = Image.Resampling(int(generator.integers(0, 4)))
    return np.asarray(Image.fromarray(noise.astype(np.uint8)).resize((28, 28), method))


def draw_shape(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a polygon, hollow or full, or a few straight lines."""
    sheet = Image.new("L", (SHEET_PX, SHEET_PX))
    pen, width = ImageDraw.Draw(sheet), int(generator.integers(2, 7))
    kind = generator.integers(0, 3)
    n_corners = int(generator.integers(3, 8)) if kind < 2 else int(generator.integers(6, 10))
    corners = generator.uniform(4, SHEET_PX - 4, (n_corners, 2))
    points = [(float(x), float(y)) for x, y in corners]
    if kind == 0:
        pen.polygon(points, fill=255)
    elif kind == 1:
        pen.line([*points, points[0]], fill=255, width=width)
    else:
        for start, end in zip(points[:-1:2], points[1::2], strict=False):
            pen.line([start, end], fill=255, width=width)
    return np.asarray(sheet)


def draw_filled_ring(_digits: Images, generator: np.random.Generator) -> Images:
    """Draw a ring with strokes or dots inside, or one with a deep dent, like a heart."""
    sheet = Image.new("L", (SHEET_PX, SHEET_PX))
    pen, width = ImageDraw.Draw(sheet), int(generator.integers(2, 6))
    angles = np.linspace(0, 2 * np.pi, 40)
    depth = float(generator.choice([0.0, 0.5]))
    dent = depth * np.exp(-(((angles - np.pi / 2) / 0.5) ** 2))
    radius = 26 * (1 - dent)
    x, y = 32 + radius * np.cos(angles), 32 - radius * np.sin(angles) * generator.uniform(0.7, 1)
    pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255, width=width)
    for _ in range(int(generator.integers(0 if depth else 2, 5))):
        a, b = generator.uniform(16, 48, (2, 2)).tolist()
        if generator.random() < 0.5:
            pen.ellipse((a[0] - 3, a[1] - 3, a[0] + 3, a[1] + 3), fill=255)
        else:
            pen.line([(64 - b[0], 64 - b[1]), (b[0], b[1])], fill=255, width=width)
    return np.asarray(sheet)


def cut_photograph(_digits: Images, generator: np.random.Generator) -> Images:
    """Cut a piece out of a photograph and take what stands out there for ink."""
    photograph = _load_photographs()[int(generator.integers(2))]
    side = int(generator.integers(60, 400))
    top = int(generator.integers(0, photograph.shape[0] - side))
    left = int(generator.integers(0, photograph.shape[1] - side))
    found = find_ink(np.ascontiguousarray(photograph[top : top + side, left : left + side]))
    return found.levels if found else np.zeros((28, 28), np.uint8)


@functools.cache
def _load_photographs() -> list[Images]:
    """Load scikit-learn's two photographs, a temple and a flower, as grey levels."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    return [np.asarray(Image.fromarray(one).convert("L")) for one in photographs]


def list_fonts() -> list[Path]:
    """List the text fonts that come with matplotlib."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for path in folder.glob("*.ttf") if path.name.startswith("DejaVu"))


def _draw_text(text: str, generator: np.random.Generator) -> Images:
    fonts = list_fonts()
    font = ImageFont.truetype(str(fonts[int(generator.integers(len(fonts)))]), 40)
    sheet = Image.new("L", (SHEET_PX, SHEET_PX))
    place = (SHEET_PX / 2, SHEET_PX / 2)
    ImageDraw.Draw(sheet).text(place, text, fill=255, font=font, anchor="mm")
    turned = sheet.rotate(generator.uniform(-15, 15), Image.Resampling.BILINEAR)
    return np.asarray(turned)


def _crop(image: Images) -> Images:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _frame(ink: Images) -> Images:
    return frame_ink(ink) if ink.any() else np.zeros((28, 28), np.uint8)
