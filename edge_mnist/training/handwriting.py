"""UNIPEN beside a data set of digits: renderings to train on, and those of held-out writers.

Renderings are kept in pools of which each epoch draws a quarter anew: all of them would take as
long as the training itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.training.strokes import DIGITS, is_outlier, render_characters, thin_digits
from edge_mnist.training.unipen import Characters, Rows, split_writers

N_PARTS = 4  # of a pool; each epoch draws one of them anew
N_DIGITS, N_LETTERS, N_THIN = 4000, 1500, 400  # images in a part
N_VALIDATION_DRAWINGS = 3  # of each digit of the held-out writers
N_VALIDATION_LETTERS = 3000
VALIDATION_SEED = 20_041_998  # the same renderings for all seeds, so that runs are comparable

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Draw = Callable[[np.random.Generator], tuple[Images, Labels]]


@dataclass(frozen=True)
class LabelledImages:
    """Images with their labels.

    Attributes:
        images: Shape (N, 28, 28), uint8, 0 = background, 255 = full ink.
        labels: Shape (N,), int64.
    """

    images: Images
    labels: Labels


class Pool:
    """Images that a function draws, a part of them anew for each epoch.

    The pool of an epoch depends on seed and epoch alone, so a training that is resumed has the
    images of one that was never interrupted.
    """

    def __init__(self, draw: Draw, *, seed: tuple[int, ...]) -> None:
        """Draw nothing yet.

        Args:
            draw: Returns the images of one part and their labels.
            seed: Equal seeds give equal pools.
        """
        self._draw, self._seed = draw, seed
        self._parts: dict[int, tuple[Images, Labels]] = {}

    def draw_epoch(self, epoch: int) -> LabelledImages:
        """Return the pool of an epoch, numbered from 0; draw the parts that are not at hand."""
        numbers = range(epoch, epoch + N_PARTS)
        self._parts = {n: self._parts.get(n) or self._draw_part(n) for n in numbers}
        images, labels = zip(*self._parts.values(), strict=True)
        return LabelledImages(np.concatenate(images), np.concatenate(labels))

    def _draw_part(self, number: int) -> tuple[Images, Labels]:
        return self._draw(np.random.default_rng([*self._seed, number]))


class Handwriting:
    """The characters of UNIPEN, split by writer, as images."""

    def __init__(self, characters: Characters) -> None:
        """Split the characters.

        Args:
            characters: All that ``load_unipen`` returns.
        """
        self.characters = characters
        self._is_digit = np.isin(characters.labels, sorted(DIGITS))
        self._is_outlier = np.array([is_outlier(label) for label in characters.labels], np.bool_)
        self.split = split_writers(characters)

    def digit_rows(self, rows: Rows) -> Rows:
        """Return which of some characters are digits."""
        return rows[self._is_digit[rows]]

    def outlier_rows(self, rows: Rows) -> Rows:
        """Return which of some characters are letters and signs that look like no digit."""
        return rows[self._is_outlier[rows]]

    def count_writers(self, rows: Rows) -> int:
        """Return the number of writers of some characters."""
        return len(np.unique(self.characters.writers[rows]))

    def render_digits(
        self, rows: Rows, generator: np.random.Generator, *, coarse_share: float = 0.0
    ) -> LabelledImages:
        """Draw digits, given their indices, each time a little differently."""
        labels = self.characters.labels[rows].astype(np.int64)
        images = render_characters(self.characters, rows, generator, coarse_share=coarse_share)
        return LabelledImages(images, labels)

    def make_digit_pool(self, seed: int, *, coarse_share: float = 0.0) -> Pool:
        """Return the pool of digits of the writers to train on."""
        rows = self.digit_rows(self.split.train)

        def draw(generator: np.random.Generator) -> tuple[Images, Labels]:
            drawn = self.render_digits(
                generator.choice(rows, N_DIGITS), generator, coarse_share=coarse_share
            )
            return drawn.images, drawn.labels

        return Pool(draw, seed=(seed, 1))

    def make_letter_pool(self, seed: int) -> Pool:
        """Return the pool of letters and signs of the writers to train on; all labels are -1."""
        rows = self.outlier_rows(self.split.train)

        def draw(generator: np.random.Generator) -> tuple[Images, Labels]:
            picks = generator.choice(rows, N_LETTERS)
            images = render_characters(self.characters, picks, generator)
            return images, np.full(N_LETTERS, -1, np.int64)

        return Pool(draw, seed=(seed, 2))

    def draw_held_out(self, rows: Rows) -> LabelledImages:
        """Draw each digit of a held-out part a few times, the same way every time.

        Args:
            rows: A part of ``split``.
        """
        digits = np.tile(self.digit_rows(rows), N_VALIDATION_DRAWINGS)
        return self.render_digits(digits, np.random.default_rng([VALIDATION_SEED, 1]))

    def draw_held_out_letters(self, rows: Rows) -> Images:
        """Draw letters and signs of a held-out part, the same ones every time.

        Args:
            rows: A part of ``split``.
        """
        generator = np.random.default_rng([VALIDATION_SEED, 2])
        letters = generator.choice(self.outlier_rows(rows), N_VALIDATION_LETTERS)
        return render_characters(self.characters, letters, generator)


def make_thin_pool(images: Images, labels: Labels, seed: int) -> Pool:
    """Return a pool of MNIST's digits in thin strokes.

    Args:
        images: The images to train on, shape (N, 28, 28), uint8.
        labels: Theirs, shape (N,), int64.
        seed: Equal seeds give equal pools.
    """

    def draw(generator: np.random.Generator) -> tuple[Images, Labels]:
        picks = generator.integers(0, len(images), N_THIN)
        return thin_digits(images[picks], generator), labels[picks]

    return Pool(draw, seed=(seed, 3))
