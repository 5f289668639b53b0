"""Optimizers, and how their learning rate goes."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from edge_mnist.training.recipe import Recipe


def make_optimizer(recipe: Recipe, weights: Iterable[nn.Parameter]) -> Optimizer:
    """Return the recipe's optimizer for these weights."""
    usual: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return SGD(weights, momentum=recipe.momentum, **usual)
    if recipe.optimizer == "rmsprop":
        return RMSprop(weights, momentum=recipe.momentum, **usual)
    return (AdamW if recipe.optimizer == "adamw" else Adam)(weights, **usual)


def scale_rate(recipe: Recipe, *, epoch: int, done: float) -> float:
    """Return what the schedule multiplies the learning rate by, 0..1.

    Args:
        recipe: Names the schedule. ``plateau`` is constant here; it drops after an epoch.
        epoch: Number of the running epoch, from 0.
        done: Share of all steps of the training that are behind, 0..1.
    """
    schedules: dict[str, Callable[[], float]] = {
        "onecycle": lambda: _one_cycle(recipe, done),
        "cosine": lambda: _cosine(done),
        "step": lambda: recipe.drop_factor ** (epoch // recipe.step_epochs),
    }
    return schedules.get(recipe.schedule, lambda: 1.0)()


def _one_cycle(recipe: Recipe, done: float) -> float:
    if done < recipe.warmup_share:
        return done / recipe.warmup_share
    return _cosine((done - recipe.warmup_share) / (1 - recipe.warmup_share))


def _cosine(done: float) -> float:
    return (1 + math.cos(math.pi * done)) / 2
