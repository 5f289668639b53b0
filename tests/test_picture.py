import io
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from edge_mnist.errors import PictureError
from edge_mnist.exporting.golden import draw_digit
from edge_mnist.picture import read_picture
from edge_mnist.picture.decode import MAX_BYTES
from edge_mnist.predictor import Predictor
from edge_mnist.training.datasets import Dataset


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


def to_bytes(picture: Image.Image, format_name: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def test_an_mnist_image_is_passed_on_unchanged(digits: Dataset) -> None:
    for image in digits.test_images[:100]:
        assert (read_picture(to_bytes(Image.fromarray(image))).image == image).all()
        inverted = to_bytes(Image.fromarray(255 - image))
        assert (read_picture(inverted).image == image).all()
        assert (read_picture(image).image == image).all()


def test_ink_may_be_dark_or_light() -> None:
    drawing = draw_digit(4, np.random.default_rng(0))
    assert (read_picture(drawing).image == read_picture(ImageOps.invert(drawing)).image).all()


def test_every_type_of_picture_gives_the_same_image(tmp_path: Path) -> None:
    drawing = draw_digit(5, np.random.default_rng(0))
    expected = read_picture(drawing).image
    grey: NDArray[np.uint8] = np.asarray(drawing)
    drawing.save(tmp_path / "five.png")
    color = np.stack([grey] * 3, axis=2)
    sources = [
        tmp_path / "five.png",
        str(tmp_path / "five.png"),
        to_bytes(drawing),
        io.BytesIO(to_bytes(drawing)),
        grey,
        grey[:, :, np.newaxis],
        color,
        np.concatenate([color, np.full((*grey.shape, 1), 255, np.uint8)], axis=2),
        grey.astype(np.uint16) * 257,
        grey.astype(np.uint16),  # its levels are 0..255
        grey.astype(np.int64),
        grey.astype(np.float32) / 255,
        grey[np.newaxis],
        np.moveaxis(color, 2, 0),
        grey.tolist(),
        torch.from_numpy(grey.copy()),
        torch.from_numpy(grey / 255)[None],
        memoryview(grey),
        memoryview(to_bytes(drawing)),
        bytearray(to_bytes(drawing)),
        drawing.convert("RGB"),
        drawing.convert("RGBA"),
    ]
    for source in sources:
        assert (read_picture(source).image == expected).all()
    assert read_picture(grey > 128).image.shape == (28, 28)


def test_framing_is_that_of_mnist() -> None:
    for digit in range(10):
        image = read_picture(draw_digit(digit, np.random.default_rng(digit))).image
        assert image.shape == (28, 28)
        assert image.dtype == np.uint8
        rows, columns = np.nonzero(image)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)
        weight = image[rows, columns] / image.sum()
        assert abs(weight @ rows - 14) <= 0.51
        assert abs(weight @ columns - 14) <= 0.51


def test_transparent_pictures() -> None:
    ink = draw_digit(2, np.random.default_rng(0))
    for color in (0, 255):
        layer = Image.new("RGBA", ink.size, (color, color, color, 0))
        layer.putalpha(ImageOps.invert(ink))
        assert np.abs(read_picture(layer).image.astype(int) - read_picture(ink).image).max() <= 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"only text", "not a picture"),
        (to_bytes(draw_digit(3, np.random.default_rng(0)))[:200], "damaged"),
    ],
)
def test_files_that_cannot_be_read(content: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        read_picture(content)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5,), np.uint8), "expected an array of H x W"),
        (np.zeros((5, 5, 2), np.uint8), "expected an array of H x W"),
        (np.zeros((0, 5), np.uint8), "expected an array of H x W"),
        (np.zeros((1, 1, 28, 28), np.uint8), r"got \(1, 1, 28, 28\); .* go to predict_batch"),
        (np.full((5, 5), -1), r"expected integers in 0\.\.255.*, got -1 \.\. -1 of int64"),
        (np.full((5, 5), 1j), "an array of numbers, got ndarray of complex128"),
        (np.full((5, 5), 2.0), r"expected float values in 0\.\.1, got 2 \.\. 2; divide by 255"),
        (np.full((5, 5), np.nan), r"expected float values in 0\.\.1, got nan"),
    ],
)
def test_arrays_that_cannot_be_read(array: NDArray[np.generic], message: str) -> None:
    with pytest.raises(PictureError, match=message):
        read_picture(array)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (None, "expected a picture, got NoneType"),
        (5, "expected a picture, got int"),
        ({}, "expected a picture, got dict"),
        (["a.png", "b.png"], "several pictures go to predict_many"),
        ([[1, 2], [3]], "list is no array of pixels"),
        (torch.zeros(28, 28, requires_grad=True), r"Use tensor\.detach"),
        (io.StringIO("text"), "expected a file opened in binary mode, got str"),
        ("null\0.png", "embedded null byte"),
    ],
)
def test_what_is_no_picture_says_what_to_do(picture: Any, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        read_picture(picture)


@pytest.mark.parametrize("framing", ["digit", "whole"])
def test_an_image_without_pixels_cannot_be_read(framing: str) -> None:
    with pytest.raises(PictureError, match="5 x 0 pixels: the picture is empty"):
        read_picture(Image.new("L", (5, 0)), framing=framing)


def decompression_bomb(width: int, height: int) -> bytes:
    """Return a small PNG file whose header claims a huge size."""
    data = bytearray(to_bytes(Image.new("L", (8, 8))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(PictureError, match="60000 x 60000 pixels would take more than"):
        read_picture(decompression_bomb(60_000, 60_000))
    with pytest.raises(PictureError, match="a side is longer than"):
        read_picture(decompression_bomb(1, 24_000_000))
    with pytest.raises(PictureError, match="larger than"):
        read_picture(b"\x89PNG" + bytes(MAX_BYTES))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (2, 3), (60_000, 1), (60_000, 40)])
def test_narrow_strips_can_be_read(shape: tuple[int, int]) -> None:
    assert read_picture(np.full(shape, 255, np.uint8)).reason == "blank"
    striped = np.tile(np.uint8([[0, 255]]), (shape[0], shape[1] // 2 + 1))[:, : shape[1]]
    read_picture(striped)  # any result, but no exception


def largest_pictures(folder: Path) -> list[Path]:
    """Write pictures just within the limits, of the formats that take most memory."""
    rotated = Image.Exif()
    rotated[ExifTags.Base.Orientation] = 6
    files: list[tuple[str, str, tuple[int, int], dict[str, object]]] = [
        ("rgba.png", "RGBA", (4000, 5990), {"exif": rotated}),
        ("rgb.tif", "RGB", (4890, 4890), {"compression": "tiff_adobe_deflate", "exif": rotated}),
        ("deep.png", "I;16", (5600, 5600), {}),
        ("palette.png", "P", (4600, 4600), {"transparency": 0}),
        ("progressive.jpg", "RGB", (5500, 5500), {"progressive": True, "subsampling": 0}),
        ("lossy.webp", "RGB", (3460, 3460), {}),
    ]
    for name, mode, size, options in files:
        Image.new(mode, size).save(folder / name, **options)  # type: ignore[arg-type]
    return [folder / name for name, *_ in files]


def test_memory_stays_small(tmp_path: Path) -> None:
    paths = largest_pictures(tmp_path)
    code = (
        "import sys; from edge_mnist import Predictor\n"
        "statuses = {one.status for one in Predictor().predict_many(sys.argv[1:])}\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(statuses, peak.split()[1])"
    )
    for path in paths:
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
        )
        statuses, peak_kib = done.stdout.rsplit(maxsplit=1)
        assert statuses == "{'rejected'}", path
        assert int(peak_kib) * 1024 < 300e6, path


def test_other_formats_are_refused() -> None:
    with pytest.raises(PictureError, match="not a picture of a known format"):
        read_picture(to_bytes(Image.new("RGB", (20, 20)), "PCX"))
    with pytest.raises(PictureError, match="not a picture of a known format"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n")


MODES = [
    ("PNG", "I;16", {}),
    ("PNG", "LA", {}),
    ("PNG", "1", {}),
    ("JPEG", "CMYK", {}),
    ("TIFF", "CMYK", {}),
    ("TIFF", "F", {}),
    ("TIFF", "I", {}),
    ("GIF", "P", {"transparency": 0}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("BMP", "RGB", {}),
    ("PPM", "L", {}),
]


@pytest.mark.parametrize(("format_name", "mode", "options"), MODES)
def test_modes_are_read_alike(format_name: str, mode: str, options: dict[str, object]) -> None:
    drawing = draw_digit(3, np.random.default_rng(0))
    expected = read_picture(drawing).image.astype(int)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(drawing).astype(np.uint16) * 257)
    else:
        picture = drawing.convert("RGB").convert(mode) if mode == "CMYK" else drawing.convert(mode)
    image = read_picture(to_bytes(picture, format_name, **options)).image.astype(int)
    # Of the transparent palette only the ink is left; its shape must stay the same.
    assert np.abs(image - expected).mean() < 6


def test_exif_rotation() -> None:
    drawing = draw_digit(7, np.random.default_rng(0))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # viewers rotate it by 90 degrees
    rotated = drawing.rotate(90, expand=True)
    expected = read_picture(drawing).image
    # At 2,100 pixels a side, pictures are downscaled before they are rotated.
    for format_name, side in (("JPEG", 200), ("TIFF", 200), ("TIFF", 2100), ("PNG", 2100)):
        content = to_bytes(rotated.resize((side, side)), format_name, exif=exif)
        for picture in (content, Image.open(io.BytesIO(content))):
            difference = np.abs(read_picture(picture).image.astype(int) - expected)
            assert difference.mean() < 8, (format_name, side, type(picture))


def test_a_truncated_pil_image_cannot_be_read() -> None:
    content = to_bytes(draw_digit(3, np.random.default_rng(0)), "JPEG")
    with pytest.raises(PictureError, match="truncated or damaged"):
        read_picture(Image.open(io.BytesIO(content[:-400])))


def test_only_the_first_frame_of_an_animation_is_read() -> None:
    first, second = (draw_digit(digit, np.random.default_rng(0)) for digit in (1, 8))
    animated = to_bytes(first, "GIF", save_all=True, append_images=[second])
    assert (read_picture(animated).image == read_picture(first).image).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture(level: int) -> None:
    model_input = read_picture(Image.new("L", (200, 300), level))
    assert model_input.reason == "blank"
    assert not model_input.image.any()


def test_a_shadow_on_blank_paper_is_not_ink() -> None:
    picture = photograph(Image.new("L", (160, 160), 255), ruled=False, shadow=True)
    assert read_picture(picture).reason == "blank"


def test_a_digit_across_a_hard_shadow() -> None:
    rows, columns = np.mgrid[:300, :300]
    paper = np.where(columns + 0.3 * rows > 180, 120, 230).astype(np.float32)
    paper += np.random.default_rng(0).normal(0, 2, paper.shape)
    digit = np.asarray(draw_digit(6, np.random.default_rng(1)).resize((150, 150)), np.float32)
    paper[80:230, 90:240] *= 0.15 + 0.85 * digit / 255
    image = read_picture(paper.astype(np.uint8)).image.astype(int)
    difference = np.abs(image - read_picture(digit.astype(np.uint8)).image)
    assert difference.mean() < 12


@pytest.mark.parametrize("digit", range(10))
def test_an_interrupted_stroke_is_one_digit(predictor: Predictor, digit: int) -> None:
    drawing = np.asarray(draw_digit(digit, np.random.default_rng(2)).resize((320, 320))).copy()
    for at in (0.35, 0.62):  # two cuts, narrower than the stroke is wide
        drawing[int(at * 320) : int(at * 320) + 7] = 255
    assert predictor.predict(drawing).digit == digit


def test_a_one_that_is_cropped_tightly_is_a_digit(predictor: Predictor) -> None:
    drawing = np.full((240, 200), 255, np.uint8)
    drawing[:, 92:108] = 20  # cropped tightly above and below, not at the sides
    assert predictor.predict(drawing).digit == 1


def test_a_dark_page_edge_is_not_a_digit() -> None:
    drawing = np.full((240, 200), 230, np.uint8)
    drawing[:200, 188:] = 90
    assert read_picture(drawing).reason == "blank"


def test_two_digits_are_more_than_one() -> None:
    drawing = Image.new("L", (330, 160), 255)
    for digit, left in ((3, 0), (8, 170)):
        drawing.paste(draw_digit(digit, np.random.default_rng(digit)), (left, 0))
    assert read_picture(drawing).reason == "more than one digit"


def photograph(drawing: Image.Image, *, ruled: bool, shadow: bool) -> Image.Image:
    """Simulate a photo of a drawing on paper: noisy, perhaps ruled, perhaps in shadow."""
    ink = 1 - np.asarray(drawing.resize((640, 640)), np.float32) / 255
    paper = np.full(ink.shape, 210, np.float32)
    if ruled:
        paper[40::64] -= 60
        paper[41::64] -= 60
    if shadow:
        x, y = np.meshgrid(np.arange(640), np.arange(640))
        paper *= 1 - 0.45 / (1 + np.exp((x + 0.5 * y - 480) / 12))
    noise = np.random.default_rng(0).normal(0, 4, ink.shape)
    return Image.fromarray(np.clip(paper * (1 - 0.75 * ink) + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("ruled", [False, True])
@pytest.mark.parametrize("shadow", [False, True])
def test_paper_and_light_do_not_matter(ruled: bool, shadow: bool) -> None:
    shipped = Predictor()
    for digit in range(10):
        drawing = draw_digit(digit, np.random.default_rng(digit))
        picture = photograph(drawing, ruled=ruled, shadow=shadow)
        assert shipped.predict(picture).digit == digit


@pytest.mark.parametrize("side_px", [40, 100, 400])
def test_mnist_dark_on_white_at_any_size_and_place(mnist: Dataset, side_px: int) -> None:
    shipped = Predictor()
    generator = np.random.default_rng(side_px)
    pictures = []
    for image in mnist.test_images[:300]:
        digit = Image.fromarray(255 - image).resize((side_px, side_px), Image.Resampling.BICUBIC)
        drawing = Image.new("L", (2 * side_px, 2 * side_px), 255)
        drawing.paste(digit, tuple(generator.integers(0, side_px, 2).tolist()))
        pictures.append(drawing)
    predicted = [prediction.digit for prediction in shipped.predict_many(pictures)]
    assert np.mean(np.array(predicted) == mnist.test_labels[:300]) >= 0.98


def test_mnist_in_png_files_is_passed_on_unchanged(mnist: Dataset) -> None:
    for image in mnist.test_images[:1000]:
        assert (read_picture(to_bytes(Image.fromarray(image))).image == image).all()


@pytest.mark.parametrize("shape", [(28, 28), (56, 28), (300, 400), (1, 50)])
def test_whole_framing_keeps_the_composition(shape: tuple[int, int]) -> None:
    drawing = np.zeros(shape, np.uint8)
    drawing[:, shape[1] // 4 : -shape[1] // 4] = 200  # reaches two borders, as a coat does
    model_input = read_picture(drawing, framing="whole")
    assert model_input.reason is None
    assert model_input.image.max() == 200
    if shape == (28, 28):
        assert (model_input.image == drawing).all()
    if shape == (300, 400):
        rows = np.flatnonzero(model_input.image.any(axis=1))
        assert (rows[0], rows[-1]) == (3, 23)
    light = np.full((28, 28), 255, np.uint8)
    light[8:20, 8:20] = 55
    assert (read_picture(light, framing="whole").image == 255 - light).all()
