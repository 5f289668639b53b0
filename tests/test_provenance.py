"""A data set that changed since a training: said, and refused where test images were trained on."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from test_folder import SIGNS, write_signs

from edge_mnist.errors import DataError, ModelError, UsageError
from edge_mnist.exporting.convention import PixelConvention
from edge_mnist.exporting.onnx import export, open_source
from edge_mnist.model_file import (
    CHECKPOINT_NAME,
    FLOAT32_NAME,
    check_contract,
    read_model,
    shipped_folder,
)
from edge_mnist.training.checkpoint import load_checkpoint
from edge_mnist.training.cross_validation import cross_validate
from edge_mnist.training.datasets import (
    Dataset,
    hash_each_image,
    load_dataset,
    split_training,
)
from edge_mnist.training.networks import make_network
from edge_mnist.training.provenance import (
    TrainingData,
    compare_with_training,
    record_training_data,
)
from edge_mnist.training.recipes import Recipe, find_recipe
from edge_mnist.training.run import train
from edge_mnist.validation.validate import validate

EXPORTS = "exports"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set ``signs``, the run ``run`` and its ``exports``."""
    folder = tmp_path_factory.mktemp("trained")
    dataset = load_dataset(str(write_signs(folder / "signs", 30)))
    run = train(find_recipe("digits", dataset=dataset.name, epochs=1), dataset, out=folder / "run")
    export(run, folder=folder / EXPORTS)
    return folder


@pytest.fixture
def signs(trained: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be changed."""
    return Path(shutil.copytree(trained / "signs", tmp_path / "signs"))


def read_metadata(folder: Path) -> Mapping[str, str]:
    return check_contract(read_model(folder / FLOAT32_NAME)).metadata


def leak(trained: Path, signs: Path) -> int:
    """Lay a data set out in parts whose test part has pictures that were trained on."""
    before = load_dataset(str(trained / "signs"))
    for part in ("train", "test"):
        for name in SIGNS:
            (signs / part / name).mkdir(parents=True)
    for name in SIGNS:
        for number, path in enumerate(sorted((signs / name).glob("*.png"))):
            path.rename(signs / ("test" if number < 8 else "train") / name / path.name)
        (signs / name).rmdir()
    now = load_dataset(str(signs))
    known = {image.tobytes() for image in before.train_images}
    return sum(image.tobytes() in known for image in now.test_images)


def test_an_unchanged_folder_is_no_news(trained: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(trained / "signs", tmp_path / "elsewhere")
    for folder in (trained / "signs", moved):
        report = validate(trained / EXPORTS, load_dataset(str(folder)))
        assert [model.data_note for model in report.models] == [None]


def test_a_folder_that_has_grown_is_said(trained: Path, signs: Path) -> None:
    write_signs(signs.parent / "more", 3, seed=7)
    for path in (signs.parent / "more").rglob("*.png"):
        shutil.copy(path, signs / path.parent.name)
    exported = export(trained / "run", load_dataset(str(signs)), folder=signs.parent / "again")
    (said,) = (line for line in exported.to_text().splitlines() if line.startswith("note: "))
    assert f"was trained on {trained / 'signs'}, and is tested on {signs}" in said
    assert "trained on none of the" in said
    again = signs.parent / "again"
    card = (again / "MODEL_CARD.md").read_text()
    assert f"trained on `{trained / 'signs'}`. Tested on `{signs}`" in card
    # What the file says of its origin is still the data set of the training.
    about = read_metadata(again)
    assert about["dataset_sha256"] == load_dataset(str(trained / "signs")).sha256
    assert about["test_dataset"] == str(signs)


def test_test_images_that_were_trained_on_are_refused(
    trained: Path, signs: Path, edge_mnist: Command
) -> None:
    n_leaked = leak(trained, signs)
    assert n_leaked > 5
    message = rf"it was trained on {n_leaked} of the \d+ images that are in the test part now"
    dataset = load_dataset(str(signs))
    with pytest.raises(DataError, match=message):
        export(trained / "run", dataset, folder=signs.parent / "out")
    assert not (signs.parent / "out").exists()
    with pytest.raises(DataError, match=message):
        validate(trained / EXPORTS, dataset)  # against the checkpoint beside the model
    command = ("validate", trained / EXPORTS, "--dataset", signs, "--against", "reference")
    done = edge_mnist(*command)
    assert done.returncode == 3
    assert f"it was trained on {n_leaked} of the" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_run_does_not_go_on_with_other_images(trained: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(trained / "signs"))
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    recipe = find_recipe("digits", dataset=dataset.name, epochs=1)
    train(recipe, dataset, out=tmp_path / "run", resume=True)
    changed = dataclasses.replace(dataset, train_images=255 - dataset.train_images)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(DataError, match=r"changed since the run in .* was started"):
        train(recipe, changed, out=tmp_path / "run", resume=True)
    folds = dataclasses.replace(recipe, folds=2)
    cross_validate(folds, dataset, out=tmp_path / "folds")
    with pytest.raises(DataError, match=r"changed since the run in .*fold-1 was started"):
        cross_validate(folds, changed, out=tmp_path / "folds", resume=True)


def test_published_data_sets_pass(digits: Dataset) -> None:
    recorded = record_training_data(digits)
    assert recorded.sha256 == digits.sha256
    assert recorded.image_hashes is None
    assert compare_with_training(recorded, digits, "model.onnx") is None
    assert compare_with_training(TrainingData("digits"), digits, "model.onnx") is None  # of old
    released = load_checkpoint(shipped_folder() / "default" / CHECKPOINT_NAME).trained_on
    assert compare_with_training(released, digits, "default") is None
    some = {"test_images": digits.test_images[:99], "test_labels": digits.test_labels[:99]}
    part = dataclasses.replace(digits, **some)
    note = compare_with_training(recorded, part, "model.onnx")
    assert note == (
        "digits changed since model.onnx was trained; whether it was trained on images of the test "
        "part is not known"
    )


def test_mnist_passes(mnist: Dataset) -> None:
    """The released models know the data set they were trained on."""
    about = read_metadata(shipped_folder() / "default")
    trained_on = TrainingData(about["dataset"], about["dataset_sha256"])
    assert compare_with_training(trained_on, mnist, "default") is None


def test_other_classes_are_refused(trained: Path, edge_mnist: Command, digits: Dataset) -> None:
    with pytest.raises(ModelError, match=r"the 4 classes of .* are not the 10 of the data set"):
        validate(trained / EXPORTS, digits)
    done = edge_mnist("validate", trained / EXPORTS, "--dataset", "digits", "--self-test")
    assert done.returncode == UsageError.exit_code
    assert "--dataset has no effect with --self-test" in done.stderr


def test_another_training_makes_another_split(trained: Path) -> None:
    dataset = load_dataset(str(trained / "signs"))
    recipe = find_recipe("digits", dataset=dataset.name, epochs=1)
    first = train(recipe, dataset)
    assert first.dataset.held_out is not None
    larger = dataclasses.replace(recipe, validation_share=0.5)
    second = train(larger, first.dataset)
    assert second.dataset.held_out is not None
    assert len(second.dataset.held_out) > 2 * len(first.dataset.held_out)
    assert second.dataset.held_out.tolist() == split_training(dataset, larger)[1].tolist()


@pytest.mark.parametrize("has_validation_part", [False, True])
def test_a_bare_network_is_calibrated_on_what_a_training_holds_out(
    trained: Path, tmp_path: Path, *, has_validation_part: bool
) -> None:
    folder = trained / "signs"
    if has_validation_part:
        shutil.copytree(folder, tmp_path / "train")
        write_signs(tmp_path / "val", 4, seed=3)
        folder = tmp_path
    dataset = load_dataset(str(folder))
    usual = Recipe(name="")
    network = make_network(usual, len(SIGNS))
    source = open_source(network, dataset, PixelConvention(), force=True)  # it is untrained
    rows = split_training(dataset, usual)
    assert source.training_rows.tolist() == rows[0].tolist()
    assert source.held_out_rows.tolist() == rows[1].tolist()
    if has_validation_part:
        assert len(rows[1]) == 16


def test_hashes_survive_the_checkpoint(trained: Path) -> None:
    dataset = load_dataset(str(trained / "signs"))
    recorded = load_checkpoint(trained / "run" / CHECKPOINT_NAME).trained_on
    expected = record_training_data(dataset)
    assert recorded.name == expected.name
    assert recorded.sha256 == expected.sha256
    assert recorded.image_hashes is not None
    assert expected.image_hashes is not None
    assert np.array_equal(recorded.image_hashes, expected.image_hashes)
    assert len(recorded.image_hashes) == len(dataset.train_images)


def test_the_way_out_can_be_pasted(digits: Dataset) -> None:
    hashes = hash_each_image(digits.test_images, purpose="training")
    trained_on = TrainingData("my signs", "another", hashes)
    with pytest.raises(DataError, match="edge-mnist train --dataset 'my signs'"):
        compare_with_training(trained_on, dataclasses.replace(digits, name="my signs"), "m")
