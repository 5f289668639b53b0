import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command

from edge_mnist.errors import DataError, ModelError, UsageError
from edge_mnist.model_file import CHECKPOINT_NAME
from edge_mnist.training.checkpoint import load_checkpoint
from edge_mnist.training.cross_validation import FoldsResult, cross_validate
from edge_mnist.training.datasets import Dataset, split_training
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.trainer import Trainer

CPU = torch.device("cpu")
THREE = find_recipe("digits", folds=3, epochs=1)


@pytest.fixture(scope="module")
def skewed(digits: Dataset) -> Dataset:
    """The digits, with one in ten of the nines left."""
    nines = np.flatnonzero(digits.train_labels == 9)
    gone = np.delete(nines, np.s_[::10])
    kept = np.setdiff1d(np.arange(len(digits.train_labels)), gone)
    return dataclasses.replace(
        digits, train_images=digits.train_images[kept], train_labels=digits.train_labels[kept]
    )


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> FoldsResult:
    return cross_validate(THREE, digits, out=tmp_path_factory.mktemp("folds"))


def test_folds_share_the_images_out(skewed: Dataset) -> None:
    labels = skewed.train_labels
    parts = []
    for fold in range(1, 6):
        recipe = dataclasses.replace(THREE, folds=5, fold=fold)
        train, validation = split_training(skewed, recipe)
        assert not set(train) & set(validation)
        assert len(train) + len(validation) == len(labels)
        assert abs(len(validation) - len(labels) / 5) <= 5
        of_each_class = np.bincount(labels[validation]) - np.bincount(labels) / 5
        assert np.abs(of_each_class).max() <= 1
        again = split_training(skewed, dataclasses.replace(recipe, seed=7))
        assert (again[1] == validation).all()
        parts.append(validation)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))


@pytest.mark.parametrize("changes", [{"fold": 2, "folds": 3}, {"validation_share": 0.2}])
def test_no_validation_image_is_trained_on_even_where_rare_classes_are_repeated(
    skewed: Dataset, changes: dict[str, float]
) -> None:
    # Each image gets its row number as its first two pixels, and keeps it: nothing is warped.
    images = skewed.train_images.copy()
    numbers = np.arange(len(images))
    images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
    numbered = dataclasses.replace(skewed, train_images=images)
    plain = find_recipe("digits", oversample=True, augment=False, batch_size=16, **changes)
    _, validation = split_training(skewed, plain)
    trainer = Trainer(plain, numbered, CPU)
    drawn, classes = [], []
    for _ in range(3):
        for pixels, targets in trainer.draw_batches():
            levels = (pixels[:, 0, 0, :2] * 255).round().long()
            drawn += (levels[:, 0] * 256 + levels[:, 1]).tolist()
            classes += targets.argmax(dim=1).tolist()
        trainer.epoch += 1
    assert len(drawn) > 1.9 * len(images)
    assert not set(drawn) & set(validation.tolist())
    assert (skewed.train_labels[drawn] == classes).all()
    shares = np.bincount(classes) / len(classes)
    assert 0.08 < shares.min() <= shares.max() < 0.12
    plainly = dataclasses.replace(plain, oversample=False)
    nines = sum(
        int((targets.argmax(dim=1) == 9).sum())
        for _, targets in Trainer(plainly, numbered, CPU).draw_batches()
    )
    assert nines < 0.03 * len(images)


def test_a_table_for_each_fold(folds: FoldsResult, digits: Dataset) -> None:
    assert [one.recipe.fold for one in folds.folds] == [1, 2, 3]
    accuracies = [one.validation_accuracy for one in folds.folds]
    assert folds.validation_mean == pytest.approx(np.mean(accuracies))
    assert folds.validation_std == pytest.approx(np.std(accuracies, ddof=1))
    assert len({load_checkpoint(find(folds, fold)).weights_sha256 for fold in (1, 2, 3)}) == 3
    saved = json.loads((Path(folds.folder) / "folds.json").read_text())
    assert saved["validation_mean"] == folds.validation_mean


def find(folds: FoldsResult, fold: int) -> Path:
    return Path(folds.folder) / f"fold-{fold}" / CHECKPOINT_NAME


def test_finished_folds_are_kept(folds: FoldsResult, digits: Dataset) -> None:
    times = [find(folds, fold).stat().st_mtime_ns for fold in (1, 2, 3)]
    again = cross_validate(THREE, digits, out=folds.folder, resume=True)
    assert again == folds
    assert [find(folds, fold).stat().st_mtime_ns for fold in (1, 2, 3)] == times
    other = dataclasses.replace(THREE, epochs=2)
    with pytest.raises(ModelError, match="another recipe"):
        cross_validate(other, digits, out=Path(folds.folder), resume=True)


def test_folds_go_on_after_a_kill_and_end_the_same(
    folds: FoldsResult, tmp_path: Path, edge_mnist: Command
) -> None:
    args = ("--recipe", "digits", "--folds", "3", "--epochs", "1")
    command = [sys.executable, "-m", "edge_mnist", "train", *args]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, env=os.environ)
    run = tmp_path / "runs" / "digits"
    while not (run / "fold-1" / "result.json").exists():
        assert process.poll() is None, "the folds ended before they could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "folds.json").exists()
    done = edge_mnist("train", "--resume", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["folds"]) == 3
    for fold in (1, 2, 3):
        checkpoint = load_checkpoint(run / f"fold-{fold}" / CHECKPOINT_NAME)
        assert checkpoint.weights_sha256 == load_checkpoint(find(folds, fold)).weights_sha256
    done = edge_mnist("train", "--resume")
    assert done.returncode == 3
    assert "no unfinished run" in done.stderr
    done = edge_mnist("export", "runs/digits/fold-2")
    assert done.returncode == 0, done.stderr


def test_folds_that_cannot_be(digits: Dataset, edge_mnist: Command) -> None:
    for wrong in ({"folds": 1}, {"folds": -1}, {"folds": 3, "fold": 4}, {"fold": 1}):
        with pytest.raises(UsageError, match="fold"):
            find_recipe("digits", **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="which of the 3 folds"):
        split_training(digits, THREE)
    few_labels = np.array([0, 0, 0, 1, 1])
    few = dataclasses.replace(digits, train_images=digits.train_images[:5], train_labels=few_labels)
    with pytest.raises(DataError, match="one has 2"):
        split_training(few, dataclasses.replace(THREE, fold=1))
    done = edge_mnist("train", "--dataset", "digits", "--folds", "1")
    assert done.returncode == 2
