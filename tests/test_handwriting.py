"""UNIPEN beside a data set: in the batches, in the calibration, in what a run and a card say."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIMITS, Command
from test_unipen import many_writers

from edge_mnist.errors import UsageError
from edge_mnist.exporting.onnx import export
from edge_mnist.predictor import Predictor
from edge_mnist.training import handwriting
from edge_mnist.training.calibration import MAX_REJECTED_SHARE, Validation, calibrate
from edge_mnist.training.checkpoint import load_checkpoint, save_checkpoint
from edge_mnist.training.datasets import Dataset
from edge_mnist.training.handwriting import Handwriting, Pool, make_thin_pool
from edge_mnist.training.recipes import Recipe, find_recipe
from edge_mnist.training.run import train
from edge_mnist.training.trainer import Trainer
from edge_mnist.training.unipen import Characters

CPU = torch.device("cpu")
RECIPE = find_recipe(
    dataset="digits",
    epochs=3,
    outlier_share=0.2,
    handwriting_share=0.3,
    letter_share=0.5,
    thin_share=0.1,
)


@pytest.fixture(autouse=True)
def _small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("N_DIGITS", "N_LETTERS", "N_THIN", "N_VALIDATION_LETTERS"):
        monkeypatch.setattr(handwriting, name, 40)


@pytest.fixture(scope="module")
def characters() -> Characters:
    """Sevens of many writers, and as many rings that pass for letters."""
    digits = many_writers()
    labels = digits.labels.copy()
    labels[1::2] = "H"
    return dataclasses.replace(digits, labels=labels)


def run_epochs(trainer: Trainer, n: int) -> None:
    for _ in range(n):
        trainer.run_epoch(lambda step, loss, seconds: None)


def test_a_pool_depends_on_seed_and_epoch_alone(digits: Dataset) -> None:
    def make() -> Pool:
        return make_thin_pool(digits.train_images, digits.train_labels, seed=3)

    pool = make()
    pools = [pool.draw_epoch(epoch) for epoch in range(3)]
    np.testing.assert_array_equal(pools[2].images, make().draw_epoch(2).images)
    # A quarter is new in each epoch.
    np.testing.assert_array_equal(pools[1].images[:-40], pools[0].images[40:])
    assert (pools[1].images[-40:] != pools[0].images[:40]).any()
    other = make_thin_pool(digits.train_images, digits.train_labels, seed=4).draw_epoch(0)
    assert (other.images != pools[0].images).any()


def test_batches_hold_every_source(digits: Dataset, characters: Characters) -> None:
    trainer = Trainer(RECIPE, digits, CPU, characters)
    pixels, targets = next(trainer.draw_batches())
    # 32 of the data set, 3 thin, 10 of UNIPEN; and 6 outliers, 3 of them letters.
    assert (len(targets), len(pixels)) == (45, 51)
    assert set(targets[35:].argmax(dim=1).tolist()) == {7}
    plain = dataclasses.replace(RECIPE, handwriting_share=0, thin_share=0)
    pixels, targets = next(Trainer(plain, digits, CPU).draw_batches())
    assert (len(targets), len(pixels)) == (32, 38)


def test_held_out_writers_are_not_trained_on(characters: Characters) -> None:
    source = Handwriting(characters)
    writers = characters.writers
    train_rows = source.digit_rows(source.split.train)
    held_out = source.digit_rows(source.split.validation)
    assert len(held_out)
    assert not set(writers[train_rows]) & set(writers[held_out])
    drawn = source.draw_held_out(source.split.validation)
    again = source.draw_held_out(source.split.validation)
    np.testing.assert_array_equal(drawn.images, again.images)
    assert len(drawn.labels) == 3 * len(held_out)


def test_resume_with_handwriting_ends_with_the_same_weights(
    digits: Dataset, characters: Characters, tmp_path: Path
) -> None:
    whole = Trainer(RECIPE, digits, CPU, characters)
    run_epochs(whole, 3)
    first = Trainer(RECIPE, digits, CPU, characters)
    run_epochs(first, 1)
    save_checkpoint(tmp_path / "checkpoint", first.checkpoint())
    resumed = Trainer(RECIPE, digits, CPU, characters)
    resumed.restore(load_checkpoint(tmp_path / "checkpoint"))
    run_epochs(resumed, 2)
    assert resumed.checkpoint().weights_sha256 == whole.checkpoint().weights_sha256


def test_a_teacher_that_never_saw_unipen_teaches_the_data_set_alone(
    digits: Dataset, characters: Characters, exports: Path
) -> None:
    recipe = dataclasses.replace(
        RECIPE, teacher=str(exports / "model.onnx"), teacher_share=1.0, label_smoothing=0.0
    )
    trainer = Trainer(recipe, digits, CPU, characters)
    _, targets = next(trainer.draw_batches())
    assert (targets[:32].amax(dim=1) < 1).all()
    assert (targets[32:].amax(dim=1) == 1).all()


def test_a_run_and_its_card_tell_of_unipen(
    digits: Dataset, characters: Characters, tmp_path: Path
) -> None:
    run = train(RECIPE, digits, handwriting=characters, out=tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["rejected_shares"]) == {"digits", "unipen"}
    assert all(share <= MAX_REJECTED_SHARE for share in result["rejected_shares"].values())
    assert result["handwriting_accuracy"] > 0.9
    assert result["n_handwriting_images"] > 0
    assert 0 <= result["letters_rejected"] <= 1
    export(run, folder=tmp_path / "exports", limits=LIMITS)
    card = (tmp_path / "exports" / "MODEL_CARD.md").read_text()
    for text in ("10.5281/zenodo.1195803", "CC BY 4.0", "handwriting_share=0", "Guyon"):
        assert text in card
    metadata = Predictor(tmp_path / "exports").info.metadata
    assert json.loads(metadata["rejected_shares"]) == result["rejected_shares"]


def test_cards_of_models_without_unipen_do_not_name_it(exports: Path) -> None:
    assert "UNIPEN" not in (exports / "MODEL_CARD.md").read_text()


def test_without_unipen_the_message_says_how_to_go_on(edge_mnist: Command, tmp_path: Path) -> None:
    command = ("train", "--dataset", "digits", "--epochs", 1, "--offline", "-q")
    empty = {"EDGE_MNIST_DATA": ""}
    done = edge_mnist(*command, "--set", "handwriting_share=0.3", env=empty)
    assert done.returncode == 3
    assert "UNIPEN" in done.stderr
    assert "--set handwriting_share=0" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert edge_mnist(*command, "--set", "handwriting_share=0", env=empty).returncode == 0


def test_other_classes_than_digits_are_refused(digits: Dataset, characters: Characters) -> None:
    clothes = dataclasses.replace(digits, name="clothes", class_names=tuple("abcdefghij"))
    with pytest.raises(UsageError, match=r"clothes has other classes.*handwriting_share=0"):
        Trainer(RECIPE, clothes, CPU, characters)


def make_validation(n: int, right: float, seed: int) -> Validation:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, n)
    logits = generator.normal(0, 1, (n, 10)).astype(np.float32)
    logits[np.arange(n), labels] += right
    return Validation(logits, labels)


def test_no_source_is_rejected_more_than_allowed() -> None:
    sure, unsure = make_validation(3000, 9, 0), make_validation(2000, 5, 1)
    both = calibrate({"sure": sure, "unsure": unsure})
    assert 0.003 < both.rejected_shares["unsure"] <= MAX_REJECTED_SHARE
    assert both.rejected_shares["sure"] < both.rejected_shares["unsure"]
    alone = calibrate({"sure": sure}, temperature=both.temperature)
    assert alone.rejection_threshold > both.rejection_threshold


def test_the_gpu_benchmark_runs_in_full_on_the_cpu(mnist: Dataset, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    command = [sys.executable, str(script), "--device", "cpu", "--minutes", "0.01"]
    command += ["--images", "1000", "--epochs", "1", "--seeds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sheet = json.loads((tmp_path / "gpu.json").read_text())
    assert set(sheet) > {"tests", "warm_up", "fast", "default", "providers", "max"}
    assert len(sheet["max"]["runs"]) == 1
    assert (tmp_path / "max-0" / "checkpoint.safetensors").exists()


def test_recipes_name_their_shares() -> None:
    assert Recipe(name="").handwriting_share == 0
    assert find_recipe("default").handwriting_share > 0
