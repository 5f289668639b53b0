"""The networks and recipes, with their sizes and measured accuracy."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from edge_mnist.errors import ModelError
from edge_mnist.model_file import (
    FLOAT32_NAME,
    INT8_NAME,
    check_contract,
    read_model,
    shipped_folder,
)
from edge_mnist.training.networks import NETWORKS, make_network
from edge_mnist.training.recipes import RECIPES, Recipe

MEASURED = Path(__file__).with_name("measured.json")


@dataclass(frozen=True)
class NetworkEntry:
    """One network: its size for ten classes.

    Attributes:
        name: As a recipe names it.
        about: What it is for.
        n_weights: Numbers that training decides.
        n_multiply_adds: Multiplications of weights, for one image.
        best_recipe: The most accurate measured recipe that trains it, or None.
        accuracy: What that recipe reached, a fraction, or None.
    """

    name: str
    about: str
    n_weights: int
    n_multiply_adds: int
    best_recipe: str | None
    accuracy: float | None


@dataclass(frozen=True)
class RecipeEntry:
    """One recipe.

    ``accuracy`` is that of the model released from it, else the mean of the seeds that were
    measured; a fraction, or None.
    """

    name: str
    network: str
    dataset: str
    epochs: int
    n_weights: int
    n_multiply_adds: int
    accuracy: float | None


def list_networks() -> list[NetworkEntry]:
    """List every network."""
    recipes = list_recipes()
    return [_describe_network(name, recipes) for name in NETWORKS]


def list_recipes() -> list[RecipeEntry]:
    """List every recipe."""
    reached = dict(_read_measured()) | dict(_read_released())
    return [_describe_recipe(recipe, reached.get(name)) for name, recipe in RECIPES.items()]


def _describe_network(name: str, recipes: Sequence[RecipeEntry]) -> NetworkEntry:
    network = make_network(Recipe(name="", network=name))
    about = (NETWORKS[name].__doc__ or "").splitlines()[0].removeprefix("Return ").rstrip(".")
    measured = [one for one in recipes if one.network == name and one.accuracy]
    best = max(measured, key=lambda one: one.accuracy or 0, default=None)
    return NetworkEntry(
        name=name,
        about=about,
        n_weights=count_weights(network),
        n_multiply_adds=count_multiply_adds(network),
        best_recipe=best.name if best else None,
        accuracy=best.accuracy if best else None,
    )


def _describe_recipe(recipe: Recipe, accuracy: float | None) -> RecipeEntry:
    network = make_network(recipe)
    return RecipeEntry(
        name=recipe.name,
        network=recipe.network,
        dataset=recipe.dataset,
        epochs=recipe.epochs,
        n_weights=count_weights(network),
        n_multiply_adds=count_multiply_adds(network),
        accuracy=accuracy,
    )


def count_weights(network: nn.Module) -> int:
    """Count the numbers that training decides."""
    return sum(weight.numel() for weight in network.parameters())


def count_multiply_adds(network: nn.Module) -> int:
    """Count the multiplications of weights that one image takes, by running it."""
    counts: list[int] = []

    def count(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        places = prod(output.shape[2:])  # 1 for a dense layer
        counts.append(weight.numel() * places)

    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 1, 28, 28))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _read_released() -> Iterator[tuple[str, float]]:
    """Yield the recipe and the accuracy of every released model, from its metadata."""
    for part in ("default", "nano", "max"):
        for file in (FLOAT32_NAME, INT8_NAME):  # the wheel holds one of max's two
            try:
                metadata = check_contract(read_model(shipped_folder() / part / file)).metadata
            except ModelError:
                continue
            yield json.loads(metadata["recipe"])["name"], float(metadata["accuracy"])
            break


def _read_measured() -> Iterator[tuple[str, float]]:
    """Yield every recipe that benchmarks/measure_recipes.py has measured, and its mean accuracy."""
    for name, record in json.loads(MEASURED.read_text()).items():
        yield name, fmean(run["float32"] for run in record["runs"])
