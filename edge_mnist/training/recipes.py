"""Recipes: every number that decides the weights of a network, and the named presets."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from edge_mnist.errors import ModelError, UsageError, check_integer, check_number


@dataclass(frozen=True)
class Recipe:
    """Every number that decides the weights; equal recipes on one machine give equal weights.

    Attributes:
        name: The preset this recipe started from.
        dataset: One of ``training.datasets.DATASETS``, or a folder with a folder of pictures for
            each class.
        network: Name of the network in ``edge_mnist.training.networks``.
        seed: Seed of the initial weights, the order of the images and the augmentation.
        epochs: Passes over the training split; the weights after the last one are the result.
        batch_size: Images in one optimizer step.
        optimizer: ``sgd``, ``adam``, ``adamw`` or ``rmsprop``.
        momentum: Of ``sgd`` and ``rmsprop``.
        learning_rate: The largest that the schedule reaches.
        schedule: ``onecycle``, ``cosine``, ``constant``, ``step`` or ``plateau``.
        warmup_share: Share of all steps in which ``onecycle`` rises.
        step_epochs: Epochs between two drops of ``step``.
        patience_epochs: Epochs without a lower validation loss that ``plateau`` waits for a drop.
        drop_factor: What a drop multiplies the learning rate by.
        weight_decay: Pull of every weight towards 0; decoupled from the gradient in ``adamw``.
        label_smoothing: Probability mass spread over the wrong classes, 0..1.
        average_share: The result is a moving average of the weights with a memory of this share
            of all steps; 0 for the weights as they are.
        validation_share: Share of the official training images held out to choose on.
        rotation_deg: Largest rotation of an augmented image.
        shear_deg: Largest shear, as an angle.
        scale_share: Largest change of each side's length, 0.1 for 10 %.
        shift_px: Largest shift in each direction.
        elastic_px: Standard deviation of the smooth elastic displacement.
        stroke_share: Share of images whose strokes are made thicker, and of those made thinner.
        wide_share: Share of images that are rotated, sheared, scaled and shifted far more.
        tone_share: Share of images with photometric augmentation: noise, blur, fog, stripes or the
            like; see ``edge_mnist.training.augmentation``.
        outlier_share: Outliers, images that show no single digit, as a share of a batch; the
            network learns the same probability for every class.
        outlier_weight: Of their loss beside that of the labelled images.
        handwriting_share: Further images in a batch that are drawn from the pen strokes of
            UNIPEN's digits, as a share of it; 0 trains without UNIPEN.
        coarse_share: Share of those that are as in a scan of few pixels.
        letter_share: Share of the outliers that are letters and signs of UNIPEN; counts only
            beside a ``handwriting_share``.
        thin_share: Further images in a batch that are redrawn in thin strokes, as a share of it.
        pixel_mean: Subtracted from every pixel, 0..1.
        pixel_std: Every pixel is divided by this after that.
        dropout: Share of the features that are dropped before the last layer, in training only.
        batch_norm: Normalise after every layer but the last; without it layers have a bias.
        augment: Augment at all; false overrules the numbers for it.
        oversample: Draw images so that classes are equally frequent.
        folds: Train so many networks, each validated on another part of the training images; 0
            for one network and ``validation_share``.
        fold: Which of the folds this network is, from 1.
        teacher: Model file whose probabilities are learned along with the labels, or a released
            model; empty for none.
        teacher_share: Weight of those probabilities beside the labels, 0..1.
        teacher_softness: Temperature of the teacher; above 1 the unlikely classes count more.
        bfloat16: Multiply in bfloat16 where the processor can; pays for large networks.
    """

    name: str
    dataset: str = "mnist"
    network: str = "edge"
    seed: int = 0
    epochs: int = 8
    batch_size: int = 128
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate: float = 4e-3
    schedule: str = "onecycle"
    warmup_share: float = 0.2
    step_epochs: int = 15
    patience_epochs: int = 5
    drop_factor: float = 0.1
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    average_share: float = 0.06
    validation_share: float = 1 / 12
    pixel_mean: float = 0.0
    pixel_std: float = 1.0
    dropout: float = 0.0
    batch_norm: bool = True
    augment: bool = True
    oversample: bool = False
    folds: int = 0
    fold: int = 0
    rotation_deg: float = 12.0
    shear_deg: float = 8.0
    scale_share: float = 0.12
    shift_px: float = 2.0
    elastic_px: float = 0.5
    stroke_share: float = 0.0
    wide_share: float = 0.0
    tone_share: float = 0.0
    outlier_share: float = 0.0
    outlier_weight: float = 0.3
    handwriting_share: float = 0.0
    coarse_share: float = 0.0
    letter_share: float = 0.0
    thin_share: float = 0.0
    teacher: str = ""
    teacher_share: float = 0.9
    teacher_softness: float = 2.0
    bfloat16: bool = False

    def to_json(self) -> str:
        """Return the recipe as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    def to_short_json(self) -> str:
        """Return what is not as usual, as JSON: in a small model file every number counts."""
        usual = dataclasses.asdict(Recipe(name=""))
        mine = dataclasses.asdict(self)
        return json.dumps({key: value for key, value in mine.items() if value != usual[key]})


RANGES: dict[str, tuple[float, float]] = {
    "rotation_deg": (0, 180),
    "shear_deg": (0, 80),
    "scale_share": (0, 0.9),
    "shift_px": (0, 28),
    "elastic_px": (0, 28),
    "fold": (0, 1000),
    "epochs": (1, 100_000),
    "momentum": (0, 0.9999),
    "learning_rate": (0, 1000),
    "step_epochs": (1, 100_000),
    "patience_epochs": (0, 100_000),
    "drop_factor": (0, 1),
    "weight_decay": (0, 1000),
    "pixel_mean": (-10, 10),
    "pixel_std": (1e-3, 1e3),
    "dropout": (0, 0.99),
    "folds": (0, 1000),
    "seed": (0, 2**31 - 1),
    "batch_size": (2, 100_000),  # batch normalisation needs two
    "warmup_share": (0.001, 0.999),
    "label_smoothing": (0, 1),
    "average_share": (0, 1),
    "validation_share": (0.001, 0.9),
    "wide_share": (0, 1),
    "stroke_share": (0, 0.5),
    "tone_share": (0, 1),
    "outlier_share": (0, 1),
    "outlier_weight": (0, 1000),
    "handwriting_share": (0, 1),
    "coarse_share": (0, 1),
    "letter_share": (0, 1),
    "thin_share": (0, 1),
    "teacher_share": (0, 1),
    "teacher_softness": (0.01, 100),
}
CHOICES = {
    "optimizer": ("sgd", "adam", "adamw", "rmsprop"),
    "schedule": ("onecycle", "cosine", "constant", "step", "plateau"),
}


def check_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe that can be trained by, its numbers as Python's.

    Raises:
        UsageError: A value is of another type or out of its range, or a name is none of those
            there are.
    """
    usual = dataclasses.asdict(Recipe(name=""))
    checked = {key: _check_value(key, getattr(recipe, key), type(usual[key])) for key in usual}
    recipe = Recipe(**checked)
    for key, names in CHOICES.items():
        if getattr(recipe, key) not in names:
            raise UsageError(
                f"{key}: expected one of {', '.join(names)}, got {getattr(recipe, key)!r}"
            )
    if recipe.folds == 1 or not 0 <= recipe.fold <= recipe.folds:
        raise UsageError(f"expected two folds or more, got fold {recipe.fold} of {recipe.folds}")
    return recipe


def _check_value(key: str, value: Any, kind: type) -> Any:
    """Return the value of one attribute; see ``check_recipe``."""
    if kind not in (int, float):
        if not isinstance(value, kind):
            raise UsageError(f"{key}: expected {kind.__name__}, got {value!r}")
        return value
    low, high = RANGES[key]
    if kind is int:
        return check_integer(key, value, int(low), int(high))
    return check_number(key, value, low, high)


def parse_changes(settings: Sequence[str]) -> dict[str, str | int | float | bool]:
    """Read changes to a recipe from ``KEY=VALUE`` texts, each value by its attribute's type.

    Raises:
        UsageError: A key is no attribute of a recipe, or its value is of another type.
    """
    types = {field.name: type(getattr(Recipe(name=""), field.name)) for field in fields(Recipe)}
    changes: dict[str, str | int | float | bool] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in types or key == "name":
            known = ", ".join(name for name in types if name != "name")
            raise UsageError(f"--set {setting}: a recipe has no {key!r}; there are: {known}")
        changes[key] = _parse_value(setting, value, types[key])
    return changes


def _parse_value(setting: str, value: str, kind: type) -> str | int | float | bool:
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise UsageError(f"--set {setting}: expected true or false")
        return value.lower() == "true"
    try:
        return kind(value)  # type: ignore[no-any-return]
    except ValueError as error:
        raise UsageError(f"--set {setting}: expected {kind.__name__}") from error


def parse_recipe(text: str) -> Recipe:
    """Read a recipe back from its JSON, whole or short.

    Raises:
        ModelError: Not JSON, or it has keys that this version does not know.
    """
    try:
        return Recipe(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ModelError(f"not a recipe of this version: {error}") from error


MAX_INT8 = "max/model.int8.onnx"  # twice as fast as float32, with the same answers
# Small networks lose more by large warps than they gain.
_SMALL_WARPS: dict[str, Any] = {
    "rotation_deg": 9.0,
    "shear_deg": 6.0,
    "scale_share": 0.09,
    "shift_px": 1.5,
}
# What people's own pictures need beyond the test set: any position, any width of the strokes.
_FOR_PICTURES: dict[str, Any] = {"wide_share": 0.06, "stroke_share": 0.12, "thin_share": 0.04}
_RELEASED = (
    Recipe(
        name="default",
        epochs=40,
        tone_share=0.15,
        outlier_share=0.16,
        handwriting_share=0.35,
        letter_share=0.6,
        teacher=MAX_INT8,
        bfloat16=True,
        **_SMALL_WARPS,
        **_FOR_PICTURES,
    ),
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
        # Smaller shares than the other released recipes', so that so few weights keep MNIST.
        outlier_share=0.1,
        outlier_weight=0.2,
        handwriting_share=0.25,
        letter_share=0.7,
        thin_share=0.04,
    ),
    Recipe(
        name="max",
        network="max",
        epochs=20,
        dropout=0.3,
        tone_share=0.08,
        outlier_share=0.1,
        handwriting_share=0.4,
        coarse_share=0.15,
        letter_share=0.7,
        bfloat16=True,
        **_FOR_PICTURES,
    ),
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
# Networks, optimizers, batches and epochs as published; the other numbers are ours.
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
    if name is None:
        name = _choose_preset(changes.get("dataset"))
    if not isinstance(name, str) or name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}; there are: {', '.join(RECIPES)}")
    given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    unknown = sorted(set(given) - {field.name for field in fields(Recipe)})
    if unknown:
        raise UsageError(f"a recipe has no {unknown[0]!r}")
    return check_recipe(dataclasses.replace(RECIPES[name], **given))


def _choose_preset(dataset: object) -> str:
    if dataset in _DIGITS_LIKE_MNIST:
        return "default"
    return "general" if dataset in _MANY_IMAGES else "digits"
