"""The named recipes. A new one is one more entry here."""

import dataclasses
from typing import Any

from edge_mnist.errors import UsageError
from edge_mnist.training.recipe import Recipe, check_recipe

MAX_INT8 = "max/model.int8.onnx"  # twice as fast as float32, with the same answers
# Small networks lose more by large warps than they gain.
_SMALL_WARPS: dict[str, Any] = {
    "rotation_deg": 9.0,
    "shear_deg": 6.0,
    "scale_share": 0.09,
    "shift_px": 1.5,
}
# What people's own pictures need beyond the test set: any pen, any tone, and no digit at all.
_FOR_PICTURES: dict[str, Any] = {
    "wide_share": 0.06,
    "stroke_share": 0.12,
    "tone_share": 0.15,
    "outlier_share": 0.08,
}
_RELEASED = (
    Recipe(name="default", epochs=40, teacher=MAX_INT8, **_SMALL_WARPS, **_FOR_PICTURES),
    Recipe(
        name="nano",
        network="nano",
        epochs=80,
        label_smoothing=0.02,
        rotation_deg=8.0,
        shear_deg=6.0,
        scale_share=0.08,
        shift_px=1.5,
        elastic_px=0.4,
        stroke_share=0.06,
    ),
    Recipe(name="max", network="max", epochs=40, stroke_share=0.12, dropout=0.3, bfloat16=True),
    Recipe(name="fast", epochs=5),
)
_OTHER_DATA = (
    # 1,300 images make few steps in an epoch, and small batches make more of them.
    Recipe(
        name="digits", dataset="digits", epochs=40, batch_size=32, stroke_share=0.12, tone_share=0.1
    ),
    # What is not a digit has no teacher among the released models.
    Recipe(name="general", dataset="fashion-mnist", epochs=30, **_SMALL_WARPS),
)
# Networks, optimizers, batches and epochs as published; what was not said is ours.
_PLAIN: dict[str, Any] = {
    "batch_norm": False,
    "label_smoothing": 0.0,
    "weight_decay": 0.0,
    "average_share": 0.0,
    "augment": False,
}
_OURS: dict[str, Any] = {"batch_norm": False, "weight_decay": 0.0, **_SMALL_WARPS}
_CLASSICS = (
    Recipe(
        name="mlp-kfold",
        network="mlp",
        epochs=20,
        batch_size=20,
        optimizer="sgd",
        momentum=0.0,
        learning_rate=0.01,
        schedule="constant",
        oversample=True,
        folds=5,
        **_PLAIN,
    ),
    Recipe(
        name="conv4",
        network="conv4",
        epochs=20,
        batch_size=64,
        optimizer="sgd",
        learning_rate=0.01,
        schedule="step",
        step_epochs=15,
        bfloat16=True,
        **_OURS,
    ),
    Recipe(
        name="plateau",
        network="lenet-max",
        epochs=15,
        batch_size=64,
        optimizer="adam",
        learning_rate=2e-3,
        schedule="plateau",
        validation_share=0.2,
        pixel_mean=0.5,
        pixel_std=0.5,
        **_OURS,
    ),
    Recipe(
        name="lenet-avg",
        network="lenet-avg",
        epochs=10,
        batch_size=64,
        optimizer="adam",
        learning_rate=3e-3,
        **_OURS,
    ),
    Recipe(
        name="lenet-max",
        network="lenet-max",
        epochs=5,
        batch_size=64,
        optimizer="adam",
        learning_rate=3e-3,
        **_OURS,
    ),
)
RECIPES = {recipe.name: recipe for recipe in (*_RELEASED, *_OTHER_DATA, *_CLASSICS)}
# Test accuracy that the projects which these recipes come from published.
PUBLISHED = {"plateau": 0.9838, "lenet-avg": 0.9879, "lenet-max": 0.9893}

_DIGITS_LIKE_MNIST = (None, "mnist", "qmnist", "emnist-digits")
_MANY_IMAGES = ("fashion-mnist", "kmnist")


def find_recipe(name: str | None = None, **changes: str | int | float | bool | None) -> Recipe:
    """Return a preset with some numbers changed; a change to None is no change.

    Args:
        name: Name of the preset. None takes the one that suits the data set.
        changes: New values for attributes of the recipe.

    Raises:
        UsageError: There is no such preset, or a number is out of its range.
    """
    name = name or _suit(changes.get("dataset"))
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}; there are: {', '.join(RECIPES)}")
    wanted: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    return check_recipe(dataclasses.replace(RECIPES[name], **wanted))


def _suit(dataset: object) -> str:
    if dataset in _DIGITS_LIKE_MNIST:
        return "default"
    return "general" if dataset in _MANY_IMAGES else "digits"
