"""Changes of tone: what light, lenses, sensors and dirt do to a picture; shapes stay.

A network trained on clean strokes alone takes fog, stripes or noise for ink. Each kind changes
its own few images of a batch, drawn anew with random strength.

Source: the kinds of damage in N. Mu and J. Gilmer, MNIST-C: A Robustness Benchmark for Computer
Vision, 2019; the way they are drawn here is our own.


Changes of shape as tensor work: a random warp and stroke width for each image of a batch.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edge_mnist.training.recipes import Recipe

Kind = Callable[[Tensor, torch.Generator], Tensor]  # pixels (N, 1, 28, 28) in 0..1, in and out


def change_tone(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Change the tone of a share of the images, each kind as many of them.

    Args:
        pixels: Shape (N, 1, 28, 28), float, 0..1.
        share: Share of the images to change, 0..1.
        generator: Source of randomness, on the device of ``pixels``.

    Returns:
        A copy, same shape and range.
    """
    order = torch.randperm(len(pixels), generator=generator, device=pixels.device)
    changed = pixels.clone()
    chosen = order[: round(share * len(pixels))]
    for rows, kind in zip(chosen.tensor_split(len(KINDS)), KINDS, strict=True):
        if len(rows):
            changed[rows] = kind(pixels[rows], generator).clamp(0, 1)
    return changed


def blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Put out of focus, by a little or by about two pixels."""
    strength = draw(pixels, generator) * 2
    once = soften(pixels)
    return torch.where(
        strength < 1,
        torch.lerp(pixels, once, strength),
        torch.lerp(once, soften(soften(once)), (strength - 1).clamp(0, 1)),
    )


def shatter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move each pixel's light to a random neighbour, as ground glass does."""
    n = len(pixels)
    reach = 0.5 + 2.0 * draw(pixels, generator).view(n, 1, 1, 1)
    jitter = torch.rand(n, 28, 28, 2, generator=generator, device=pixels.device) * 2 - 1
    moved = functional.grid_sample(
        pixels, make_grid(pixels) + jitter * reach * (2 / 28), mode="nearest", align_corners=False
    )
    softer = torch.lerp(moved, soften(moved), 0.8)
    return torch.where(draw(pixels, generator) < 0.7, softer, moved)


def shake(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move the camera along a line while the picture is taken."""
    n, taps = len(pixels), 7
    angle = draw(pixels, generator).view(n) * math.tau
    length = draw(pixels, generator).view(n) * 4 * (2 / 28)
    step = torch.stack([angle.cos() * length, angle.sin() * length], dim=1).view(n, 1, 1, 2)
    base = make_grid(pixels)
    shifts = [base + step * (2 * tap / (taps - 1) - 1) for tap in range(taps)]
    moved = [functional.grid_sample(pixels, grid, align_corners=False) for grid in shifts]
    return torch.stack(moved).mean(dim=0)


def add_grain(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Add a sensor's noise: everywhere alike, or more where there is light."""
    noise = torch.randn(pixels.shape, generator=generator, device=pixels.device)
    strength = 0.5 * draw(pixels, generator)
    by_light = torch.where(draw(pixels, generator) < 0.5, 1.0, pixels.sqrt())
    return pixels + noise * strength * by_light


def add_specks(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Set some pixels to black and as many to white."""
    level = torch.rand(pixels.shape, generator=generator, device=pixels.device)
    share = 0.2 * draw(pixels, generator)
    return torch.where(level < share, 0.0, torch.where(level > 1 - share, 1.0, pixels))


def add_fog(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Mix with light that is uneven over the picture."""
    amount = 0.8 * draw(pixels, generator)
    return torch.lerp(pixels, draw_clouds(pixels, generator), amount)


def brighten(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Lift black, and cut off what gets lighter than white."""
    return pixels + 0.7 * draw(pixels, generator)


def fade(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Bring ink and sheet nearer to each other."""
    return pixels * (1 - 0.75 * draw(pixels, generator))


def invert_bands(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Turn ink and sheet round on one side of a line, or between two, across or down."""
    places = torch.arange(28, device=pixels.device)
    first, second = 28 * draw(pixels, generator), 28 * draw(pixels, generator)
    inside = (places >= torch.minimum(first, second)) & (places < torch.maximum(first, second))
    inside = inside ^ (draw(pixels, generator) < 0.5)  # (N, 1, 1, 28)
    across = draw(pixels, generator) < 0.3
    band = torch.where(across, inside.transpose(2, 3), inside)
    return torch.where(band, 1 - pixels, pixels)


def add_line(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a line across: straight or zigzag, whole or dotted, light or dark."""
    grid = make_grid(pixels) * 14  # pixels from the middle
    angle = (draw(pixels, generator) * math.tau).squeeze(1)
    along = grid[..., 0] * angle.cos() + grid[..., 1] * angle.sin()
    aside = grid[..., 1] * angle.cos() - grid[..., 0] * angle.sin()
    period, height, offset, duty, width, level = (
        low + (high - low) * draw(pixels, generator).squeeze(1)
        for low, high in ((3, 14), (-6, 8), (-9, 9), (0.3, 1.4), (0.6, 1.4), (-0.3, 1.6))
    )
    wave = 2 * ((along / period) % 1 - 0.5).abs() - 0.5
    line = (aside - offset - height.clamp(min=0) * wave).abs() < width
    line &= (along / period * 2) % 1 < duty
    return torch.where(line.unsqueeze(1), level.clamp(0, 1).unsqueeze(1), pixels)


def keep_edges(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Leave the outlines of the strokes only."""
    ink = (pixels > 0.2 + 0.5 * draw(pixels, generator)).float()
    inner = -functional.max_pool2d(-ink, 3, stride=1, padding=1)
    outer = functional.max_pool2d(ink, 3, stride=1, padding=1)
    return torch.where(draw(pixels, generator) < 0.5, ink - inner, outer - ink)


def spatter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Splash drops on the picture, light or dark."""
    noise = soften(torch.randn(pixels.shape, generator=generator, device=pixels.device))
    drops = noise > 0.3 + 0.5 * draw(pixels, generator)
    level = (1.6 * draw(pixels, generator) - 0.3).clamp(0, 1)
    return torch.where(drops, torch.lerp(pixels, level, 0.9), pixels)


KINDS: tuple[Kind, ...] = (
    blur, shatter, shake, add_grain, add_specks, add_fog, add_fog, brighten, fade,
    invert_bands, add_line, keep_edges, spatter,
)  # fmt: skip


def draw(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a number in 0..1 for each image, shape (N, 1, 1, 1)."""
    return torch.rand(len(pixels), 1, 1, 1, generator=generator, device=pixels.device)


def draw_clouds(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw smooth light, shape (N, 1, 28, 28), 0..1: coarse clouds with finer ones on top."""
    clouds = torch.zeros_like(pixels)
    for cells, weight in ((3, 1.0), (6, 0.5), (12, 0.3)):
        shape = (len(pixels), 1, cells, cells)
        coarse = torch.randn(shape, generator=generator, device=pixels.device)
        clouds += weight * functional.interpolate(
            coarse, size=(28, 28), mode="bilinear", align_corners=False
        )
    return torch.sigmoid(2 * clouds)


def soften(pixels: Tensor) -> Tensor:
    """Average each pixel with its eight neighbours."""
    return functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)


def make_grid(pixels: Tensor) -> Tensor:
    """Return every pixel's own place for grid_sample, shape (1, 28, 28, 2), x before y."""
    sides = (torch.arange(28, device=pixels.device) * 2 + 1) / 28 - 1
    rows, columns = torch.meshgrid(sides, sides, indexing="ij")
    return torch.stack([columns, rows], dim=2).unsqueeze(0)


# For pictures that nobody brought to MNIST's form.
WIDE: dict[str, Any] = {
    "rotation_deg": 25.0,
    "shear_deg": 22.0,
    "scale_share": 0.35,
    "shift_px": 4.0,
}
ELASTIC_CELLS = 6  # control points a side; a smooth field, as in Simard et al. 2003


def change_shape(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Change shape and stroke width of each image, each in its own random way.

    Args:
        pixels: Shape (N, 1, 28, 28), float, 0..1.
        recipe: Gives the limits of every random number.
        generator: Source of randomness, on the device of ``pixels``.

    Returns:
        The changed images, same shape and range.
    """
    warped = warp(pixels, recipe, generator)
    n_wide = round(recipe.wide_share * len(pixels))
    if n_wide:
        order = torch.randperm(len(pixels), generator=generator, device=pixels.device)
        wide = dataclasses.replace(recipe, **WIDE)
        warped[order[:n_wide]] = warp(warped[order[:n_wide]], wide, generator)
    if recipe.stroke_share:
        warped = change_strokes(warped, recipe.stroke_share, generator)
    return warped


def warp(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Warp each image by its own random affine map and elastic field."""
    affine = draw_affine(len(pixels), recipe, generator)  # (N, 2, 3)
    grid = functional.affine_grid(affine, list(pixels.shape), align_corners=False)  # (N, 28, 28, 2)
    grid = grid + draw_elastic(pixels.shape, recipe, generator)
    return functional.grid_sample(pixels, grid, align_corners=False)


def draw_affine(n: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Draw n maps from output to input coordinates, shape (N, 2, 3), in halves of an image side."""
    spread = torch.rand(6, n, generator=generator, device=generator.device) * 2 - 1  # -1..1
    angle = spread[0] * math.radians(recipe.rotation_deg)
    shear = torch.tan(spread[1] * math.radians(recipe.shear_deg))
    scale_x, scale_y = torch.exp(spread[2:4] * math.log1p(recipe.scale_share))
    shift_x, shift_y = spread[4:6] * (recipe.shift_px * 2 / 28)
    cos, sin = torch.cos(angle), torch.sin(angle)
    first = torch.stack([scale_x * cos, scale_x * (shear * cos - sin), shift_x], dim=1)
    second = torch.stack([scale_y * sin, scale_y * (shear * sin + cos), shift_y], dim=1)
    return torch.stack([first, second], dim=1)


def draw_elastic(shape: torch.Size, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Draw smooth displacement fields, shape (N, 28, 28, 2), in halves of an image side."""
    coarse_shape = (shape[0], 2, ELASTIC_CELLS, ELASTIC_CELLS)
    coarse = torch.randn(coarse_shape, generator=generator, device=generator.device)
    field = functional.interpolate(coarse, size=shape[2:], mode="bicubic", align_corners=False)
    return field.permute(0, 2, 3, 1) * (recipe.elastic_px * 2 / 28)


def change_strokes(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Make the strokes of a share of the images thicker, and of as many thinner."""
    amount = draw(pixels, generator) * 0.9  # (N, 1, 1, 1)
    which = draw(pixels, generator).flatten()
    changed = pixels.clone()
    # Only the images that change: the pooling of whole batches was a seventh of a training step.
    for sign, rows in ((1, which < share), (-1, which > 1 - share)):
        target = sign * functional.max_pool2d(sign * pixels[rows], 3, stride=1, padding=1)
        changed[rows] = torch.lerp(pixels[rows], target, amount[rows])
    return changed
