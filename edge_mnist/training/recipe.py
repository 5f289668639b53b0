"""Recipes: every number that decides the weights of a network."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from edge_mnist.errors import ModelError, UsageError


@dataclass(frozen=True)
class Recipe:
    """Every number that decides the weights; equal recipes on one machine give equal weights.

    Attributes:
        name: The preset this recipe started from.
        dataset: One of ``training.data.DATASETS``, or a folder with a folder of pictures for each
            class.
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
        wide_share: Share of images that are turned, slanted, scaled and shifted far more.
        tone_share: Share of images that get noise, blur, fog, stripes or the like; see
            ``edge_mnist.training.tone``.
        outlier_share: Images that show no single digit, as a share of a batch; the network learns
            to be unsure of them.
        pixel_mean: Taken from every pixel, 0..1, before the network sees it.
        pixel_std: Every pixel is divided by this after that.
        dropout: Share of the features that are dropped before the last layer, in training only.
        batch_norm: Normalise after every layer but the last; without it layers have a bias.
        augment: Change shapes, strokes and tones at all; false overrules the numbers for those.
        oversample: Draw images so that every class comes equally often.
        folds: Train so many networks, each validated on another part of the training images; 0
            for one network and ``validation_share``.
        fold: Which of the folds this network is, from 1.
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
    "teacher_share": (0, 1),
    "teacher_softness": (0.01, 100),
}
CHOICES = {
    "optimizer": ("sgd", "adam", "adamw", "rmsprop"),
    "schedule": ("onecycle", "cosine", "constant", "step", "plateau"),
}


def check_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe that can be trained by.

    Raises:
        UsageError: A number is out of its range, or a name is none of those there are.
    """
    for key, (low, high) in RANGES.items():
        if not low <= getattr(recipe, key) <= high:  # written so that NaN fails too
            raise UsageError(f"{key} {getattr(recipe, key)}: must be within {low} .. {high}")
    for key, names in CHOICES.items():
        if getattr(recipe, key) not in names:
            raise UsageError(f"{key} {getattr(recipe, key)!r}: must be {', '.join(names)}")
    if recipe.folds == 1 or not 0 <= recipe.fold <= recipe.folds:
        raise UsageError(f"fold {recipe.fold} of {recipe.folds} folds: want two folds or more")
    return recipe


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
