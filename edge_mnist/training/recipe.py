"""Recipes: every number that decides the weights of a network."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from edge_mnist.errors import ModelError, UsageError


@dataclass(frozen=True)
class Recipe:
    """Every number that decides the weights; equal recipes on one machine give equal weights.

    Attributes:
        name: The preset this recipe started from.
        dataset: ``mnist``, ``digits``, or a folder with a folder of pictures for each class.
        network: Name of the network in ``edge_mnist.training.networks``.
        seed: Seed of the initial weights, the order of the images and the augmentation.
        epochs: Passes over the training split; the weights after the last one are the result.
        batch_size: Images in one optimizer step.
        learning_rate: Peak of the one-cycle schedule.
        warmup_share: Share of all steps in which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay.
        label_smoothing: Probability mass spread over the wrong classes, 0..1.
        average_share: The result is a moving average of the weights with a memory of this share
            of all steps.
        validation_share: Share of the official training images held out to choose on.
        rotation_deg: Largest rotation of an augmented image.
        shear_deg: Largest shear, as an angle.
        scale_share: Largest change of each side's length, 0.1 for 10 %.
        shift_px: Largest shift in each direction.
        elastic_px: Standard deviation of the smooth elastic displacement.
        stroke_share: Share of images whose strokes are made thicker, and of those made thinner.
        wide_share: Share of images that are turned, slanted, scaled and shifted far more.
        tone_share: Share of images that get noise, blur, fog, stripes or the like; see
            ``edge_mnist.training.tone``.
        outlier_share: Images that show no single digit, as a share of a batch; the network learns
            to be unsure of them.
        teacher: Model file whose probabilities are learned along with the labels, of one's own
            or among the released ones; empty for none.
        teacher_share: Weight of those probabilities beside the labels, 0..1.
        teacher_softness: They are taken at this temperature; above 1 the unlikely classes count.
        bfloat16: Multiply in bfloat16 where the processor can; pays for large networks.
    """

    name: str
    dataset: str = "mnist"
    network: str = "edge"
    seed: int = 0
    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 4e-3
    warmup_share: float = 0.2
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    average_share: float = 0.06
    validation_share: float = 1 / 12
    rotation_deg: float = 12.0
    shear_deg: float = 8.0
    scale_share: float = 0.12
    shift_px: float = 2.0
    elastic_px: float = 0.5
    stroke_share: float = 0.0
    wide_share: float = 0.0
    tone_share: float = 0.0
    outlier_share: float = 0.0
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
    "epochs": (1, 100_000),
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
    "teacher_share": (0, 1),
    "teacher_softness": (0.01, 100),
}
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
RECIPES = {
    recipe.name: recipe
    for recipe in (
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
        Recipe(name="max", network="max", epochs=40, stroke_share=0.12, bfloat16=True),
        Recipe(name="fast", epochs=5),
        # 1,300 images make few steps in an epoch, and small batches make more of them.
        Recipe(
            name="digits",
            dataset="digits",
            epochs=40,
            batch_size=32,
            stroke_share=0.12,
            tone_share=0.1,
        ),
    )
}


def find_recipe(name: str | None = None, **changes: str | int | float | bool | None) -> Recipe:
    """Return a preset with some numbers changed; a change to None is no change.

    Args:
        name: Name of the preset. None takes ``default`` for MNIST and ``digits``, made for few
            images, for any other data set.
        changes: New values for attributes of the recipe.

    Raises:
        UsageError: There is no such preset, or a number is out of its range.
    """
    name = name or ("default" if changes.get("dataset") in (None, "mnist") else "digits")
    if name not in RECIPES:
        raise UsageError(f"no recipe named {name!r}; there are: {', '.join(RECIPES)}")
    wanted: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    recipe = dataclasses.replace(RECIPES[name], **wanted)
    for key, (low, high) in RANGES.items():
        if not low <= getattr(recipe, key) <= high:
            raise UsageError(f"{key} {getattr(recipe, key)}: must be within {low} .. {high}")
    return recipe


def parse_changes(settings: Sequence[str]) -> dict[str, str | int | float | bool]:
    """Read changes to a recipe from ``KEY=VALUE`` texts, each value by its attribute's type.

    Raises:
        UsageError: A key is no attribute of a recipe, or its value is of another type.
    """
    types = {field.name: type(getattr(RECIPES["default"], field.name)) for field in fields(Recipe)}
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
            raise UsageError(f"--set {setting}: want true or false")
        return value.lower() == "true"
    try:
        return kind(value)  # type: ignore[no-any-return]
    except ValueError as error:
        raise UsageError(f"--set {setting}: want {kind.__name__}") from error


def parse_recipe(text: str) -> Recipe:
    """Read a recipe back from its JSON, whole or short.

    Raises:
        ModelError: Not JSON, or it has keys that this version does not know.
    """
    try:
        return Recipe(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise ModelError(f"not a recipe of this version: {error}") from error
