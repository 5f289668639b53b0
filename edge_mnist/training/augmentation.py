"""Augmentation of a batch on its device: every image gets random changes of its own.

Geometric augmentation (affine maps, elastic deformation, stroke width) stands for other hands and
pens. Photometric augmentation (blur, noise, fog, lines ...) stands for other cameras and papers: a
network trained on clean strokes alone takes fog, stripes or noise for ink.

Source: the photometric kinds follow N. Mu and J. Gilmer, MNIST-C: A Robustness Benchmark for
Computer Vision, 2019, with implementations and random severities of their own; the elastic
deformation follows P. Simard et al., Best Practices for Convolutional Neural Networks, 2003.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edge_mnist.picture.digit import SIDE_PX
from edge_mnist.training.recipes import Recipe

# Pixels (N, 1, 28, 28) in 0..1 in; the same shape out, still to be clamped to 0..1.
Transform = Callable[[Tensor, torch.Generator], Tensor]

PX = 2 / SIDE_PX  # one pixel in the coordinates of grid_sample, which run from -1 to 1
# Limits for the share ``wide_share`` of a batch: for pictures that were never framed like MNIST.
WIDE: dict[str, Any] = {
    "rotation_deg": 25.0,
    "shear_deg": 22.0,
    "scale_share": 0.35,
    "shift_px": 4.0,
}
ELASTIC_CELLS = 6  # control points along each side of the displacement field


def augment(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch as a recipe says, geometrically and then photometrically.

    Args:
        pixels: Shape (N, 1, 28, 28), float, 0..1.
        recipe: Gives the limits of every random number; without ``augment`` nothing changes.
        generator: Source of randomness, on the device of ``pixels``.

    Returns:
        The batch after the geometric augmentation alone, in which images are still clean, and
        after both; each of the same shape and range.
    """
    if not recipe.augment:
        return pixels, pixels
    clean = augment_geometric(pixels, recipe, generator)
    if not recipe.tone_share:
        return clean, clean
    return clean, augment_photometric(clean, recipe.tone_share, generator)


def augment_geometric(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Change the shape and stroke width of every image.

    Args:
        pixels: Shape (N, 1, 28, 28), float, 0..1.
        recipe: Gives the limits of every random number.
        generator: Source of randomness, on the device of ``pixels``.

    Returns:
        New images, same shape and range.
    """
    warped = _warp(pixels, recipe, generator)
    n_wide = round(recipe.wide_share * len(pixels))
    if n_wide:
        rows = torch.randperm(len(pixels), generator=generator, device=pixels.device)[:n_wide]
        warped[rows] = _warp(warped[rows], dataclasses.replace(recipe, **WIDE), generator)
    if recipe.stroke_share:
        warped = _vary_stroke_width(warped, recipe.stroke_share, generator)
    return warped


def augment_photometric(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Change the grey levels of a share of the images, an equal part of it by each transform.

    Args:
        pixels: Shape (N, 1, 28, 28), float, 0..1.
        share: Share of the images to change, 0..1.
        generator: Source of randomness, on the device of ``pixels``.

    Returns:
        New images, same shape and range.
    """
    order = torch.randperm(len(pixels), generator=generator, device=pixels.device)
    chosen = order[: round(share * len(pixels))]
    parts = chosen.tensor_split(len(PHOTOMETRIC_TRANSFORMS))
    changed = pixels.clone()
    for rows, transform in zip(parts, PHOTOMETRIC_TRANSFORMS, strict=True):
        if len(rows):
            changed[rows] = transform(pixels[rows], generator).clamp(0, 1)
    return changed


def _warp(pixels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Warp each image by a random affine map and a random elastic deformation."""
    affine = _random_affine(len(pixels), recipe, generator)  # (N, 2, 3)
    grid = functional.affine_grid(affine, list(pixels.shape), align_corners=False)  # (N, 28, 28, 2)
    grid = grid + _random_displacement(len(pixels), recipe, generator)
    return functional.grid_sample(pixels, grid, align_corners=False)


def _random_affine(n: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Draw n affine maps from output to input coordinates, shape (n, 2, 3)."""
    factors = torch.rand(6, n, generator=generator, device=generator.device) * 2 - 1  # -1..1
    angle = factors[0] * math.radians(recipe.rotation_deg)
    shear = torch.tan(factors[1] * math.radians(recipe.shear_deg))
    scale_x, scale_y = torch.exp(factors[2:4] * math.log1p(recipe.scale_share))
    shift_x, shift_y = factors[4:6] * (recipe.shift_px * 2 / SIDE_PX)
    cos, sin = torch.cos(angle), torch.sin(angle)
    first = torch.stack([scale_x * cos, scale_x * (shear * cos - sin), shift_x], dim=1)
    second = torch.stack([scale_y * sin, scale_y * (shear * sin + cos), shift_y], dim=1)
    return torch.stack([first, second], dim=1)


def _random_displacement(n: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Draw n smooth displacement fields for an elastic deformation, shape (n, 28, 28, 2)."""
    shape = (n, 2, ELASTIC_CELLS, ELASTIC_CELLS)
    coarse = torch.randn(shape, generator=generator, device=generator.device)
    field = functional.interpolate(
        coarse, size=(SIDE_PX, SIDE_PX), mode="bicubic", align_corners=False
    )
    return field.permute(0, 2, 3, 1) * (recipe.elastic_px * 2 / SIDE_PX)


def _vary_stroke_width(pixels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Dilate a share of the images and erode as many, each blended with the original."""
    amount = _uniform(pixels, generator) * 0.9  # (N, 1, 1, 1)
    choice = _uniform(pixels, generator).flatten()
    changed = pixels.clone()
    # Only the images that change: the pooling of whole batches was a seventh of a training step.
    for sign, rows in ((1, choice < share), (-1, choice > 1 - share)):
        target = sign * functional.max_pool2d(sign * pixels[rows], 3, stride=1, padding=1)
        changed[rows] = torch.lerp(pixels[rows], target, amount[rows])
    return changed


def defocus_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur by repeated 3x3 box filters, by up to about two pixels."""
    severity = _uniform(pixels, generator) * 2
    once = _box_blur(pixels)
    return torch.where(
        severity < 1,
        torch.lerp(pixels, once, severity),
        torch.lerp(once, _box_blur(_box_blur(once)), (severity - 1).clamp(0, 1)),
    )


def glass_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Frosted glass: take each pixel from a random neighbour, with or without a blur after it."""
    reach_px = 0.5 + 2.0 * _uniform(pixels, generator)
    shape = (len(pixels), SIDE_PX, SIDE_PX, 2)
    jitter = torch.rand(shape, generator=generator, device=pixels.device) * 2 - 1
    moved = functional.grid_sample(
        pixels, _identity_grid(pixels) + jitter * reach_px * PX, mode="nearest", align_corners=False
    )
    blurred = torch.lerp(moved, _box_blur(moved), 0.8)
    return torch.where(_uniform(pixels, generator) < 0.7, blurred, moved)


def motion_blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur along a line of up to eight pixels, in any direction."""
    n, n_taps = len(pixels), 7
    angle = _uniform(pixels, generator).view(n) * math.tau
    reach = _uniform(pixels, generator).view(n) * 4 * PX
    offset = torch.stack([angle.cos() * reach, angle.sin() * reach], dim=1).view(n, 1, 1, 2)
    identity = _identity_grid(pixels)
    grids = [identity + offset * (2 * tap / (n_taps - 1) - 1) for tap in range(n_taps)]
    shifted = [functional.grid_sample(pixels, grid, align_corners=False) for grid in grids]
    return torch.stack(shifted).mean(dim=0)


def gaussian_noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise: the same everywhere, or, like shot noise, growing with the level."""
    noise = torch.randn(pixels.shape, generator=generator, device=pixels.device)
    severity = 0.5 * _uniform(pixels, generator)
    by_level = torch.where(_uniform(pixels, generator) < 0.5, 1.0, pixels.sqrt())
    return pixels + noise * severity * by_level


def impulse_noise(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Salt-and-pepper noise: set some pixels to 0 and as many to 1."""
    level = torch.rand(pixels.shape, generator=generator, device=pixels.device)
    share = 0.2 * _uniform(pixels, generator)
    return torch.where(level < share, 0.0, torch.where(level > 1 - share, 1.0, pixels))


def fog(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blend with a cloud texture."""
    amount = 0.8 * _uniform(pixels, generator)
    return torch.lerp(pixels, _cloud_texture(pixels, generator), amount)


def brightness(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Add a constant; what exceeds 1 saturates."""
    return pixels + 0.7 * _uniform(pixels, generator)


def contrast(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Reduce the contrast between ink and background."""
    return pixels * (1 - 0.75 * _uniform(pixels, generator))


def stripe(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Invert a band of columns or rows, or all but a band."""
    places = torch.arange(SIDE_PX, device=pixels.device)
    first, second = (SIDE_PX * _uniform(pixels, generator) for _ in range(2))
    columns = (places >= torch.minimum(first, second)) & (places < torch.maximum(first, second))
    columns = columns ^ (_uniform(pixels, generator) < 0.5)  # (N, 1, 1, 28)
    is_transposed = _uniform(pixels, generator) < 0.3
    band = torch.where(is_transposed, columns.transpose(2, 3), columns)  # (N, 1, 28, 28)
    return torch.where(band, 1 - pixels, pixels)


def line(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a line at any angle: straight or zigzag, solid or dotted, light or dark."""
    grid = _identity_grid(pixels) * (SIDE_PX / 2)  # pixels from the middle
    angle = (_uniform(pixels, generator) * math.tau).squeeze(1)
    along = grid[..., 0] * angle.cos() + grid[..., 1] * angle.sin()
    across = grid[..., 1] * angle.cos() - grid[..., 0] * angle.sin()
    period, amplitude, offset, duty, width, level = (
        low + (high - low) * _uniform(pixels, generator).squeeze(1)
        for low, high in ((3, 14), (-6, 8), (-9, 9), (0.3, 1.4), (0.6, 1.4), (-0.3, 1.6))
    )
    zigzag = 2 * ((along / period) % 1 - 0.5).abs() - 0.5
    on_line = (across - offset - amplitude.clamp(min=0) * zigzag).abs() < width
    on_line &= (along / period * 2) % 1 < duty
    return torch.where(on_line.unsqueeze(1), level.clamp(0, 1).unsqueeze(1), pixels)


def edges(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Keep the inner or the outer outline of the strokes only: a morphological gradient."""
    ink = (pixels > 0.2 + 0.5 * _uniform(pixels, generator)).float()
    eroded = -functional.max_pool2d(-ink, 3, stride=1, padding=1)
    dilated = functional.max_pool2d(ink, 3, stride=1, padding=1)
    return torch.where(_uniform(pixels, generator) < 0.5, ink - eroded, dilated - ink)


def spatter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Add drops, light or dark: blurred noise above a threshold."""
    noise = _box_blur(torch.randn(pixels.shape, generator=generator, device=pixels.device))
    drops = noise > 0.3 + 0.5 * _uniform(pixels, generator)
    level = (1.6 * _uniform(pixels, generator) - 0.3).clamp(0, 1)
    return torch.where(drops, torch.lerp(pixels, level, 0.9), pixels)


PHOTOMETRIC_TRANSFORMS: tuple[Transform, ...] = (
    defocus_blur, glass_blur, motion_blur, gaussian_noise, impulse_noise, fog, fog, brightness,
    contrast, stripe, line, edges, spatter,
)  # fmt: skip


def _uniform(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a number in 0..1 for each image, shape (N, 1, 1, 1)."""
    return torch.rand(len(pixels), 1, 1, 1, generator=generator, device=pixels.device)


def _cloud_texture(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw value noise of three octaves for each image, shape (N, 1, 28, 28), 0..1."""
    clouds = torch.zeros_like(pixels)
    for cells, weight in ((3, 1.0), (6, 0.5), (12, 0.3)):
        shape = (len(pixels), 1, cells, cells)
        coarse = torch.randn(shape, generator=generator, device=pixels.device)
        clouds += weight * functional.interpolate(
            coarse, size=(SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False
        )
    return torch.sigmoid(2 * clouds)


def _box_blur(pixels: Tensor) -> Tensor:
    """Average each pixel with its eight neighbours."""
    return functional.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)


def _identity_grid(pixels: Tensor) -> Tensor:
    """Return every pixel's own coordinates for grid_sample, shape (1, 28, 28, 2), x before y."""
    sides = (torch.arange(SIDE_PX, device=pixels.device) * 2 + 1) / SIDE_PX - 1
    rows, columns = torch.meshgrid(sides, sides, indexing="ij")
    return torch.stack([columns, rows], dim=2).unsqueeze(0)
