"""Pen strokes to images in MNIST's form, each time with another pen, and MNIST in thin strokes.

A character is bent a little, as its writer might have written it another day, drawn large with some
pen, and framed by the same code as a user's picture. A part is drawn as in a paint program, aliased
and with a pen of a pixel or two, and goes all the way through ``read_picture``.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from edge_mnist.errors import UsageError
from edge_mnist.picture import read_picture
from edge_mnist.picture.digit import (
    BOX_PX,
    MIN_STROKE_PERCENT,
    PHOTO_SIDE_PX,
    SIDE_PX,
    thicken_strokes,
)
from edge_mnist.picture.frame import frame_ink
from edge_mnist.training.unipen import Characters, Rows, expand_ranges

DIGITS = frozenset("0123456789")
# What a person takes for a digit in some hand, judged by sheets of 36 drawings of each label.
DIGIT_LIKE = frozenset(
    "ODQo"  # 0; a slashed or dotted 0 is labelled 0, and is one
    "IiJjl|/\\'`,()"  # 1, leaning either way, or bent
    "Zz"  # 2, as are some Q
    "}{"  # 3, or 1 where it is drawn flat
    "y"  # 4 that is open at the top, or 9
    "Ss"  # 5
    "Gb"  # 6
    "T]"  # 7, and 1 with a flag and a base line
    "B&"  # 8
    "gq"  # 9
    "."  # anything: a dot as large as a digit is as the pen happened to tremble
)
CHUNK = 1024  # characters that are bent together; small enough for a processor's cache
FULL = 255
PEN_MIN, PEN_MAX = 0.012, 0.2  # of the longer side: a hair line, a marker; MNIST's are 0.1 to 0.2
MNIST_INK = 0.5  # of full ink: where the edge of MNIST's strokes is

Images = NDArray[np.uint8]
Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


def is_outlier(label: str) -> bool:
    """Tell whether what has that label surely is no digit.

    Neither digits nor outliers are the letters and signs that a person would take for a digit when
    one of them stands alone, with no line of writing to compare it with.

    Args:
        label: One letter, sign or digit.
    """
    return label not in DIGITS | DIGIT_LIKE


def render_characters(
    characters: Characters,
    indices: Rows,
    generator: np.random.Generator,
    *,
    paint_share: float = 0.08,
    coarse_share: float = 0.0,
    bending: float = 1.0,
) -> Images:
    """Draw characters in MNIST's form, every time a little differently.

    Args:
        characters: Pen strokes.
        indices: Which of them, shape (N,); one may occur several times.
        generator: Equal generators give equal images.
        paint_share: Share of the images that are drawn as in a paint program, 0..1.
        coarse_share: Share of the other images that are as in a scan of few pixels, 0..1.
        bending: How much characters are bent, slanted and jittered; 0 draws them as written.

    Returns:
        Shape (N, 28, 28), uint8, 0 = background, 255 = full ink.

    Raises:
        UsageError: A share is not within 0..1, or ``bending`` is negative.
    """
    if not (0 <= paint_share <= 1 and 0 <= coarse_share <= 1) or bending < 0:
        raise UsageError(
            "expected shares from 0 to 1 and bending of 0 or more, got "
            f"paint_share={paint_share}, coarse_share={coarse_share} and bending={bending}"
        )
    images = np.zeros((len(indices), SIDE_PX, SIDE_PX), np.uint8)
    for start in range(0, len(indices), CHUNK):
        rows = np.asarray(indices[start : start + CHUNK], np.int64)
        is_painted = generator.random(len(rows)) < paint_share
        # No numbers are drawn without it, so that older renderings stay as they were.
        is_coarse = (
            generator.random(len(rows)) < coarse_share
            if coarse_share
            else np.zeros(len(rows), np.bool_)
        )
        sketches = _bend(characters, rows, generator, bending)
        for place, sketch in enumerate(sketches, start):
            row = place - start
            if is_painted[row]:
                images[place] = _paint(sketch, generator)
            else:
                images[place] = _draw(sketch, generator, coarse=bool(is_coarse[row]))
    return images


@dataclass(frozen=True)
class _Sketch:
    """One character, ready to be drawn.

    Attributes:
        strokes: x and y of each stroke in turn, x0, y0, x1, y1, ..; the whole has its upper left
            corner at 0, 0 and a longer side of 1, if it is no dot.
        pressures: For each stroke and each of its points, about 1.
        width: Extent in x, at most 1.
        height: Extent in y, at most 1.
    """

    strokes: list[list[float]]
    pressures: list[list[float]]
    width: float
    height: float


def _bend(
    characters: Characters, rows: Rows, generator: np.random.Generator, bending: float
) -> Iterator[_Sketch]:
    """Bend characters all at once, and leave out pen positions that are close together."""
    n = len(rows)
    strokes, stroke_starts = expand_ranges(characters.character_starts, rows)
    indices, starts = expand_ranges(characters.stroke_starts, strokes)
    owner_of_stroke = np.repeat(np.arange(n), np.diff(stroke_starts))
    stroke = np.repeat(np.arange(len(strokes)), np.diff(starts))
    owner = owner_of_stroke[stroke]
    firsts = starts[stroke_starts[:-1]]  # the first point of each character
    points = _normalize(characters.points[indices].astype(np.float64), firsts, owner)

    def spread(size: float, *shape: int) -> Values:
        return generator.normal(0, size * bending, shape)

    # Each stroke by itself: somewhat larger or smaller, and not quite in its place.
    points = points * (1 + spread(0.06, len(strokes), 2))[stroke]
    points += spread(0.02, len(strokes), 2)[stroke]
    # The whole: turned, slanted, wide or narrow.
    angle, slant, aspect = spread(0.07, n), spread(0.16, n), np.exp(spread(0.12, n))
    x, y = points[:, 0] * aspect[owner], points[:, 1]
    x = x - slant[owner] * y
    cosine, sine = np.cos(angle)[owner], np.sin(angle)[owner]
    points = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1)
    # Waves about as long as the character, along and across.
    for _ in range(2):
        wave = generator.normal(0, 0.8, (n, 2))[owner]
        phase = generator.uniform(0, 2 * np.pi, n)[owner]
        swing = np.sin(2 * np.pi * (wave * points).sum(axis=1) + phase)
        points = points + spread(0.022, n, 2)[owner] * swing[:, np.newaxis]
    path = _measure_path(points, starts)
    kept = _thin_out(path, starts, owner, generator, n)
    points, path, stroke, owner = points[kept], path[kept], stroke[kept], owner[kept]
    jitter = np.where(generator.random(n) < 0.3, generator.uniform(0.003, 0.014, n), 0.002)
    points += spread(1, len(points), 2) * jitter[owner, np.newaxis]
    # The pressure on the pen rises and falls along the stroke.
    change = np.where(generator.random(n) < 0.5, generator.uniform(0, 0.35, n), 0)[owner]
    phase = generator.uniform(0, 2 * np.pi, len(strokes))[stroke]
    frequency = generator.uniform(0.2, 1.2, n)[owner]
    pressure = 1 + change * np.sin(2 * np.pi * frequency * path + phase)
    starts = np.concatenate([np.searchsorted(stroke, np.arange(len(strokes))), [len(stroke)]])
    return _sketch(points, pressure, starts, stroke_starts, owner)


def _normalize(points: Values, firsts: Rows, owner: Rows) -> Values:
    """Move each character's middle to 0, and scale its longer side to 1."""
    low, high = np.minimum.reduceat(points, firsts), np.maximum.reduceat(points, firsts)
    size = (high - low).max(axis=1)
    size[size == 0] = 1  # a dot
    return np.asarray((points - ((low + high) / 2)[owner]) / size[owner, np.newaxis])


def _measure_path(points: Values, starts: Rows) -> Values:
    """Return how far the pen has come along its stroke at each point."""
    steps = np.zeros(len(points))
    steps[1:] = np.hypot(*np.diff(points, axis=0).T)
    steps[starts[:-1]] = 0
    path = np.cumsum(steps)
    return path - np.repeat(path[starts[:-1]], np.diff(starts))


def _thin_out(
    path: Values, starts: Rows, owner: Rows, generator: np.random.Generator, n: int
) -> Mask:
    """Choose points a step apart; some characters get long steps, as from a slow mouse."""
    is_coarse = generator.random(n) < 0.12
    step = np.where(is_coarse, generator.uniform(0.1, 0.25, n), generator.uniform(0.03, 0.06, n))
    number = np.floor(path / step[owner])
    kept = np.ones(len(path), np.bool_)
    kept[1:] = number[1:] != number[:-1]
    kept[starts[:-1]] = True
    kept[starts[1:] - 1] = True
    return kept


def _sketch(
    points: Values, pressure: Values, starts: Rows, stroke_starts: Rows, owner: Rows
) -> Iterator[_Sketch]:
    firsts = starts[stroke_starts[:-1]]
    low, high = np.minimum.reduceat(points, firsts), np.maximum.reduceat(points, firsts)
    size = (high - low).max(axis=1)
    size[size < 1e-3] = 1  # a dot
    placed = ((points - low[owner]) / size[owner, np.newaxis]).ravel().tolist()
    extents = ((high - low) / size[:, np.newaxis]).tolist()
    pressures, ends = pressure.tolist(), starts.tolist()
    for (first, end), (width, height) in zip(
        itertools.pairwise(stroke_starts.tolist()), extents, strict=True
    ):
        ranges = list(itertools.pairwise(ends[first : end + 1]))
        yield _Sketch(
            [placed[2 * a : 2 * b] for a, b in ranges],
            [pressures[a:b] for a, b in ranges],
            width,
            height,
        )


def _draw(sketch: _Sketch, generator: np.random.Generator, *, coarse: bool) -> Images:
    """Draw a character large, with a pen on paper, and frame it."""
    pen, size, soft, nib, angle = generator.random(5).tolist()
    # Log-normal around the pens of MNIST.
    pen_width = min(max(0.1 * float(np.exp(generator.normal(0, 0.45))), PEN_MIN), PEN_MAX)
    scale = 24 + 66 * size if pen > 0.08 else 20 + 12 * size  # the latter as in a small scan
    width_px = max(1.0, pen_width * scale)
    margin = width_px * 0.75 + 2
    sheet = Image.new(
        "L",
        (round(sketch.width * scale + 2 * margin), round(sketch.height * scale + 2 * margin)),
    )
    strokes = [[margin + scale * value for value in stroke] for stroke in sketch.strokes]
    if nib < 0.12 and width_px > 3:
        _draw_flat(sheet, strokes, width_px, np.pi * angle)
    else:
        _draw_round(sheet, strokes, sketch.pressures, width_px)
    if soft < 0.25:
        sheet = sheet.filter(ImageFilter.BoxBlur(soft * 4 * scale / 40))
    ink = np.asarray(sheet)
    if not ink.any():
        return np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    if coarse:
        return frame_thin(coarsen(ink, generator))
    if width_px * BOX_PX < (MIN_STROKE_PERCENT / 100 + 0.5) * scale:
        return frame_thin(ink)
    return frame_ink(ink)


def coarsen(ink: Images, generator: np.random.Generator) -> Images:
    """Bring ink to few pixels, as collections of the time when memory was dear hold it.

    The longer side becomes 9 to 18 pixels; half of the images keep two levels only, and a fifth is
    stretched to a square, as far as that changes its sides by less than a factor of 2.5.

    Args:
        ink: One character, shape (H, W), uint8, with some ink.
        generator: Equal generators give equal images.

    Returns:
        Shape (h, w), uint8, with some ink.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    digit = Image.fromarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    side_px, two_levels, stretched, threshold = generator.random(4).tolist()
    longer = 9 + round(9 * side_px)
    width, height = (max(2, round(longer * side / max(digit.size))) for side in digit.size)
    if stretched < 0.2:
        width, height = (min(longer, round(2.5 * side)) for side in (width, height))
    small = np.asarray(digit.resize((width, height), Image.Resampling.BOX))
    if two_levels < 0.5:
        is_ink = small > float(small.max()) * (0.25 + 0.25 * threshold)
        small = np.where(is_ink, FULL, 0).astype(np.uint8)
    return small


def frame_thin(ink: Images) -> Images:
    """Frame ink whose strokes may be too thin, as ``find_ink`` prepares it."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return frame_ink(thicken_strokes(cropped, cropped > FULL // 4))


def _draw_round(
    sheet: Image.Image, strokes: list[list[float]], pressures: list[list[float]], width_px: float
) -> None:
    """Draw with a round pen: lines as wide as the pressure says, and a disc at each point."""
    draw = ImageDraw.Draw(sheet)
    for stroke, pressure in zip(strokes, pressures, strict=True):
        xs, ys = stroke[::2], stroke[1::2]
        widths = [width_px * one for one in pressure]
        for k in range(len(xs) - 1):
            line_px = max(1, round((widths[k] + widths[k + 1]) / 2))
            draw.line((xs[k], ys[k], xs[k + 1], ys[k + 1]), FULL, line_px)
        for x, y, width in zip(xs, ys, widths, strict=True):
            if width >= 3 or len(xs) == 1:
                radius = max(0.5, width / 2 - 0.5)
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), FULL)


def _draw_flat(
    sheet: Image.Image, strokes: list[list[float]], width_px: float, angle: float
) -> None:
    """Draw with a flat nib held at an angle: broad across it, a third as thick along it."""
    draw = ImageDraw.Draw(sheet)
    dx, dy = float(np.cos(angle)) * width_px / 2, float(np.sin(angle)) * width_px / 2
    thin = max(1, round(width_px / 3))
    for stroke in strokes:
        xs, ys = stroke[::2], stroke[1::2]
        draw.line((xs[0] - dx, ys[0] - dy, xs[0] + dx, ys[0] + dy), FULL, thin)
        for k in range(len(xs) - 1):
            a, b, c, d = xs[k], ys[k], xs[k + 1], ys[k + 1]
            draw.polygon(
                (a - dx, b - dy, c - dx, d - dy, c + dx, d + dy, a + dx, b + dy), fill=FULL
            )
            draw.line((a, b, c, d), FULL, thin)


def _paint(sketch: _Sketch, generator: np.random.Generator) -> Images:
    """Draw a character in a paint program, and read the picture."""
    canvas, sheet = _place(sketch.width, sketch.height, generator)
    draw = ImageDraw.Draw(sheet)
    for stroke in sketch.strokes:
        dots = [
            round(start + canvas.scale * value)
            for value, start in zip(stroke, itertools.cycle((canvas.left, canvas.top)))
        ]
        draw.line(dots if len(dots) > 2 else dots * 2, FULL, canvas.pen_px)
    return _read(np.asarray(sheet), generator)


@dataclass(frozen=True)
class _Canvas:
    """Where a drawing stands on a paint program's canvas.

    Attributes:
        scale: Longer side of the drawing, pixels.
        left: Its first column.
        top: Its first row.
        pen_px: Width of the pen.
    """

    scale: int
    left: int
    top: int
    pen_px: int


def _place(
    width: float, height: float, generator: np.random.Generator
) -> tuple[_Canvas, Image.Image]:
    """Choose a canvas of 28 to 300 pixels, most of them small, and a place on it, off centre."""
    low, high = (28, PHOTO_SIDE_PX) if generator.random() < 0.95 else (PHOTO_SIDE_PX, 300)
    side_px = round(low * (high / low) ** float(generator.random()))
    scale = max(10, round(side_px * float(generator.uniform(0.4, 0.9))))
    room_x, room_y = (side_px - round(scale * one) - 2 for one in (width, height))
    left, top = (1 + int(generator.integers(0, max(1, room))) for room in (room_x, room_y))
    pen_px = 1 if generator.random() < 0.7 else 1 + scale // 30
    return _Canvas(scale, left, top, pen_px), Image.new("L", (side_px, side_px))


def _read(ink: Images, generator: np.random.Generator) -> Images:
    """Read a paint program's picture, dark on light or light on dark."""
    is_dark = generator.random() < 0.7
    # Of a small clean canvas the path makes just this, in ten times the time; see the tests.
    if max(ink.shape) <= PHOTO_SIDE_PX:
        return frame_thin(ink)
    found = read_picture(FULL - ink if is_dark else ink)
    # A stroke that stands apart may pass for another digit; the label is that of the whole.
    return found.image if found.reason is None else frame_thin(ink)


def thin_digits(images: Images, generator: np.random.Generator) -> Images:
    """Redraw MNIST's images in thin strokes, as a paint program's pencil would have drawn them.

    Each one is brought to a random size, thinned to its middle line, one pixel wide, and set
    somewhere on a canvas, which goes the way of a user's picture.

    Args:
        images: Shape (N, 28, 28), uint8, 0 = background, 255 = full ink.
        generator: Equal generators give equal images.

    Returns:
        Shape (N, 28, 28), uint8.
    """
    return np.stack([_thin_digit(image, generator) for image in images]) if len(images) else images


def _thin_digit(image: Images, generator: np.random.Generator) -> Images:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    if not len(rows):
        return image
    digit = Image.fromarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    longer = max(digit.size)
    canvas, sheet = _place(digit.width / longer, digit.height / longer, generator)
    size = [max(2, round(side * canvas.scale / longer)) for side in digit.size]
    # Thinned no smaller than this: else narrow loops would close.
    fine = max(1, -(-2 * BOX_PX // canvas.scale))
    large = digit.resize((size[0] * fine, size[1] * fine), Image.Resampling.BICUBIC)
    line = thin_to_line(np.asarray(large) > MNIST_INK * FULL)
    if fine > 1:  # thinned again, since two pixels of the line may fall beside each other
        line = thin_to_line(line.reshape(size[1], fine, size[0], fine).max(axis=(1, 3)))
    drawn = Image.fromarray(np.where(line, FULL, 0).astype(np.uint8))
    sheet.paste(drawn, (canvas.left, canvas.top))
    ink = np.asarray(sheet)
    return _read(ink, generator) if ink.any() else image


def thin_to_line(mask: Mask) -> Mask:
    """Thin strokes to lines one pixel wide that are connected as the strokes are.

    Source: T. Y. Zhang, C. Y. Suen, A fast parallel algorithm for thinning digital patterns, 1984.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    tables = _removal_tables()
    changed = True
    while changed:
        changed = False
        for table in tables:
            code = np.zeros(mask.shape, np.uint8)
            for bit, (dy, dx) in enumerate(_RING):
                code |= padded[dy : dy + mask.shape[0], dx : dx + mask.shape[1]] << bit
            removed = table[code] & (padded[1:-1, 1:-1] > 0)
            if removed.any():
                changed = True
                padded[1:-1, 1:-1][removed] = 0
    return padded[1:-1, 1:-1] > 0


# The eight neighbours, clockwise from the one above, as offsets into the padded mask.
_RING = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))


@functools.cache
def _removal_tables() -> tuple[Mask, Mask]:
    """Return, for both passes, which of the 256 neighbourhoods a pixel is removed from."""
    codes = np.arange(256)
    p = [(codes >> bit & 1).astype(bool) for bit in range(8)]
    count = np.sum(p, axis=0)
    turns = np.sum([~p[k] & p[(k + 1) % 8] for k in range(8)], axis=0)
    border = (count >= 2) & (count <= 6) & (turns == 1)
    up, right, down, left = p[0], p[2], p[4], p[6]
    first = border & ~(up & right & down) & ~(right & down & left)
    second = border & ~(up & right & left) & ~(up & down & left)
    return first, second
