"""Options that any recipe can take: each one does what it says, and goes the whole way to int8."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIMITS
from torch import nn

from edge_mnist.errors import ModelError, UsageError
from edge_mnist.exporting.onnx import export
from edge_mnist.model_file import CHECKPOINT_NAME
from edge_mnist.predictor import Predictor
from edge_mnist.training.checkpoint import load_checkpoint
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.networks import NETWORKS, make_network
from edge_mnist.training.recipes import CHOICES, RECIPES, Recipe, find_recipe
from edge_mnist.training.run import train
from edge_mnist.training.trainer import Trainer, make_optimizer, scale_rate

CPU = torch.device("cpu")
SHORT = find_recipe("digits", epochs=3)


def silent(step: int, loss: float, spent_s: float) -> None:
    pass


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_goes_to_int8(network: str, digits: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        SHORT,
        # After two, int8 loses more of residual than the gate allows: it has hardly learned.
        epochs={"max": 1, "conv4": 1, "residual": 4}.get(network, 2),
        network=network,
        batch_norm=network != "lenet-max",
        dropout=0.1,
        pixel_mean=0.5,
        pixel_std=0.5,
    )
    result = train(recipe, digits, out=tmp_path / "run")
    assert result.test_accuracy > 0.3
    checkpoint = tmp_path / "run" / CHECKPOINT_NAME
    export(checkpoint, digits, folder=tmp_path / "out", quantize=True, limits=LIMITS)
    float32, int8 = (Predictor(tmp_path / "out" / f"model{end}.onnx") for end in ("", ".int8"))
    assert int8.model.size_bytes < 0.45 * float32.model.size_bytes
    operators = {name for name in ("Sub", "Div") if name.encode() in float32.model.content}
    assert operators == {"Sub", "Div"}  # the file does its own normalisation


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_every_optimizer_learns_and_resumes(
    optimizer: str, digits: Dataset, tmp_path: Path
) -> None:
    rate = {"sgd": 0.05, "rmsprop": 5e-4}.get(optimizer, 4e-3)
    recipe = dataclasses.replace(SHORT, optimizer=optimizer, learning_rate=rate)
    whole = Trainer(recipe, digits, CPU)
    losses = [whole.run_epoch(silent).validation_loss for _ in range(3)]
    assert losses[-1] < 0.8
    half = Trainer(recipe, digits, CPU)
    half.run_epoch(silent)
    resumed = Trainer(recipe, digits, CPU)
    resumed.restore(half.checkpoint())
    assert [resumed.run_epoch(silent).validation_loss for _ in range(2)] == losses[1:]


def test_the_optimizers_are_what_they_are_called() -> None:
    kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
    for name, kind in kinds.items():
        recipe = dataclasses.replace(SHORT, optimizer=name, momentum=0.7, weight_decay=0.1)
        optimizer = make_optimizer(recipe, nn.Linear(2, 2).parameters())
        assert type(optimizer).__name__ == kind
        (group,) = optimizer.param_groups
        assert group["weight_decay"] == 0.1
        assert group.get("momentum", 0.7) == 0.7


def rates(**changes: object) -> list[float]:
    recipe = find_recipe("fast", epochs=10, **changes)  # type: ignore[arg-type]
    return [scale_rate(recipe, epoch=epoch, done=epoch / 10) for epoch in range(10)]


def test_schedules() -> None:
    assert rates(schedule="constant") == [1.0] * 10
    assert (
        rates(schedule="step", step_epochs=4, drop_factor=0.5) == [1] * 4 + [0.5] * 4 + [0.25] * 2
    )
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[5] == pytest.approx(0.5)
    rising = rates(schedule="onecycle", warmup_share=0.5)
    assert rising[:6] == sorted(rising[:6])
    assert rising[5:] == sorted(rising[5:], reverse=True)


def test_plateau_drops_when_nothing_gets_better_and_remembers_it(digits: Dataset) -> None:
    # So small a rate that the validation loss stands still.
    recipe = dataclasses.replace(
        SHORT,
        epochs=8,
        schedule="plateau",
        patience_epochs=1,
        learning_rate=1e-6,
        average_share=0.0,
        batch_norm=False,
        optimizer="sgd",
    )
    whole = Trainer(recipe, digits, CPU)
    rates = [whole.run_epoch(silent).learning_rate for _ in range(6)]
    assert rates[:3] == [1e-6] * 3
    assert rates[-1] < 0.2e-6
    half = Trainer(recipe, digits, CPU)
    for _ in range(4):
        half.run_epoch(silent)
    resumed = Trainer(recipe, digits, CPU)
    resumed.restore(half.checkpoint())
    assert [resumed.run_epoch(silent).learning_rate for _ in range(2)] == rates[4:]


def test_without_an_average_the_weights_are_the_last_ones(digits: Dataset) -> None:
    for share, same in ((0.0, True), (0.5, False)):
        trainer = Trainer(dataclasses.replace(SHORT, average_share=share), digits, CPU)
        trainer.run_epoch(silent)
        averaged, last = trainer.average.module.state_dict(), trainer.network.state_dict()
        assert all(torch.equal(averaged[name], last[name]) for name in last) == same


def test_without_augmentation_images_come_as_they_are(digits: Dataset) -> None:
    recipe = dataclasses.replace(SHORT, augment=False, tone_share=0.5, wide_share=0.5)
    pixels, _ = next(Trainer(recipe, digits, CPU).draw_batches())
    known = {image.tobytes() for image in digits.train_images}
    seen = (pixels[:, 0] * 255).round().to(torch.uint8).numpy()
    assert all(image.tobytes() in known for image in seen)


def test_dropout_and_batch_norm_are_in_the_network() -> None:
    for network in NETWORKS:
        recipe = Recipe(name="", network=network, dropout=0.25, batch_norm=False)
        kinds = [type(module).__name__ for module in make_network(recipe).modules()]
        assert kinds.count("Dropout") == 1
        assert not any(kind.startswith("BatchNorm") for kind in kinds)
        usual = make_network(Recipe(name="", network=network)).modules()
        assert any(type(module).__name__.startswith("BatchNorm") for module in usual)
    with pytest.raises(ModelError, match="no network named"):
        make_network(Recipe(name="", network="nothing"))


def test_normalised_pixels_have_another_mean_and_spread() -> None:
    recipe = Recipe(name="", pixel_mean=0.25, pixel_std=0.5)
    normalise = make_network(recipe).get_submodule("0")
    pixels = torch.tensor([0.0, 0.25, 1.0])
    assert normalise(pixels).tolist() == [-0.5, 0.0, 1.5]


def test_the_train_accuracy_is_of_the_images_as_they_came(digits: Dataset, tmp_path: Path) -> None:
    epoch = Trainer(SHORT, digits, CPU).run_epoch(silent)
    assert 0.2 < epoch.accuracy < 0.95
    assert epoch.accuracy * epoch.images_per_s * epoch.train_s == pytest.approx(
        round(epoch.accuracy * epoch.images_per_s * epoch.train_s), abs=1e-3
    )


def test_names_that_there_are_not() -> None:
    for changes in ({"optimizer": "best"}, {"schedule": "none"}):
        with pytest.raises(UsageError, match="expected one of"):
            find_recipe("fast", **changes)  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match="learning_rate: expected a number from 0 to 1000, got nan"
    ):
        find_recipe("fast", learning_rate=float("nan"))


def test_classic_recipes_are_as_published() -> None:
    conv4, plateau = RECIPES["conv4"], RECIPES["plateau"]
    assert (conv4.optimizer, conv4.momentum, conv4.step_epochs) == ("sgd", 0.9, 15)
    assert round(60_000 * plateau.validation_share) == 12_000
    convolutions = [
        module for module in make_network(conv4).modules() if isinstance(module, nn.Conv2d)
    ]
    assert [one.out_channels for one in convolutions] == [32, 64, 128, 256]
    dense = [module for module in make_network(conv4).modules() if isinstance(module, nn.Linear)]
    assert [one.in_features for one in dense] == [4096, 50]
    assert np.isclose(plateau.pixel_mean, 0.5)


def test_a_checkpoint_keeps_every_option(digits: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SHORT, epochs=1, network="residual", dropout=0.2, optimizer="sgd")
    train(recipe, digits, out=tmp_path)
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME).recipe == recipe
