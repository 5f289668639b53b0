"""Draw the pictures that JavaScript's picture path is held to Python's on, and store the answers.

Run as a script it writes web_cases.npz: what read_picture makes of each picture, and its reason.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from edge_mnist.exporting.golden import draw_digit
from edge_mnist.picture import read_picture
from edge_mnist.training.strokes import thin_to_line

CASES = Path(__file__).with_name("web_cases.npz")
REASONS = ("", "blank", "more than one digit")
Picture = tuple[str, Image.Image]


def draw_pictures() -> Iterator[Picture]:
    """Yield some 300 pictures with their names, the same every time."""
    for draw in (
        draw_sheets,
        draw_papers,
        draw_colors,
        draw_transparent,
        draw_odd_modes,
        draw_several,
        draw_small,
        draw_pencil,
        draw_large,
        draw_nothing,
    ):
        generator = np.random.default_rng(sum(map(ord, draw.__name__)))
        for number, picture in enumerate(draw(generator)):
            yield f"{draw.__name__.removeprefix('draw_')}-{number:02}", picture


def draw_sheets(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Plain sheets of many sizes, some inverted, some turned."""
    for digit in (*range(10), *range(10), *range(10), *range(10)):
        sheet = draw_digit(digit, generator, side_px=int(generator.integers(40, 700)))
        if generator.random() < 0.4:
            sheet = ImageOps.invert(sheet)
        if generator.random() < 0.3:
            fill = int(sheet.getpixel((0, 0)))  # type: ignore[arg-type]
            angle = float(generator.uniform(-20, 20))
            sheet = sheet.rotate(angle, Image.Resampling.BICUBIC, fillcolor=fill)
        yield sheet


def draw_papers(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Photos of paper: noise, shadow, ruled or squared, blurred."""
    for number in range(70):
        side = int(generator.integers(120, 900))
        sheet = draw_digit(number % 10, generator).resize((side, side))
        ink = 1 - np.asarray(sheet, np.float32) / 255
        paper = np.full(ink.shape, generator.uniform(150, 240), np.float32)
        if number % 3 == 1:
            paper[side // 20 :: max(8, side // 10)] -= 60
        if number % 9 == 1:
            paper[:, side // 20 :: max(8, side // 10)] -= 60
        if number % 2:
            x, y = np.meshgrid(np.arange(side), np.arange(side))
            edge = generator.uniform(0.5, 1.2) * side
            paper *= 1 - 0.45 / (1 + np.exp((x + 0.5 * y - edge) / generator.uniform(2, 30)))
        noise = generator.normal(0, generator.uniform(0, 9), ink.shape)
        levels = paper * (1 - generator.uniform(0.4, 0.9) * ink) + noise
        picture = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
        yield picture.filter(ImageFilter.GaussianBlur(2)) if number % 5 == 4 else picture


def draw_colors(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Ink and sheet of any two colours that differ."""
    for number in range(30):
        mask = draw_digit(number % 10, generator, side_px=int(generator.integers(60, 400)))
        dark, light = generator.integers(0, 110, 3), generator.integers(150, 256, 3)
        if number % 3 == 2:
            dark, light = light, dark
        share = np.asarray(mask, np.float32)[:, :, np.newaxis] / 255
        yield Image.fromarray((dark * (1 - share) + light * share).astype(np.uint8))


def draw_transparent(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Transparent layers: ink alone, ink and sheet cut out with soft corners, grey with alpha."""
    for number in range(30):
        mask = draw_digit(number % 10, generator, side_px=int(generator.integers(60, 500)))
        color = tuple(generator.integers(0, 256, 3).tolist())
        if number % 3 == 0:
            layer = Image.new("RGBA", mask.size, (*color, 0))
            layer.putalpha(ImageOps.invert(mask))
        elif number % 3 == 1:
            layer = mask.convert("RGBA")
            hole = Image.new("L", mask.size, 0)
            box = (5, 5, mask.width - 5, mask.height - 5)
            ImageDraw.Draw(hole).rounded_rectangle(box, mask.width // 5, fill=255)
            layer.putalpha(hole.filter(ImageFilter.GaussianBlur(3)))
        else:
            layer = Image.merge("LA", (mask.point(lambda level: level // 2), ImageOps.invert(mask)))
        yield layer


def draw_odd_modes(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Palettes, one bit, 16 bits."""
    for number in range(20):
        sheet = draw_digit(number % 10, generator, side_px=int(generator.integers(50, 300)))
        if number % 4 == 0:
            yield sheet.convert("1")
        elif number % 4 == 1:
            yield sheet.convert("RGB").quantize(int(generator.integers(2, 200)))
        else:
            deep = np.asarray(sheet).astype(np.uint16) * (257 if number % 4 == 2 else 40)
            yield Image.fromarray(deep + generator.integers(0, 90, deep.shape).astype(np.uint16))


def draw_several(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Two digits beside each other, printed frames, pieces, an interrupted stroke, specks."""
    for number in range(48):
        side = int(generator.integers(80, 300))
        first, second = (draw_digit(int(one), generator, side_px=side) for one in (number % 10, 8))
        if number % 6 == 0:
            sheet = Image.new("L", (2 * side + 10, side), 255)
            sheet.paste(first, (0, 0))
            sheet.paste(second, (side + 10, 0))
        elif number % 6 == 1:
            sheet = Image.new("L", (2 * side, 2 * side), 255)
            sheet.paste(first, (side // 2, side // 2))
            box = (side // 3, side // 3, 5 * side // 3, 5 * side // 3)
            ImageDraw.Draw(sheet).rectangle(box, outline=60, width=max(1, side // 60))
        elif number % 6 == 2:
            sheet = first.resize((300, 300))
            pen = ImageDraw.Draw(sheet)
            pen.ellipse((4, 4, 295, 295), outline=30, width=int(generator.integers(1, 5)))
        elif number % 6 == 3:
            sheet = Image.new("L", (200, 300), 250)
            pen = ImageDraw.Draw(sheet)
            pen.arc((50, 110, 150, 240), -100, 160, fill=20, width=14)
            gap = int(generator.integers(10, 70))
            pen.line((60, 120 - gap, 140, 116 - gap), fill=20, width=14)
        elif number % 6 == 4:
            levels = np.asarray(first.resize((320, 320))).copy()
            levels[112:119] = levels[198:204] = 255
            sheet = Image.fromarray(levels)
        else:
            levels = np.asarray(first).copy()
            levels[generator.random(levels.shape) < 0.004] = 40
            sheet = Image.fromarray(levels)
        yield sheet


def draw_small(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Pictures of MNIST's size and about it, MNIST images among them."""
    for number in range(24):
        sheet = draw_digit(number % 10, generator)
        if number % 3 == 0:
            image = read_picture(sheet).image
            yield Image.fromarray(image if number % 2 else 255 - image)
        else:
            side = int(generator.integers(20, 45))
            yield sheet.resize((side, int(generator.integers(20, 45))), Image.Resampling.BICUBIC)


def draw_pencil(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Strokes one pixel wide on small canvases, as of a paint program's pencil."""
    for number in range(20):
        side = int(generator.integers(20, 64))
        mask = np.asarray(draw_digit(number % 10, generator).resize((side, side))) < 128
        canvas = np.zeros((max(side, 28), max(side, 28)), np.uint8)
        canvas[:side, :side] = np.where(thin_to_line(mask), 255, 0)
        yield Image.fromarray(canvas if number % 2 else 255 - canvas)


def draw_large(generator: np.random.Generator) -> Iterator[Image.Image]:
    """More than a million pixels: grey, colour and transparent; and strips."""
    for number, size in enumerate([(1500, 1500), (2100, 2050), (3000, 1500), (2501, 1999)]):
        mask = draw_digit(number + 2, generator, side_px=400).resize(size)
        if number % 2:
            yield ImageOps.colorize(mask, (20, 40, 90), (240, 230, 210))
        else:
            yield mask
        layer = Image.new("RGBA", mask.size, (90, 20, 10, 0))
        layer.putalpha(ImageOps.invert(mask))
        yield layer
    yield draw_digit(1, generator, side_px=400).resize((60, 900))
    yield draw_digit(5, generator, side_px=200).resize((2600, 120))


def draw_nothing(generator: np.random.Generator) -> Iterator[Image.Image]:
    """Blank sheets, shadows, noise, one pixel."""
    for level in (0, 128, 255):
        yield Image.new("L", (200, 300), level)
    x, y = np.meshgrid(np.arange(400), np.arange(300))
    for width in (3, 40, 120):
        yield _grey(220 - 100 / (1 + np.exp((x + 0.4 * y - 300) / width)))
    for strength in (2, 12, 60):
        yield _grey(180 + generator.normal(0, strength, (240, 200)))
    strip = np.full((240, 200), 230)
    strip[:200, 188:] = 90
    yield _grey(strip)
    yield from (Image.new("RGBA", (50, 50)), Image.new("L", (1, 1)), Image.new("L", (2, 90), 9))


def _grey(levels: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def write_pictures(folder: Path) -> list[Path]:
    """Write all pictures as PNG files, which lose nothing; return them in the order of names."""
    paths = []
    for name, picture in draw_pictures():
        paths.append(folder / f"{name}.png")
        picture.save(paths[-1], compress_level=1)
    return sorted(paths)


def main() -> None:
    """Write what Python makes of all pictures, in the order of their names."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = [read_picture(path) for path in write_pictures(Path(folder))]
    images = np.stack([model_input.image for model_input in inputs])
    reasons = np.array(
        [REASONS.index(model_input.reason or "") for model_input in inputs], np.uint8
    )
    np.savez_compressed(CASES, images=images, reasons=reasons)


if __name__ == "__main__":
    main()
