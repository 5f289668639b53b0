"""Changes of shape as tensor work: a random warp and stroke width for each image of a batch."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edge_mnist.training.recipe import Recipe
from edge_mnist.training.tone import draw

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
