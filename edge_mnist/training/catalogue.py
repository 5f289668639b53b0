"""The networks and recipes, with their sizes and measured accuracy.

Sizes come from a table, because counting them takes PyTorch's import of seconds;
``benchmarks/measure_sizes.py`` writes it. What is not in the table is counted.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from edge_mnist.errors import ModelError
from edge_mnist.model_file import (
    FLOAT32_NAME,
    INT8_NAME,
    RELEASED,
    check_contract,
    read_model,
    shipped_folder,
)
from edge_mnist.training.recipes import RECIPES, Recipe

MEASURED = Path(__file__).with_name("measured.json")
SIZES = Path(__file__).with_name("sizes.json")


@dataclass(frozen=True)
class NetworkEntry:
    """One network: its size for ten classes.

    Attributes:
        name: As a recipe names it.
        about: Its first line of documentation.
        n_weights: Numbers that training decides.
        n_multiply_adds: Multiplications of weights, for one image.
        best_recipe: The most accurate measured recipe that trains it, or None.
        accuracy: The accuracy of that recipe, a fraction, or None.
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

    ``accuracy`` is that of the model released from it, else the mean of the measured seeds; a
    fraction, or None.
    """

    name: str
    network: str
    dataset: str
    epochs: int
    n_weights: int
    n_multiply_adds: int
    accuracy: float | None


@dataclass(frozen=True)
class Size:
    """The size of a network for ten classes."""

    n_weights: int
    n_multiply_adds: int
    about: str


@dataclass(frozen=True)
class NetworkList:
    """Every network; what ``edge-mnist models --json`` prints."""

    networks: tuple[NetworkEntry, ...]
    schema_version: int = 1


@dataclass(frozen=True)
class RecipeList:
    """Every recipe; what ``edge-mnist recipes --json`` prints."""

    recipes: tuple[RecipeEntry, ...]
    schema_version: int = 1


def list_networks() -> NetworkList:
    """List every network that recipes can train."""
    recipes, sizes = list_recipes().recipes, read_sizes()
    entries = []
    for name, size in sizes["networks"].items():
        measured = [one for one in recipes if one.network == name and one.accuracy]
        best = max(measured, key=lambda one: one.accuracy or 0, default=None)
        entries.append(
            NetworkEntry(
                name=name,
                about=size.about,
                n_weights=size.n_weights,
                n_multiply_adds=size.n_multiply_adds,
                best_recipe=best.name if best else None,
                accuracy=best.accuracy if best else None,
            )
        )
    return NetworkList(tuple(entries))


def list_recipes() -> RecipeList:
    """List every recipe."""
    accuracies = dict(_read_measured()) | dict(_read_released())
    sizes = read_sizes()["recipes"]
    return RecipeList(
        tuple(
            RecipeEntry(
                name=name,
                network=recipe.network,
                dataset=recipe.dataset,
                epochs=recipe.epochs,
                n_weights=sizes[name].n_weights,
                n_multiply_adds=sizes[name].n_multiply_adds,
                accuracy=accuracies.get(name),
            )
            for name, recipe in RECIPES.items()
        )
    )


def read_sizes() -> dict[str, dict[str, Size]]:
    """Return the sizes of all networks and recipes, from the table; count those it misses."""
    table = json.loads(SIZES.read_text())
    sizes = {
        kind: {name: Size(**size) for name, size in entries.items()}
        for kind, entries in table.items()
    }
    if not RECIPES.keys() <= sizes["recipes"].keys():
        sizes = count_sizes()
    return sizes


def count_sizes() -> dict[str, dict[str, Size]]:
    """Count the sizes of all networks and recipes, with PyTorch."""
    from edge_mnist.training.networks import NETWORKS

    by_network = {name: Recipe(name="", network=name) for name in NETWORKS}
    return {
        kind: {name: _count_size(recipe) for name, recipe in recipes.items()}
        for kind, recipes in {"networks": by_network, "recipes": RECIPES}.items()
    }


def _count_size(recipe: Recipe) -> Size:
    from edge_mnist.training.networks import (
        NETWORKS,
        count_multiply_adds,
        count_weights,
        make_network,
    )

    network = make_network(recipe)
    docstring = NETWORKS[recipe.network].__doc__ or ""
    about = docstring.splitlines()[0].removeprefix("Return ").rstrip(".")
    return Size(count_weights(network), count_multiply_adds(network), about)


def _read_released() -> Iterator[tuple[str, float]]:
    """Yield the recipe and the accuracy of every released model, from its metadata."""
    for name in RELEASED:
        for file in (FLOAT32_NAME, INT8_NAME):  # the wheel holds one of max's two
            try:
                metadata = check_contract(read_model(shipped_folder() / name / file)).metadata
            except ModelError:
                continue
            yield json.loads(metadata["recipe"])["name"], float(metadata["accuracy"])
            break


def _read_measured() -> Iterator[tuple[str, float]]:
    """Yield every recipe that benchmarks/measure_recipes.py measured, and its mean accuracy."""
    for name, record in json.loads(MEASURED.read_text()).items():
        yield name, fmean(run["float32"] for run in record["runs"])
