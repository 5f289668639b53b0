"""A data set of one's own: invented signs, in every layout, and how a folder is split."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edge_mnist import Predictor
from edge_mnist.errors import DataError, ModelError
from edge_mnist.exporting.onnx import export
from edge_mnist.picture import read_picture
from edge_mnist.training.calibration import measure_confidences
from edge_mnist.training.datasets import load_dataset, split_training
from edge_mnist.training.networks import compute_logits
from edge_mnist.training.recipes import find_recipe
from edge_mnist.training.run import train

SIGNS = ("arrow", "cup", "gate", "wave")
SEVERAL_PARTS = ("%", "+", "-", ":", "=")
LINES: dict[str, list[list[tuple[float, float]]]] = {
    "arrow": [[(1, 5), (9, 5)], [(6, 2), (9, 5), (6, 8)]],
    "cup": [[(2, 2), (2, 8), (8, 8), (8, 2)]],
    "gate": [[(2, 9), (2, 1), (8, 1), (8, 9)], [(2, 5), (8, 5)]],
    "wave": [[(1, 6), (3, 3), (5, 6), (7, 3), (9, 6)]],
    "%": [[(2, 8), (8, 2)], [(2, 2), (3, 2), (3, 3), (2, 3), (2, 2)], [(7, 8), (8, 8), (8, 7)]],
    "+": [[(2, 5), (8, 5)], [(5, 2), (5, 8)]],
    "-": [[(3, 5), (7, 5)]],
    ":": [[(5, 2), (5, 3)], [(5, 7), (5, 8)]],
    "=": [[(2, 4), (8, 4)], [(2, 6), (8, 6)]],
}


def draw_sign(name: str, rng: np.random.Generator) -> Image.Image:
    """Draw a sign as a person might, each time a little differently, on a sheet of any size."""
    side = int(rng.integers(60, 200))
    sheet = Image.new("L", (side, side), 255)
    for line in LINES[name]:
        points = [tuple((np.array(point) + rng.normal(0, 0.2, 2)) * side / 10) for point in line]
        ImageDraw.Draw(sheet).line(points, fill=int(rng.integers(0, 90)), width=side // 14)
    return sheet


def write_signs(
    folder: Path, n_pictures: int, *, names: tuple[str, ...] = SIGNS, seed: int = 0
) -> Path:
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(n_pictures):
            draw_sign(name, rng).save(folder / name / f"{seed}-{number}.png")
    return folder


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_signs(tmp_path_factory.mktemp("data") / "signs", 60)
    (folder / "cup" / "broken.png").write_bytes(b"no picture")
    Image.new("L", (50, 50), 255).save(folder / "wave" / "empty.png")
    return folder


def images_of(images: NDArray[np.uint8]) -> set[bytes]:
    """Return images as something that sets can hold."""
    return {image.tobytes() for image in images}


def test_pictures_and_what_is_skipped(signs: Path) -> None:
    dataset = load_dataset(str(signs))
    assert dataset.class_names == SIGNS
    assert dataset.framing == "ink"
    assert len(dataset.train_images) + len(dataset.test_images) == 240
    assert 0.1 < len(dataset.test_images) / 240 < 0.3
    assert np.bincount(dataset.test_labels, minlength=4).min() >= 1
    broken, empty = dataset.skipped
    assert broken.startswith(f"{signs / 'cup' / 'broken.png'}: not a picture")
    assert empty == f"{signs / 'wave' / 'empty.png'}: blank"
    classes, parts = dataset.notes
    assert classes == "4 classes: arrow, cup, gate, wave"
    n_test = len(dataset.test_images)
    assert parts.startswith(
        f"240 pictures: {240 - n_test} to train on (the rest), {n_test} to test"
    )
    assert load_dataset(str(signs)).sha256 == dataset.sha256


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 folders"):
        load_dataset(str(tmp_path))
    write_signs(tmp_path, 5, names=SIGNS[:2])
    assert len(load_dataset(str(tmp_path)).test_images) in (2, 3, 4)
    for one in tmp_path.rglob("0-4.png"):
        shutil.copy(one.with_name("0-3.png"), one)
    with pytest.raises(DataError, match=r"arrow: 4 different readable pictures .* at least 5"):
        load_dataset(str(tmp_path))


def test_a_folder_may_be_named_like_a_data_set(
    signs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kmnist").symlink_to(signs)
    monkeypatch.chdir(tmp_path)
    dataset = load_dataset("./kmnist")
    assert dataset.name == "./kmnist"  # what a model keeps, and loads its data by again
    assert dataset.class_names == SIGNS


def test_other_pictures_come_and_go_and_nothing_changes_sides(tmp_path: Path) -> None:
    folder = write_signs(tmp_path / "signs", 60)
    before = load_dataset(str(folder))
    write_signs(tmp_path / "more", 40, seed=1)
    for name in SIGNS:
        for path in (tmp_path / "more" / name).iterdir():
            shutil.copy(path, folder / name)
    more = load_dataset(str(folder))
    assert len(more.train_images) + len(more.test_images) == 400
    assert images_of(before.train_images) < images_of(more.train_images)
    assert images_of(before.test_images) < images_of(more.test_images)
    for path in folder.rglob("0-*[02468].png"):
        path.rename(path.with_name(f"renamed {path.name}"))
    for path in folder.rglob("*[13579].png"):
        path.unlink()
    fewer = load_dataset(str(folder))
    assert len(fewer.train_images) + len(fewer.test_images) == 200
    assert images_of(fewer.train_images) < images_of(more.train_images)
    assert images_of(fewer.test_images) < images_of(more.test_images)
    # The same of the validation split.
    recipe = find_recipe("digits")
    sides = []
    for dataset in (more, fewer):
        rows = split_training(dataset, recipe)
        sides.append([images_of(dataset.train_images[side]) for side in rows])
    assert sides[1][0] < sides[0][0]
    assert sides[1][1] < sides[0][1]


def test_splits_by_content_have_about_their_share(signs: Path) -> None:
    dataset = load_dataset(str(signs))
    n_images = len(dataset.train_images)
    for share in (0.05, 0.2, 0.5, 0.9):
        recipe = find_recipe("digits", validation_share=share)
        train_rows, validation_rows = split_training(dataset, recipe)
        assert sorted([*train_rows, *validation_rows]) == list(range(n_images))
        assert abs(len(validation_rows) / n_images - share) < 0.1
        for rows in (train_rows, validation_rows):
            assert set(dataset.train_labels[rows]) == {0, 1, 2, 3}
    parts = []
    for fold in range(1, 5):
        recipe = find_recipe("digits", folds=4, fold=fold)
        train_rows, validation_rows = split_training(dataset, recipe)
        assert not set(train_rows) & set(validation_rows)
        assert np.ptp(np.bincount(dataset.train_labels[validation_rows])) <= 5
        parts += validation_rows.tolist()
    assert sorted(parts) == list(range(n_images))


def test_identical_pictures_stay_together(tmp_path: Path) -> None:
    folder = write_signs(tmp_path / "signs", 8)
    for path in list(folder.rglob("*.png")):
        for copy in range(3):  # also where the file is another one: a picture is its pixels
            Image.open(path).save(path.with_name(f"{path.stem}-{copy}.bmp"))
    dataset = load_dataset(str(folder))
    assert len(dataset.train_images) + len(dataset.test_images) == 4 * 8 * 4
    assert not images_of(dataset.train_images) & images_of(dataset.test_images)
    for changes in ({"validation_share": 0.3}, {"folds": 3, "fold": 2}):
        recipe = find_recipe("digits", **changes)  # type: ignore[arg-type]
        train_rows, validation_rows = split_training(dataset, recipe)
        validation = images_of(dataset.train_images[validation_rows])
        assert validation
        assert not images_of(dataset.train_images[train_rows]) & validation
    with pytest.raises(DataError, match="9 folds need as many images"):
        split_training(dataset, find_recipe("digits", folds=9, fold=1))


def test_a_picture_in_two_classes_is_said(tmp_path: Path) -> None:
    folder = write_signs(tmp_path / "signs", 8)
    shutil.copy(folder / "cup" / "0-0.png", folder / "wave" / "copy.png")
    dataset = load_dataset(str(folder))
    assert len(dataset.train_images) + len(dataset.test_images) == 33
    assert dataset.notes[2:] == (
        "1 pictures give the same image as one of another class; for example "
        f"{folder / 'cup' / '0-0.png'} and {folder / 'wave' / 'copy.png'}",
    )


@pytest.mark.parametrize("validation_name", [None, "val", "valid", "Validation"])
@pytest.mark.parametrize("test_name", ["test", "Testing", None])
def test_folders_for_the_parts(
    tmp_path: Path, validation_name: str | None, test_name: str | None
) -> None:
    write_signs(tmp_path / "train", 20)
    if test_name:
        write_signs(tmp_path / test_name, 6, seed=1)
    if validation_name:
        write_signs(tmp_path / validation_name, 4, seed=2)
    dataset = load_dataset(str(tmp_path))
    assert dataset.class_names == SIGNS
    assert dataset.skipped == ()
    everything = [dataset.train_images, dataset.test_images]
    for name, n_pictures, images in (
        ("train", 80, dataset.train_images if test_name else np.concatenate(everything)),
        (test_name, 24, dataset.test_images),
    ):
        if name:
            alone = load_dataset(str(tmp_path / name))
            found = images_of(np.concatenate([alone.train_images, alone.test_images]))
            assert len(found) == n_pictures
            assert found <= images_of(images)
            assert f"({name}/)" in dataset.notes[1]
    for changes in ({}, {"validation_share": 0.4}):
        train_rows, validation_rows = split_training(dataset, find_recipe("digits", **changes))
        if validation_name:
            assert dataset.validation_rows is not None
            assert validation_rows.tolist() == dataset.validation_rows.tolist()
            assert len(validation_rows) == 16
            assert f"16 to validate on ({validation_name}/)" in dataset.notes[1]
        else:
            assert dataset.validation_rows is None
        assert len(train_rows) + len(validation_rows) == len(dataset.train_images)
    if not test_name:
        assert 5 <= len(dataset.test_images) <= 30


def test_the_parts_have_no_picture_in_common(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "val", "test")):
        write_signs(tmp_path / part, 10, seed=seed)
    for source, target in (("test", "train"), ("test", "val"), ("val", "train")):
        shutil.copy(
            tmp_path / source / "cup" / f"{['train', 'val', 'test'].index(source)}-3.png",
            tmp_path / target / "cup" / f"from {source}.png",
        )
    dataset = load_dataset(str(tmp_path))
    assert (len(dataset.train_images), len(dataset.test_images)) == (80, 40)
    assert dataset.skipped == tuple(
        f"{tmp_path / target}/cup/from {source}.png: gives the same image as "
        f"{tmp_path / source / 'cup' / original}.png"
        for target, source, original in (
            ("val", "test", "2-3"),
            ("train", "test", "2-3"),
            ("train", "val", "1-3"),
        )
    )


def test_what_is_beside_the_parts_is_named(tmp_path: Path) -> None:
    write_signs(tmp_path / "train", 10)
    write_signs(tmp_path / "val", 10, seed=1)
    write_signs(tmp_path / "scans", 10, seed=2)
    (tmp_path / "test").mkdir()
    shutil.copy(tmp_path / "scans" / "cup" / "2-0.png", tmp_path / "test")
    shutil.copy(tmp_path / "scans" / "cup" / "2-1.png", tmp_path / "train")
    shutil.copy(tmp_path / "scans" / "cup" / "2-2.png", tmp_path)
    dataset = load_dataset(str(tmp_path))
    assert dataset.class_names == SIGNS
    assert len(dataset.train_images) + len(dataset.test_images) == 80
    assert dataset.skipped == (
        f"{tmp_path / '2-2.png'}: in no folder of a class",
        f"{tmp_path / 'scans'}: not a part of the data set, as train, test and val are",
        f"{tmp_path / 'test'}: no folder for each class, so its pictures have no label",
        f"{tmp_path / 'train' / '2-1.png'}: in no folder of a class",
    )


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_signs(tmp_path, 6, names=SIGNS[:2])
    (tmp_path / "arrow").rename(tmp_path / "train")
    assert load_dataset(str(tmp_path)).class_names == ("cup", "train")


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    write_signs(tmp_path / "train", 6, names=SIGNS[:3])
    write_signs(tmp_path / "test", 1, seed=1)
    with pytest.raises(DataError, match="test: the training part has no class wave"):
        load_dataset(str(tmp_path))
    shutil.rmtree(tmp_path / "test")
    (tmp_path / "test" / "cup").mkdir(parents=True)
    with pytest.raises(DataError, match="test: 0 readable pictures"):
        load_dataset(str(tmp_path))


def test_links_to_files_as_dvc_makes_them(tmp_path: Path) -> None:
    plain = load_dataset(str(write_signs(tmp_path / "plain", 8)))
    folder = tmp_path / "linked"
    for number, path in enumerate(sorted((tmp_path / "plain").rglob("*.png"))):
        target = tmp_path / "cache" / f"{number:032x}"  # DVC names a file by its MD5
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
        link = folder / path.relative_to(tmp_path / "plain")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    (folder / "cup" / "circle").symlink_to(folder)
    (folder / "cup" / "gone.png").symlink_to(tmp_path / "gone.png")
    (folder / "other").symlink_to(tmp_path / "plain" / "cup")
    (folder / "cup" / ".hidden").mkdir()
    (folder / "cup" / "notes.txt").touch()
    (folder / "cup" / "more.txt").touch()
    os.mkfifo(folder / "cup" / "pipe.png")
    dataset = load_dataset(str(folder))
    assert dataset.sha256 == plain.sha256
    assert set(dataset.skipped) == {
        f"{folder / 'other'}: links to folders are not followed",
        f"{folder / 'cup' / 'circle'}: links to folders are not followed",
        f"{folder / 'cup' / 'gone.png'}: a broken link",
        f"{folder / 'cup' / 'pipe.png'}: not a regular file",
        f"{folder / 'cup'}: 2 files with the suffix .txt, not a picture's",
    }


def test_folders_nested_deeper_than_python_calls(tmp_path: Path) -> None:
    folder = write_signs(tmp_path / "signs", 6)
    here = os.open(folder / "cup", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    try:
        dataset = load_dataset(str(folder))
    finally:  # pytest itself cannot delete it: Python's rmtree calls itself
        subprocess.run(["rm", "-rf", str(folder / "cup" / "d")], check=True)
    assert len(dataset.train_images) + len(dataset.test_images) == 24


def test_a_teacher_of_other_classes_is_refused(signs: Path, tmp_path: Path) -> None:
    recipe = find_recipe("digits", dataset=str(signs), teacher="max/model.int8.onnx")
    with pytest.raises(ModelError, match="has other classes"):
        train(recipe, load_dataset(str(signs)), out=tmp_path)


def test_signs_of_several_parts_all_the_way(edge_mnist: Command, tmp_path: Path) -> None:
    """What is measured is what predict does, with signs that are not in one piece."""
    folder = write_signs(tmp_path / "signs", 60, names=SEVERAL_PARTS)
    (folder / "+" / "broken.png").write_bytes(b"no picture")
    done = edge_mnist("train", "--dataset", folder, "--epochs", 25, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert "broken.png" in done.stderr
    assert "1 skipped" in done.stderr
    assert "5 classes: %, +, -, :, =" in done.stderr
    measured = json.loads(done.stdout)["test_accuracy"]
    assert measured > 0.9
    done = edge_mnist("export", "run", "--quantize", "--max-accuracy-lost", "0.1")
    assert done.returncode == 0, done.stderr
    assert edge_mnist("validate", "exports", "--max-accuracy-lost", "0.1").returncode == 0
    card = (tmp_path / "exports" / "MODEL_CARD.md").read_text()
    assert "one sign of the classes above per picture" in " ".join(card.split())
    assert "needs 299 images that the training held out" in " ".join(card.split())
    assert "digit" not in card.replace("recipe `digits`", "")
    # The very pictures of the test part, found by what the model sees of them, as files. None is
    # rejected: a threshold by twenty images would be one by chance.
    dataset = load_dataset(str(folder))
    predictor = Predictor(tmp_path / "exports")
    assert predictor.info.framing == "ink"
    tests = images_of(dataset.test_images)  # none of which is a training image
    paths = [
        path
        for path in sorted(folder.rglob("*-*.png"))
        if read_picture(path, framing="ink").image.tobytes() in tests
    ]
    assert len(paths) == len(dataset.test_images)
    answers = [predictor.predict(path) for path in paths]
    right = [one.name == path.parent.name for one, path in zip(answers, paths, strict=True)]
    assert np.mean(right) == pytest.approx(measured)
    # The command reads new ones by the same path.
    new = write_signs(tmp_path / "new", 4, names=SEVERAL_PARTS, seed=99)
    paths = sorted(new.rglob("*.png"))
    done = edge_mnist("predict", *paths, "--json")
    names = np.array([item["name"] for item in json.loads(done.stdout)["items"]])
    assert (names == [path.parent.name for path in paths]).mean() > 0.85


def test_what_train_says_is_rejected_is_what_predict_rejects(tmp_path: Path) -> None:
    for seed, (part, n_pictures) in enumerate((("train", 20), ("val", 62), ("test", 12))):
        write_signs(tmp_path / "signs" / part, n_pictures, names=SEVERAL_PARTS, seed=seed)
    dataset = load_dataset(str(tmp_path / "signs"))
    run = train(find_recipe("digits", dataset=dataset.name, epochs=6), dataset)
    calibration, logits = (
        run.checkpoint.calibration,
        compute_logits(run.network, dataset.test_images),
    )
    assert calibration.rejection_threshold > 0
    assert run.result.test_rejected == calibration.measure_rejected(logits)
    # A threshold that rejects some of so few pictures.
    confidences = measure_confidences(logits, calibration.temperature)
    strict = dataclasses.replace(
        calibration, rejection_threshold=float(np.quantile(confidences, 0.3))
    )
    checkpoint = dataclasses.replace(run.checkpoint, calibration=strict)
    exported = export(dataclasses.replace(run, checkpoint=checkpoint), folder=tmp_path / "out")
    (report,) = exported.validation.models
    assert report.accuracy is not None
    assert report.accuracy.rejected == pytest.approx(0.3, abs=0.02)
    paths = sorted((tmp_path / "signs" / "test").rglob("*.png"))
    predictor = Predictor(tmp_path / "out")
    answers = [predictor.predict(path) for path in paths]
    rejected = [one.status == "rejected" for one in answers]
    assert np.mean(rejected) == pytest.approx(report.accuracy.rejected, abs=1.5 / len(paths))
    assert {one.reason for one in answers} == {None, "none of the classes"}
    everything = Predictor(tmp_path / "out", accept_all=True)
    names = [everything.predict(path).name for path in paths]
    right = [name == path.parent.name for name, path in zip(names, paths, strict=True)]
    assert np.mean(right) == pytest.approx(run.result.test_accuracy)


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", "a\u2028b".encode()])
def test_a_name_that_no_model_file_can_hold(tmp_path: Path, name: bytes) -> None:
    """Such as one that is not UTF-8; else the training would end in an error, not begin with it."""
    folder = write_signs(tmp_path / "signs", 5)
    os.rename(folder / "cup", os.path.join(os.fsencode(folder), name))
    with pytest.raises(DataError, match="expected a class's name in UTF-8, without control"):
        load_dataset(str(folder))


def test_a_path_is_a_folder_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_signs(tmp_path / "kmnist", 5)
    monkeypatch.chdir(tmp_path)
    assert load_dataset(Path("kmnist")).name == os.path.join(".", "kmnist")
    assert load_dataset(tmp_path / "kmnist").name == str(tmp_path / "kmnist")
