import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from edge_mnist.errors import PictureError
from edge_mnist.export.golden import draw_digit
from edge_mnist.picture import read_image
from edge_mnist.predictor import Predictor
from edge_mnist.training.data import Dataset


@pytest.fixture(scope="module")
def predictor(exports: Path) -> Predictor:
    return Predictor(exports)


def to_bytes(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_test_image_goes_through_untouched(digits: Dataset) -> None:
    for image in digits.test_images[:100]:
        assert (read_image(to_bytes(Image.fromarray(image))) == image).all()
        assert (read_image(image) == image).all()


def test_ink_may_be_dark_or_light() -> None:
    sheet = draw_digit(4, np.random.default_rng(0))
    assert (read_image(sheet) == read_image(ImageOps.invert(sheet))).all()


def test_every_kind_of_source_gives_the_same_image(tmp_path: Path) -> None:
    sheet = draw_digit(5, np.random.default_rng(0))
    expected = read_image(sheet)
    grey: NDArray[np.uint8] = np.asarray(sheet)
    sheet.save(tmp_path / "five.png")
    color = np.stack([grey] * 3, axis=2)
    sources = [
        tmp_path / "five.png",
        str(tmp_path / "five.png"),
        to_bytes(sheet),
        io.BytesIO(to_bytes(sheet)),
        grey,
        grey[:, :, np.newaxis],
        color,
        np.concatenate([color, np.full((*grey.shape, 1), 255, np.uint8)], axis=2),
        grey.astype(np.uint16) * 257,
        grey.astype(np.float32) / 255,
        sheet.convert("RGB"),
        sheet.convert("RGBA"),
    ]
    for source in sources:
        assert (read_image(source) == expected).all()
    assert read_image(grey > 128).shape == (28, 28)


def test_framing_is_mnists() -> None:
    for digit in range(10):
        image = read_image(draw_digit(digit, np.random.default_rng(digit)))
        assert image.shape == (28, 28)
        assert image.dtype == np.uint8
        rows, columns = np.nonzero(image)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        weight = image[rows, columns] / image.sum()
        assert abs(weight @ rows - 13.5) <= 0.51
        assert abs(weight @ columns - 13.5) <= 0.51


def test_transparent_pictures() -> None:
    ink = draw_digit(2, np.random.default_rng(0))
    for color in (0, 255):
        layer = Image.new("RGBA", ink.size, (color, color, color, 0))
        layer.putalpha(ImageOps.invert(ink))
        assert np.abs(read_image(layer).astype(int) - read_image(ink)).max() <= 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"only text", "not a picture"),
        (to_bytes(draw_digit(3, np.random.default_rng(0)))[:200], "damaged"),
        (to_bytes(Image.new("L", (50, 50), 255)), "blank"),
    ],
)
def test_what_cannot_be_read(content: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        read_image(content)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5,), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((0, 5), np.uint8),
        np.zeros((5, 5), np.int64),
        np.full((5, 5), 2.0),
        np.full((5, 5), np.nan),
    ],
)
def test_arrays_that_are_no_pictures(array: NDArray[np.generic]) -> None:
    with pytest.raises(PictureError):
        read_image(array)
