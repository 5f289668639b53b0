import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Command

from edge_mnist.predictor import Predictor
from edge_mnist.training.datasets import Dataset
from edge_mnist.validation.robustness import CORRUPTIONS, corrupt, measure_robustness


def test_corruptions_are_reproducible(digits: Dataset) -> None:
    originals = digits.test_images[:20]
    first, again = dict(corrupt(originals)), dict(corrupt(originals))
    other = dict(corrupt(originals, seed=1))
    assert list(first) == list(CORRUPTIONS)
    assert len(first) == 15
    for name, images in first.items():
        assert images.dtype == np.uint8
        assert images.shape == originals.shape
        np.testing.assert_array_equal(images, again[name])
        assert (images != originals).any(axis=(1, 2)).all(), name
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize("name", ["shear", "rotate", "scale", "translate"])
def test_geometric_corruptions_keep_the_digit_inside(digits: Dataset, name: str) -> None:
    images = digits.test_images[:50]
    corrupted = dict(corrupt(images))[name]
    kept = corrupted.sum(dtype=float) / images.sum(dtype=float)
    assert 0.4 < kept < 1.1  # scaled to 0.7 of the side, half of the ink is left


def test_corruptions_cost_accuracy(digits: Dataset, exports: Path) -> None:
    predictor = Predictor(exports)
    (found,) = measure_robustness([predictor], digits.test_images, digits.test_labels)
    assert found.pictures is not None
    assert found.pictures_mean is not None
    clean = (predictor.predict_images(digits.test_images)[0] == digits.test_labels).mean()
    assert set(found.images) == set(found.pictures) == set(CORRUPTIONS)
    assert found.images_mean == pytest.approx(np.mean(list(found.images.values())))
    assert 0.3 < found.images_mean < clean
    assert 0.1 < found.pictures_mean < found.images_mean  # rejected ones count as wrong


def test_validate_robustness(edge_mnist: Command, exports: Path) -> None:
    done = edge_mnist("validate", exports / "model.onnx", "--robustness", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["models"][0]["robustness"]
    assert set(found["images"]) == set(CORRUPTIONS)
    contradiction = edge_mnist("validate", exports, "--robustness", "--self-test")
    assert contradiction.returncode == 2
